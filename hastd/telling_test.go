package hastd

import (
	"strings"
	"testing"
	"time"

	"hast/hastd/worker/ipc"
	"hast/hooks"
	"hast/proto"
)

// lateConnect takes its time with one event, as a busy processor may.
type lateConnect struct{ *recorder }

func (h lateConnect) fire(s *spec, e hooks.Event) {
	if e.Kind == hooks.KindConnect {
		time.Sleep(100 * time.Millisecond)
	}
	h.recorder.fire(s, e)
}

// TestHooksOfOneResourceAreInOrder: what happens while a promotion's events are handed on comes behind them.
func TestHooksOfOneResourceAreInOrder(t *testing.T) {
	fx := newFixture(t, fake{})
	fx.Daemon.hooks = lateConnect{fx.hooks}
	r := fx.add("data")
	r.beginPromotion()
	fx.report(r, &ipc.Report{Event: "connect"})
	done := make(chan struct{})
	go func() { fx.announceRole(r, proto.RoleInit, proto.RolePrimary); close(done) }()
	eventually(t, "the role hook", 2*time.Second, func() bool { return len(fx.hooks.list()) > 0 })
	time.Sleep(20 * time.Millisecond) // the connect hook is being handed on
	fx.report(r, &ipc.Report{Event: "syncstart"})
	<-done
	want := "role data init primary; connect data; syncstart data"
	if got := strings.Join(fx.hooks.list(), "; "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
