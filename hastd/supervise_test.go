package hastd

import (
	"context"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"hast/proto"
)

func alone(s *spec) { s.remote = "" }

func servingNow(w *workerProc) bool { w.mu.Lock(); defer w.mu.Unlock(); return w.serving != nil }

func TestKilledWorkerIsReplacedWithinASecond(t *testing.T) {
	fx := newFixture(t, fake{})
	r := fx.add("data", alone)
	fx.role(r, proto.RolePrimary)
	sock := fx.runDir + "/data.nbd"
	if st, err := os.Stat(sock); err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("device socket: %v %v", st, err)
	}
	// Two: the third would come after a pause, because the test kills faster than a healthy worker lives.
	for range 2 {
		old := r.proc()
		begin := time.Now()
		syscall.Kill(old.pid, syscall.SIGKILL)
		eventually(t, "a successor", 5*time.Second, func() bool { w := r.proc(); return w != nil && w != old && servingNow(w) })
		if d := time.Since(begin); d > time.Second {
			t.Errorf("took %v, want at most a second", d)
		}
		if _, err := os.Stat(sock); err != nil {
			t.Error("the device vanished meanwhile:", err)
		}
	}
	if r.roleNow() != proto.RolePrimary {
		t.Error("role is", r.roleNow())
	}
	fx.role(r, proto.RoleInit)
	if _, err := os.Stat(sock); err == nil {
		t.Error("the device is still there in role init")
	}
}

func TestFinalExitLeadsToInitWithHookAndReason(t *testing.T) {
	fx := newFixture(t, fake{Exit: proto.ExitConfig, Fatal: "user hast is missing: useradd hast"})
	r := fx.add("data")
	err := fx.tryRole(r, proto.RoleSecondary, false)
	if err == nil || !strings.Contains(err.Error(), "useradd") {
		t.Fatalf("got %v", err)
	}
	if st := r.describe(time.Now()); st.Role != proto.RoleInit || st.Why == "" {
		t.Errorf("role %s, why %q", st.Role, st.Why)
	}
}

func TestDyingWorkerIsRetriedSlowly(t *testing.T) {
	fx := newFixture(t, fake{})
	r := fx.add("data", alone)
	fx.role(r, proto.RoleSecondary)
	var pids []int
	for end := time.Now().Add(1200 * time.Millisecond); time.Now().Before(end); {
		if w := r.proc(); w != nil {
			if len(pids) == 0 || pids[len(pids)-1] != w.pid {
				pids = append(pids, w.pid)
			}
			syscall.Kill(w.pid, syscall.SIGKILL)
		}
		time.Sleep(time.Millisecond)
	}
	// 100 + 200 + 400 ms ...: about four in that time, not hundreds.
	if n := len(pids); n < 2 || n > 6 {
		t.Errorf("%d workers in 1.2 s: %v", n, pids)
	}
}

func TestPromotionRules(t *testing.T) {
	for _, c := range []struct {
		name  string
		fake  fake
		dial  dialOutcome
		force bool
		want  string // "" = promoted
	}{
		{"peer silent", fake{Silent: true}, dialOutcome{dialSilent, "connection refused"}, false, "--force"},
		{"peer silent, forced", fake{Silent: true}, dialOutcome{dialSilent, "connection refused"}, true, ""},
		{"peer is init", fake{Silent: true}, dialOutcome{dialNotPrimary, "role init"}, false, ""},
		{"peer agrees", fake{Silent: true}, dialOutcome{kind: dialPassed}, false, ""},
		{"peer refuses", fake{Silent: true}, dialOutcome{dialRefused, "unknown resource"}, false, "unknown resource"},
		{"machine refuses", fake{Refuse: "the local copy is inconsistent"}, dialOutcome{dialSilent, "no"}, false, "inconsistent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			fx := newFixture(t, c.fake)
			fx.links.set(c.dial)
			r := fx.add("data", func(s *spec) { s.timeout = 700 * time.Millisecond })
			fx.role(r, proto.RoleSecondary)
			err := fx.tryRole(r, proto.RolePrimary, c.force)
			if c.want == "" {
				if err != nil || r.roleNow() != proto.RolePrimary {
					t.Fatalf("role %s, %v", r.roleNow(), err)
				}
				if st, _ := r.proc().snapshot(); st.Forced != c.force {
					t.Errorf("forced is %v", st.Forced)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			if _, e := os.Stat(fx.runDir + "/data.nbd"); e == nil {
				t.Error("the device exists although promotion was refused")
			}
			if r.roleNow() != proto.RoleSecondary || r.proc() == nil {
				t.Errorf("a refused promotion must leave the secondary: role %s", r.roleNow())
			}
		})
	}
}

func TestRoleHooksAndNoOp(t *testing.T) {
	fx := newFixture(t, fake{})
	r := fx.add("data", alone)
	fx.role(r, proto.RoleInit)
	fx.role(r, proto.RoleSecondary)
	fx.role(r, proto.RoleSecondary)
	fx.role(r, proto.RolePrimary)
	fx.role(r, proto.RoleInit)
	want := "role data init secondary; role data secondary primary; role data primary init"
	if got := strings.Join(fx.hooks.list(), "; "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestBusyDeviceIsNotTakenAway(t *testing.T) {
	fx := newFixture(t, fake{Busy: true})
	r := fx.add("data", alone)
	fx.role(r, proto.RolePrimary)
	pid := r.proc().pid
	if err := fx.tryRole(r, proto.RoleSecondary, false); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Fatalf("got %v", err)
	}
	if r.roleNow() != proto.RolePrimary || r.proc() == nil || r.proc().pid != pid {
		t.Error("a refused change of role changed something")
	}
	if err := fx.tryRole(r, proto.RoleSecondary, true); err != nil {
		t.Fatal(err)
	}
}

func TestStoppedWorkerBlocksNobody(t *testing.T) {
	fx := newFixture(t, fake{})
	stuck, other := fx.add("stuck", alone), fx.add("other", alone)
	fx.role(stuck, proto.RolePrimary)
	pid := stuck.proc().pid
	freeze(t, pid)
	defer syscall.Kill(pid, syscall.SIGKILL) // if the daemon did not
	begin := time.Now()
	for range 20 {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		stuck.proc().refresh(ctx)
		cancel()
	}
	fx.role(other, proto.RolePrimary)
	if d := time.Since(begin); d > 3*time.Second {
		t.Errorf("20 questions to a stopped worker and a role change elsewhere took %v", d)
	}
	syscall.Kill(pid, syscall.SIGCONT)
	eventually(t, "an answer after it goes on", 3*time.Second, func() bool {
		before := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		stuck.proc().refresh(ctx)
		_, heard := stuck.proc().snapshot()
		return heard.After(before)
	})
}

func TestPanicIsLoggedAndRetried(t *testing.T) {
	fx := newFixture(t, fake{Silent: true, Panic: true})
	fx.links.set(dialOutcome{dialNotPrimary, "role init"})
	r := fx.add("data")
	if err := fx.tryRole(r, proto.RolePrimary, false); err == nil || !strings.Contains(err.Error(), "died") {
		t.Fatalf("got %v", err)
	}
	if r.roleNow() != proto.RoleInit {
		t.Error("role is", r.roleNow())
	}
}

func TestLockOfAnotherProcessIsNamed(t *testing.T) {
	fx := newFixture(t, fake{})
	r := fx.add("data", alone)
	fx.role(r, proto.RoleSecondary)
	if _, held, err := lockedFile(r.spec.local); err == nil || !held {
		t.Fatal("the worker does not hold its backing device")
	}
	fx.role(r, proto.RoleInit)
	f, _, err := lockedFile(r.spec.local)
	if err != nil {
		t.Fatal("role init still holds the device:", err)
	}
	f.Close()
}

func TestReloadInTheLeastIntrusiveWay(t *testing.T) {
	fx := newFixture(t, fake{Busy: true})
	r := fx.add("data", alone)
	fx.role(r, proto.RolePrimary)
	pid := r.proc().pid
	apply := func(how impact, local string) error {
		s := *r.current()
		s.local = local
		return r.reload(t.Context(), &s, how)
	}
	if err := apply(impactLive, r.current().local); err != nil || r.proc().pid != pid {
		t.Fatalf("a live change replaced the worker or failed: %v", err)
	}
	if err := apply(impactRestart, "/elsewhere"); err == nil || r.current().local == "/elsewhere" || r.proc().pid != pid {
		t.Fatalf("a device in use must refuse a restart (%v)", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := fx.removeResource(ctx, r); err == nil {
		t.Fatal("a resource in use was removed")
	}
	if err := fx.tryRole(r, proto.RoleInit, true); err != nil {
		t.Fatal(err)
	}
	if err := fx.removeResource(ctx, r); err != nil {
		t.Fatal(err)
	}
	if _, ok := fx.find("data"); ok {
		t.Error("still there")
	}
}
