package control

import (
	"context"

	"hast/proto"
	"hast/proto/ctl"
)

// Backend is the daemon as the control socket sees it. All methods are called
// from many goroutines at once. Errors may be *ctl.Error to carry a code and a hint.
type Backend interface {
	// Daemon describes the process. It does not wait.
	Daemon() ctl.Daemon
	// Names returns the names of the configured resources, sorted. It does not wait.
	Names() []string
	// Status tells how a resource is. It may ask the worker; when ctx ends (after ctl.StatusWait) it returns
	// the last known state with Stale and StaleSeconds set. Status is filled in from State by the server.
	// It is never called twice at a time for one resource. An error means that there is no such resource.
	Status(ctx context.Context, name string) (ctl.ResourceStatus, error)
	// SetRole changes a role and returns when it is done or refused. It is bounded by the daemon's own
	// deadlines; ctx ends with the server's life. Requests for one resource are taken in turn by the backend.
	SetRole(ctx context.Context, name string, role proto.Role, force bool) error
	// Phase tells in a few words what a change of role of the resource waits for, "" for nothing. It does not wait.
	Phase(name string) string
	// Reload reads the configuration again; an error means that nothing has changed, or says what has not.
	Reload(ctx context.Context) error
	// Stop ends all resources. If it returns nil the daemon exits and ends the server's context, if it returns an error the
	// daemon goes on. Both within the daemon's own deadlines.
	Stop(ctx context.Context, detach bool) error
	// Events returns the kept events with an ID above since, then new ones as they happen. The channel is closed
	// when ctx ends, or earlier if the reader falls too far behind; sending never blocks the daemon.
	Events(ctx context.Context, since uint64) <-chan ctl.Event
}
