package hastd

import (
	"context"
	"fmt"

	"hast/hastd/worker/ipc"
	"hast/proto"
)

// applySpec takes a new configuration over, in the least intrusive way that
// serves (HAST's reload): live, by a new connection, or by role init and back.
func (r *resource) applySpec(s *spec, how impact) error {
	role := r.roleNow()
	if how == impactRestart && role != proto.RoleInit {
		return r.applyRestart(s, role)
	}
	r.mu.Lock()
	r.spec = s
	r.mu.Unlock()
	w := r.proc()
	if w == nil || how == impactNone {
		return nil
	}
	m := &ipc.Message{Kind: ipc.KindSettings, Settings: &s.settings, Key: s.key, Force: how == impactReconnect}
	if err := w.conn.Send(m, sendTimeout); err != nil {
		return fmt.Errorf("resource %s: worker %d does not take the new settings: %w", s.name, w.pid, err)
	}
	return nil
}

// applyRestart ends the role, changes what can't change under a worker, and
// takes the role up again. A device in use refuses it, and the old settings stay.
func (r *resource) applyRestart(s *spec, role proto.Role) error {
	if err := r.changeRole(proto.RoleInit, false); err != nil {
		return fmt.Errorf("resource %s keeps its old settings: %w", s.name, err)
	}
	r.mu.Lock()
	r.spec = s
	r.mu.Unlock()
	if err := r.changeRole(role, false); err != nil {
		return fmt.Errorf("resource %s: role %s could not be taken up again: %w", s.name, role, err)
	}
	return nil
}

// removeResource forces a resource that left the configuration into role init and forgets it.
func (d *Daemon) removeResource(ctx context.Context, r *resource) error {
	name := r.current().name
	if err := r.submit(ctx, &operation{verb: verbRole, role: proto.RoleInit}); err != nil {
		return fmt.Errorf("resource %s left the configuration, but: %w", name, err)
	}
	err := r.submit(ctx, &operation{verb: verbStop})
	d.mu.Lock()
	delete(d.resources, name)
	d.mu.Unlock()
	d.hooks.forget(name)
	return err
}
