package replica

import (
	"testing"

	"hast/proto"
)

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

// A flush that fails at the end of a primary's sync from its peer, with a write on both copies that no flush covers: what was the target is one
// again, whatever the mode says of two equal copies of which one failed a flush.
func TestFlushFailsAtTheEndOfASync(t *testing.T) {
	p := newPair(t)
	p.up()
	p.a.write(0, 0, 1, 5)
	p.run(0)
	p.a.kill()
	p.b.kill()
	p.b.start(true, false)
	p.b.step(&Event{Kind: EvPermit, Wall: 3})
	p.run(1)
	p.b.write(0, 1, 1, 7) // without the peer: b goes ahead
	p.run(1)
	p.b.answered(0, 0)
	p.b.kill()

	p.b.start(false, false)
	p.a.start(true, false)
	p.a.step(&Event{Kind: EvSettings, Settings: &Settings{Mode: proto.ModeAsync, IdleClean: 10 * Second}})
	p.run(0)
	p.connect()
	m := p.a.m.(*Primary)
	dropped := false
	for ticks := 0; !dropped && ticks < 20; {
		if len(p.queue) == 0 {
			p.now += Second
			ticks++
			p.a.step(&Event{Kind: EvTick})
			continue
		}
		f := p.queue[0]
		p.queue = p.queue[1:]
		f()
		if m.sync.seal == sealSuper && p.a.buf[1] == nil {
			p.a.write(1, 2, 1, 9)
		}
		if p.a.disk[2] == 9 {
			dropped, p.a.badMeta, p.a.disk[2] = true, true, 0
		}
	}
	p.run(0)
	if !dropped || p.a.badMeta {
		t.Fatalf("no transaction under way with the write\n%v", p.log)
	}
	p.a.answered(1, 0)
	p.connect()
	p.run(20)
	p.same()
	if p.a.disk[1] != 7 || p.a.disk[2] != 9 {
		t.Fatalf("blocks 1 and 2 are %d and %d: what was acknowledged is lost\n%v", p.a.disk[1], p.a.disk[2], p.log)
	}
}
