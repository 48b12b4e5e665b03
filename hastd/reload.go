package hastd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"hast/hastd/worker/ipc"
	"hast/proto"
)

// errKept: a resource in use could not follow the configuration. The next reload tries again.
var errKept = errors.New("keeps its old settings, until a reload when it is not in use")

// reload takes a new configuration over and waits for its result until ctx ends. Whatever the error says, it replaces the one
// before it as soon as the resource gets to it: nobody sends it a second time.
func (r *resource) reload(ctx context.Context, s *spec, how impact) error {
	r.mu.Lock()
	r.next, r.nextHow = s, max(r.nextHow, how)
	r.mu.Unlock()
	err := r.submit(ctx, &operation{verb: verbReload})
	if !errors.Is(err, errBusy) {
		return err
	}
	r.mu.Lock()
	r.nextLate = r.next != nil // an operation that was queued before may have taken it along
	r.mu.Unlock()
	r.poke()
	return fmt.Errorf("%w; the new settings follow then", err)
}

// applyNext takes the latest configuration over, if that has not been done already.
func (r *resource) applyNext() error {
	r.mu.Lock()
	s, how := r.next, r.nextHow
	r.next, r.nextHow, r.nextLate = nil, impactNone, false
	r.mu.Unlock()
	if s == nil {
		return nil
	}
	return r.applySpec(s, how)
}

// applyLate does so for a configuration that found the queue full. Nobody waits for its result any more.
func (r *resource) applyLate() {
	r.mu.Lock()
	late := r.nextLate
	r.mu.Unlock()
	if !late {
		return
	}
	if err := r.applyNext(); err != nil {
		r.log.Error("the configuration that was read again is not in force", "err", err)
	}
	r.setPhase("")
}

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
	owed := r.unsent.w == w && r.unsent.force
	r.unsent = unsent{w: w, force: how == impactReconnect || owed}
	if err := r.deliver(); err != nil {
		return fmt.Errorf("resource %s: worker %d does not take the new settings yet (%w); they are sent again until it does", s.name, w.pid, err)
	}
	return nil
}

// unsent is what a worker has not been told yet: that the present settings are others.
type unsent struct {
	w     *workerProc // nil: nothing
	force bool        // and that its connection is to begin anew
}

// sendEvery is how often settings are sent again: a worker that stood still follows as soon as anybody notices that it goes on,
// and what else is asked of the resource waits for at most sendTimeout in it.
const sendEvery = time.Second

// deliver sends the present settings to the worker that lacks them. If it can't, run tries again at sendAt. A worker that has been
// replaced needs nothing: its successor began with them.
func (r *resource) deliver() error {
	u := r.unsent
	r.unsent, r.sendAt = unsent{}, time.Time{}
	if u.w == nil || u.w != r.proc() || u.w.gone() {
		return nil
	}
	s := r.current()
	err := u.w.conn.Send(&ipc.Message{Kind: ipc.KindSettings, Settings: &s.settings, Key: s.key, Force: u.force}, sendTimeout)
	if err == nil {
		return nil
	}
	r.unsent, r.sendAt = u, time.Now().Add(sendEvery)
	if errors.Is(err, ipc.ErrBusy) {
		return err
	}
	return nil // it has closed its end: it is about to die, or is looked at again
}

// sendAgain is deliver when sendAt has come.
func (r *resource) sendAgain() {
	w := r.unsent.w
	if err := r.deliver(); err == nil && r.unsent.w == nil && w == r.proc() {
		r.log.Info("the worker takes its settings again, and has been told the new ones", "pid", w.pid)
	}
}

// applyRestart ends the role, changes what can't change under a worker, and
// takes the role up again. A device in use refuses it, and the old settings stay.
func (r *resource) applyRestart(s *spec, role proto.Role) error {
	if err := r.changeRole(proto.RoleInit, false); err != nil {
		return fmt.Errorf("resource %s %w: %w", s.name, errKept, err)
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
		return fmt.Errorf("resource %s left the configuration, but %w: %w", name, errKept, err)
	}
	err := r.submit(ctx, &operation{verb: verbStop})
	d.mu.Lock()
	delete(d.resources, name)
	d.mu.Unlock()
	d.hooks.forget(name)
	return err
}
