package replica

import (
	"strings"
	"testing"

	"hast/proto"
)

// says checks what status tells of the disks; "" wants nothing.
func (n *node) says(what, got, want string) {
	n.p.t.Helper()
	if want == "" && got != "" || !strings.Contains(got, want) {
		n.p.t.Errorf("%s: %s is %q, want %q\n%v", n.name, what, got, want, n.p.log)
	}
}

func TestStatusTellsOfALocalError(t *testing.T) {
	p := newPair(t)
	p.up()
	p.a.says("local error", p.a.m.Status().LocalError, "")
	p.a.fail[proto.OpWrite] = proto.EIO
	p.a.write(1, 2, 1, 6)
	p.run(1)
	s := p.a.m.Status()
	p.a.says("local error", s.LocalError, "a write at 8192 (4096 bytes) failed")
	if at := s.LocalErrAt; at < p.now-5*Second || at > p.now || !s.LocalLost {
		t.Errorf("the error was at %d, now is %d: %+v", at, p.now, s)
	}
	p.a.says("trouble", s.Trouble, "")
	p.cut()
	p.a.says("trouble", p.a.m.Status().Trouble, "not whole")
	// A sync that makes the copy whole ends it.
	p.a.kill()
	p.a.start(true, true)
	p.connect()
	p.run(10)
	p.a.says("local error", p.a.m.Status().LocalError, "")
}

func TestStatusTellsOfThePeersError(t *testing.T) {
	p := newPair(t)
	p.up()
	p.b.fail[proto.OpWrite] = proto.EIO
	p.a.write(1, 2, 1, 6)
	p.run(1)
	a, b := p.a.m.Status(), p.b.m.Status()
	p.a.says("peer error", a.PeerFailed, "a write at 8192 (4096 bytes) failed on the peer")
	p.a.says("local error", a.LocalError, "")
	p.b.says("local error", b.LocalError, "a write at 8192 (4096 bytes) failed")
	if at := a.PeerFailAt; at < p.now-5*Second || at > p.now {
		t.Errorf("the peer's error was at %d, now is %d", at, p.now)
	}
	p.connect()
	p.run(10)
	a, b = p.a.m.Status(), p.b.m.Status()
	p.a.says("peer error", a.PeerFailed, "")
	p.b.says("local error", b.LocalError, "")
	if a.PeerData != proto.DataUpToDate || b.PeerData != proto.DataUpToDate {
		t.Errorf("after a sync the peers are %s to a and %s to b", a.PeerData, b.PeerData)
	}
}

func TestStatusTellsThatWritesAreRefused(t *testing.T) {
	p := newPair(t)
	p.up()
	p.b.kill()
	p.a.write(0, 1, 1, 5)
	p.run(1)
	p.a.answered(0, proto.OK)
	p.a.fail[proto.OpFlush] = proto.EIO
	p.a.op(1, proto.OpFlush, 0, 0)
	p.run(1)
	p.a.answered(1, proto.EIO)
	p.a.write(2, 2, 1, 6)
	p.run(1)
	p.a.answered(2, proto.EIO)
	s := p.a.m.Status()
	p.a.says("local error", s.LocalError, "a flush failed")
	p.a.says("trouble", s.Trouble, "writes are refused")
	p.a.says("trouble", s.Trouble, "hastctl role secondary data")
	// The peer's return ends it.
	p.b.start(false, false)
	p.connect()
	p.run(10)
	s = p.a.m.Status()
	p.a.says("local error", s.LocalError, "")
	p.a.says("trouble", s.Trouble, "")
	p.a.write(3, 2, 1, 7)
	p.run(1)
	p.a.answered(3, proto.OK)
}

// TestStatusTellsWhoWaitsForThePeer: a disk that does not answer is no lost link, so only the wait tells.
func TestStatusTellsWhoWaitsForThePeer(t *testing.T) {
	for _, op := range []proto.Op{proto.OpWrite, proto.OpFlush} {
		p := newPair(t)
		p.up()
		p.a.write(0, 1, 1, 5)
		p.run(1)
		p.b.held[op] = true
		if op == proto.OpWrite {
			p.a.write(1, 2, 1, 6)
		} else {
			p.a.op(1, proto.OpFlush, 0, 0)
		}
		p.run(12)
		p.a.waiting(1)
		if s := p.a.m.Status(); s.PeerWait < 11*Second || s.PeerWait > 13*Second {
			t.Errorf("%v: waited for %d s", op, s.PeerWait/Second)
		}
		p.b.held[op] = false
		for _, f := range p.b.parked {
			f()
		}
		p.run(2)
		p.a.answered(1, proto.OK)
		if s := p.a.m.Status(); s.PeerWait != 0 {
			t.Errorf("%v: nothing waits, yet for %d s", op, s.PeerWait/Second)
		}
	}
}
