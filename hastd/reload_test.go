package hastd

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"hast/hastd/worker/ipc"
	"hast/proto"
)

// deaf stops r's worker and fills its socket, so that nothing more can be told to it.
func deaf(t *testing.T, r *resource) *workerProc {
	t.Helper()
	w := r.proc()
	freeze(t, w.pid)
	t.Cleanup(func() { syscall.Kill(w.pid, syscall.SIGCONT) })
	m := &ipc.Message{Kind: ipc.KindDetach, Text: strings.Repeat("x", 32<<10)} // of no consequence to a secondary
	for {
		err := w.conn.Send(m, 10*time.Millisecond)
		if errors.Is(err, ipc.ErrBusy) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for w.conn.Send(&ipc.Message{Kind: ipc.KindDetach}, 10*time.Millisecond) == nil {
	}
	return w
}

// TestSettingsFollowUntilTheWorkerHasThem: a worker that takes nothing when the configuration is read again gets the latest settings as soon as
// it does, once, with everything that any of the reloads asked of it.
func TestSettingsFollowUntilTheWorkerHasThem(t *testing.T) {
	fx := newFixture(t, fake{})
	r := fx.add("data", alone)
	fx.role(r, proto.RoleSecondary)
	w := deaf(t, r)
	change := func(mode proto.Mode, key string, how impact) error {
		s := *r.current()
		s.settings.Mode, s.key = mode, []byte(key)
		return r.reload(t.Context(), &s, how)
	}
	for _, err := range []error{change(proto.ModeMemsync, "first", impactReconnect), change(proto.ModeAsync, "second", impactLive)} {
		if err == nil || !strings.Contains(err.Error(), "until it does") {
			t.Fatalf("a worker that takes nothing: %v", err)
		}
	}
	time.Sleep(sendEvery + sendTimeout) // in vain
	syscall.Kill(w.pid, syscall.SIGCONT)
	eventually(t, "the latest settings", 3*sendEvery, func() bool { st, _ := w.snapshot(); return st.Mode == "async" })
	time.Sleep(2 * sendEvery)
	if st, _ := w.snapshot(); st.Why != "told 1 times; key second, force true" || r.proc() != w {
		t.Errorf("the worker was %s", st.Why)
	}
}

// A worker that dies before it could be told needs nothing more: its successor begins with the new settings.
func TestSettingsOfASuccessor(t *testing.T) {
	fx := newFixture(t, fake{})
	r := fx.add("data", alone)
	fx.role(r, proto.RoleSecondary)
	w := deaf(t, r)
	s := *r.current()
	s.settings.Mode = proto.ModeAsync
	if err := r.reload(t.Context(), &s, impactReconnect); err == nil {
		t.Fatal("a worker that takes nothing has taken the settings")
	}
	w.kill()
	eventually(t, "a successor", 5*time.Second, func() bool { n := r.proc(); return n != nil && n != w })
	next := r.proc()
	time.Sleep(2 * sendEvery)
	if st, _ := next.snapshot(); st.Mode != "async" || st.Why != "" || r.proc() != next {
		t.Errorf("the successor has mode %s and was %s", st.Mode, st.Why)
	}
	// Nor is it an error that the worker has died and nobody has noticed.
	s2 := s
	s2.settings.Mode = proto.ModeMemsync
	next.kill()
	<-next.done
	if err := r.reload(t.Context(), &s2, impactLive); err != nil {
		t.Errorf("a worker that is dead: %v", err)
	}
	eventually(t, "the next settings", 5*time.Second, func() bool {
		n := r.proc()
		if n == nil {
			return false
		}
		st, _ := n.snapshot()
		return st.Mode == "memsync"
	})
}

// A resource whose queue is full follows when it has worked it off, whether or not an older configuration waits in the queue.
func TestSettingsOfABusyResource(t *testing.T) {
	for _, older := range []bool{false, true} {
		fx := newFixture(t, fake{Silent: true})
		r := fx.add("data", func(s *spec) { s.timeout = time.Second })
		fx.role(r, proto.RoleSecondary)
		change := func(mode proto.Mode) error {
			s := *r.current()
			s.settings.Mode = mode
			return r.reload(t.Context(), &s, impactLive)
		}
		results := make(chan error, maxOps+1)
		go func() { results <- fx.tryRole(r, proto.RolePrimary, false) }() // asks the peer for a second
		eventually(t, "the promotion", 2*time.Second, func() bool { return r.phaseNow() == "asking the peer" })
		for i := range maxOps {
			go func() {
				if i == 0 && older {
					results <- change(proto.ModeMemsync)
				} else {
					results <- fx.tryRole(r, proto.RoleSecondary, false)
				}
			}()
		}
		eventually(t, "a full queue", time.Second, func() bool { return len(r.ops) == maxOps })
		if err := change(proto.ModeAsync); err == nil || !strings.Contains(err.Error(), "follow") {
			t.Errorf("a resource whose queue is full: %v", err)
		}
		for range maxOps + 1 {
			<-results
		}
		eventually(t, "the latest settings", 5*time.Second, func() bool {
			st, _ := r.proc().snapshot()
			return r.current().settings.Mode == proto.ModeAsync && st.Mode == "async"
		})
	}
}
