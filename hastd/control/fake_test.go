package control

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"hast/proto"
	"hast/proto/ctl"
)

// fake is a daemon whose resources can be made to hang.
type fake struct {
	mu     sync.Mutex
	names  []string
	stuck  map[string]bool // Status waits for its ctx, then gives the last known state
	dead   map[string]bool // Status disregards its ctx until release is closed
	asked  map[string]int
	role   map[string]proto.Role
	gate   chan struct{} // SetRole waits for it, if set
	stop   func(detach bool) error
	events []ctl.Event
	live   chan ctl.Event
	queue  int
	subs   int // readers of events so far

	release chan struct{}
}

func newFake(names ...string) *fake {
	return &fake{names: names, stuck: map[string]bool{}, dead: map[string]bool{}, asked: map[string]int{},
		role: map[string]proto.Role{}, release: make(chan struct{}), queue: 4}
}

func (f *fake) Daemon() ctl.Daemon {
	f.mu.Lock()
	defer f.mu.Unlock()
	return ctl.Daemon{Version: "test", Node: "hb1", LastEvent: uint64(len(f.events))}
}

func (f *fake) Names() []string { f.mu.Lock(); defer f.mu.Unlock(); return slices.Clone(f.names) }

func (f *fake) Phase(string) string { return "asking the peer" }

func (f *fake) Status(ctx context.Context, name string) (ctl.ResourceStatus, error) {
	f.mu.Lock()
	f.asked[name]++
	stuck, dead, role := f.stuck[name], f.dead[name], f.role[name]
	f.mu.Unlock()
	if !role.Valid() {
		role = proto.RoleInit
	}
	st := ctl.ResourceStatus{Role: role, State: ctl.StateInit, Mode: proto.ModeFullsync, Local: "/dev/x"}
	if dead {
		<-f.release
	}
	if stuck {
		<-ctx.Done()
		st.Stale, st.StaleSeconds = true, 7
	}
	return st, nil
}

func (f *fake) SetRole(ctx context.Context, name string, role proto.Role, force bool) error {
	f.mu.Lock()
	gate := f.gate
	f.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if role == proto.RolePrimary && !force {
		return errors.New("the peer is primary")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.role[name] = role
	return nil
}

func (f *fake) Reload(context.Context) error {
	return &ctl.Error{Code: proto.ExitConfig, Message: "bad file"}
}

func (f *fake) Stop(_ context.Context, detach bool) error { return f.stop(detach) }

// Events behaves as the daemon does: a bounded queue, closed when it overflows.
func (f *fake) Events(ctx context.Context, since uint64) <-chan ctl.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	ch := make(chan ctl.Event, f.queue+len(f.events))
	for _, e := range f.events {
		if e.ID > since {
			ch <- e
		}
	}
	f.live = ch
	f.subs++
	return ch
}

// emit adds an event, and drops the reader if it is behind.
func (f *fake) emit(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := ctl.Event{ID: uint64(len(f.events)) + 1, Time: time.Unix(1, 0).UTC(), Event: name}
	f.events = append(f.events, e)
	if f.live == nil {
		return
	}
	select {
	case f.live <- e:
	default:
		close(f.live)
		f.live = nil
	}
}

// serve runs a server for b until the test ends, and checks that it ends in time and takes its socket away.
func serve(t *testing.T, b Backend, change ...func(*Server)) (*ctl.Client, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Backend: b, Listener: l}
	for _, f := range change {
		f(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	c := ctl.NewClient(path)
	t.Cleanup(func() {
		c.Close()
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(5 * time.Second):
			t.Error("the server does not end")
		}
		if _, err := net.Dial("unix", path); err == nil {
			t.Error("the socket is still served")
		}
	})
	return c, path
}

func code(t *testing.T, err error) int {
	t.Helper()
	var e *ctl.Error
	if !errors.As(err, &e) {
		t.Fatalf("%v (%T) is not a *ctl.Error", err, err)
	}
	return e.Code
}
