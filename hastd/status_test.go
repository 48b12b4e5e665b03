package hastd

import (
	"syscall"
	"testing"
	"time"

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
