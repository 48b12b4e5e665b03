package replica

import "testing"

// A flush that fails between START and STARTED: the session that was agreed on would send what this disk may have dropped over what the peer has.
func TestFlushFailsAfterStart(t *testing.T) {
	p := newPair(t)
	p.up()
	p.a.write(0, 0, 1, 5)
	p.run(0)
	p.a.answered(0, 0)
	p.cut() // block 0 is on both copies, unflushed: marked here
	p.connect()
	m := p.a.m.(*Primary)
	for m.step != hsStarted {
		if len(p.queue) == 0 {
			t.Fatalf("no START\n%v", p.log)
		}
		f := p.queue[0]
		p.queue = p.queue[1:]
		f()
	}
	p.a.badMeta = true
	p.a.disk[0] = 0 // what the disk dropped
	p.run(0)
	if p.a.badMeta {
		t.Fatal("no transaction followed START, so nothing failed")
	}
	p.connect()
	p.run(20)
	p.same()
	if p.a.disk[0] != 5 {
		t.Fatalf("block 0 is %d: what was acknowledged is lost\n%v", p.a.disk[0], p.log)
	}
}
