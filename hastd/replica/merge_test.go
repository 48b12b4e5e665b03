package replica

import (
	"testing"

	"hast/extent"
	"hast/proto"
)

// A handshake that is cut short after the next primary has taken over its peer's marks: they are async's lag, which the peer alone has, and
// must not make a source of a copy that lacks it. The same if the worker is a new one.
func TestMarksTakenOverAreNotOwn(t *testing.T) {
	for _, restart := range []bool{false, true} {
		p := newPair(t)
		p.up()
		async := Settings{Mode: proto.ModeAsync, Freeze: true, IdleClean: 10 * Second} // frozen, it begins no generation
		p.a.step(&Event{Kind: EvSettings, Settings: &async})
		p.run(1)
		p.b.held[proto.OpWrite] = true
		p.a.write(0, 3, 1, 5)
		p.run(0)
		p.a.answered(0, 0)
		p.b.kill() // before it reaches the disk
		p.b.parked, p.b.held = nil, map[proto.Op]bool{}
		p.a.step(&Event{Kind: EvStop})
		p.run(1)
		p.a.kill()
		if p.a.disk[3] != 5 || p.b.disk[3] == 5 {
			t.Fatalf("no lag: %d and %d", p.a.disk[3], p.b.disk[3])
		}

		p.a.start(false, false)
		p.b.start(true, false)
		p.run(0)
		p.connect()
		m := p.b.m.(*Primary)
		for taken := false; !taken; {
			if len(p.queue) == 0 {
				t.Fatalf("no marks on disk\n%v", p.log)
			}
			f := p.queue[0]
			p.queue = p.queue[1:]
			f()
			taken = p.b.dirty.Count() > 0
		}
		if m.step != hsSuper || p.b.super.SyncRole != 0 || p.b.super.Flags&extent.FlagMerged == 0 {
			t.Fatalf("step %d, superblock %+v", m.step, p.b.super)
		}
		if restart {
			p.b.kill()
			p.queue = nil
			p.b.start(true, false)
		} else {
			p.queue = nil // nothing of it gets further than this
			p.b.step(&Event{Kind: EvMeta})
			p.cut()
		}
		p.run(1)
		p.connect()
		p.run(20)
		p.same()
		if p.b.disk[3] != 5 {
			t.Fatalf("restart %v: what was acknowledged is lost\n%v", restart, p.log)
		}
		if (p.a.super.Flags|p.b.super.Flags)&extent.FlagMerged != 0 {
			t.Error("the flag outlives the session")
		}
	}
}
