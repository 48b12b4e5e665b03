package hastd

import (
	"context"
	"errors"
	"fmt"

	"hast/proto"
	"hast/proto/ctl"
)

// The daemon as the control socket sees it (control.Backend). Nothing here
// waits for a worker, a peer or a hook without a deadline (rule 14).

// errNoResource answers requests for what is not configured.
func errNoResource(name string) error {
	return &ctl.Error{Code: proto.ExitNoResource, Message: fmt.Sprintf("no such resource: %s", name),
		Hint: "hastctl status shows those that are configured"}
}

// Daemon describes the process.
func (d *Daemon) Daemon() ctl.Daemon {
	d.mu.Lock()
	who := d.about
	d.mu.Unlock()
	who.LastEvent = d.events.last()
	return who
}

// Names lists the resources.
func (d *Daemon) Names() []string {
	list := d.all()
	names := make([]string, len(list))
	for i, r := range list {
		names[i] = r.current().name
	}
	return names
}

// Status tells how a resource is.
func (d *Daemon) Status(ctx context.Context, name string) (ctl.ResourceStatus, error) {
	r, ok := d.find(name)
	if !ok {
		return ctl.ResourceStatus{}, errNoResource(name)
	}
	return r.status(ctx), nil
}

// SetRole changes a role, and returns when that is done or refused.
func (d *Daemon) SetRole(ctx context.Context, name string, role proto.Role, force bool) error {
	r, ok := d.find(name)
	if !ok {
		return errNoResource(name)
	}
	d.mu.Lock()
	stopping := d.stopping
	d.mu.Unlock()
	if stopping {
		return &ctl.Error{Code: proto.ExitTemp, Message: "the daemon is stopping"}
	}
	if !role.Valid() {
		return &ctl.Error{Code: proto.ExitInvalid, Message: "unknown role", Hint: "use init, primary or secondary"}
	}
	err := r.submit(ctx, &operation{verb: verbRole, role: role, force: force})
	var e *ctl.Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return &ctl.Error{Code: proto.ExitRefused, Message: err.Error()}
}

// Phase tells what a change of role waits for.
func (d *Daemon) Phase(name string) string {
	if r, ok := d.find(name); ok {
		return r.phaseNow()
	}
	return ""
}

// Reload reads the configuration again.
func (d *Daemon) Reload(ctx context.Context) error {
	if err := d.reload(ctx); err != nil {
		return &ctl.Error{Code: proto.ExitConfig, Message: err.Error()}
	}
	return nil
}

// Stop ends all resources and then the daemon. With detach it is refused while a device can't be removed.
func (d *Daemon) Stop(_ context.Context, detach bool) error {
	return d.end(detach)
}

// Events passes events on as they happen.
func (d *Daemon) Events(ctx context.Context, since uint64) <-chan ctl.Event {
	old, fresh, cancel := d.events.subscribe(since)
	out := make(chan ctl.Event)
	go func() {
		defer close(out)
		defer cancel()
		for _, e := range old {
			if !give(ctx, out, e) {
				return
			}
		}
		for {
			select {
			case e, ok := <-fresh:
				if !ok || !give(ctx, out, e) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// give passes one event on unless the reader has gone.
func give(ctx context.Context, out chan<- ctl.Event, e event) bool {
	v := ctl.Event{ID: e.id, Time: e.at, Resource: e.resource, Event: e.name, Text: e.text, Fields: e.fields}
	select {
	case out <- v:
		return true
	case <-ctx.Done():
		return false
	}
}
