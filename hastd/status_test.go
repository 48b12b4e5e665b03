package hastd

import (
	"syscall"
	"testing"
	"time"

	"hast/hastd/worker/ipc"
	"hast/proto"
	"hast/proto/ctl"
)

func TestStatusIsBoundedAndMarkedStale(t *testing.T) {
	fx := newFixture(t, fake{})
	r := fx.add("data", alone)
	if st := r.status(t.Context()); st.State != ctl.StateInit || st.Stale || st.Remote != "none" {
		t.Errorf("in role init: %+v", st)
	}
	fx.role(r, proto.RolePrimary)
	if st := r.status(t.Context()); st.Stale || st.WorkerPID != r.proc().pid || st.Device != fx.runDir+"/data.nbd" {
		t.Errorf("as primary: %+v", st)
	}
	freeze(t, r.proc().pid)
	begin := time.Now()
	st := r.status(t.Context())
	if d := time.Since(begin); d > askTimeout+time.Second {
		t.Errorf("took %v", d)
	}
	if !st.Stale || st.StaleSeconds <= 0 || st.Role != proto.RolePrimary {
		t.Errorf("of a stopped worker: %+v", st)
	}
	syscall.Kill(r.proc().pid, syscall.SIGCONT)
}

func TestStatusSaysWhyThereIsNoWorker(t *testing.T) {
	fx := newFixture(t, fake{Exit: proto.ExitConfig, Fatal: "no user"})
	r := fx.add("data")
	fx.tryRole(r, proto.RoleSecondary, false)
	if st := r.status(t.Context()); st.State != ctl.StateStopped || st.Why != "no user" || st.Role != proto.RoleInit {
		t.Errorf("%+v", st)
	}
}

func TestWhyOf(t *testing.T) {
	for _, c := range []struct {
		name string
		st   ipc.State
		dial string
		want string
	}{
		{"nothing", ipc.State{Link: "connected"}, "", ""},
		{"old news of a dial", ipc.State{Link: "connected"}, "refused", ""},
		{"how it was lost", ipc.State{Link: "connecting", Why: "silent"}, "", "silent"},
		{"why it can't be had", ipc.State{Link: "connecting", Why: "silent"}, "refused", "refused"},
		{"another key", ipc.State{Link: "waiting", Why: "silent", Handshake: "key"}, "", "key"},
		{"the verdict", ipc.State{Link: "refused", Why: "sizes"}, "refused", "sizes"},
		{"trouble", ipc.State{Link: "connected", Trouble: "the disk"}, "", "the disk"},
		{"both", ipc.State{Link: "connecting", Trouble: "frozen", Why: "silent"}, "refused", "frozen. refused"},
		{"both, and a key", ipc.State{Link: "connecting", Trouble: "frozen", Why: "silent", Handshake: "key"}, "", "frozen. key"},
	} {
		if got := whyOf(&c.st, c.dial); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
