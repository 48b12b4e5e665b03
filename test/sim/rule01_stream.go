package sim

import (
	"hast/extent"
	"hast/hastd/replica"
	"hast/proto"
	"hast/proto/wire"
)

// Rule 1, the stream: a flush travels among the writes in every mode, covers each one that came before it, and the peer
// completes it before it starts any later one. In memsync and async nobody waits for the peer's flush, so it shows in no answer; it shows in
// what the peer's disk is asked, and in what a loss of power leaves there.

// ruleStreamOrder judges what a secondary asks of its disk for a frame.
func (w *world) ruleStreamOrder(n *node, e *replica.Effect) {
	if n.role != proto.RoleSecondary || int(e.Tag) >= appTags {
		return
	}
	f := n.memory[e.Tag]
	if f == nil {
		return
	}
	flush := f.head.Type == wire.TypeFlush
	if !flush && !changes(f) {
		return // a read, or its data written back
	}
	for _, g := range n.memory {
		if g == nil || g.done || g.came >= f.came {
			continue
		}
		switch {
		case flush && changes(g):
			w.fail("rule01", "secondary %s flushes while the write at sector %d that came before is not done", n.name, g.head.Offset/sector)
		case !flush && changes(g) && g.head.Offset < f.head.Offset+proto.Offset(f.head.Length) && f.head.Offset < g.head.Offset+proto.Offset(g.head.Length):
			w.fail("contract", "secondary %s starts the write at sector %d while an overlapping one at %d that came before is not done", n.name, f.head.Offset/sector, g.head.Offset/sector)
		case !flush && g.head.Type == wire.TypeFlush:
			w.fail("rule01", "secondary %s starts the write at sector %d while a flush that came before is not done", n.name, f.head.Offset/sector)
		}
	}
}

func changes(f *frame) bool { return f.head.Type == wire.TypeWrite || f.head.Type == wire.TypeZero }

// ruleBarriers judges what a loss of power left on a secondary in sync: if it has a write that was issued after a flush was acknowledged,
// it has everything that was acknowledged before that flush was issued. (A worker whose disk has just failed may lose power before it can say so.)
func (w *world) ruleBarriers(n *node) {
	s, p, o := w.super(n.id), w.super(1-n.id), w.oracleOf(n)
	if n.role != proto.RoleSecondary || w.everSplit || n.localFailed || s.Data != proto.DataUpToDate || s.Current.IsZero() || s.Current != p.Current || s.Flags&extent.FlagFlushFailed != 0 {
		return
	}
	var newest Time
	for _, v := range n.disk.stable {
		newest = max(newest, w.fate(v).inv)
	}
	for i := len(o.barriers) - 1; i >= 0; i-- {
		b := &o.barriers[i]
		if b.at > newest {
			continue
		}
		for s, f := range b.floor {
			if v := n.disk.stable[s]; w.fate(v).end < f {
				w.fail("rule01", "after a loss of power secondary %s has a write that began at %d, and in sector %d version %d, which was over at %d; a write that began at %d was acknowledged before a flush that was acknowledged at %d",
					n.name, newest, s, v, w.fate(v).end, f, b.at)
				return
			}
		}
		return // older ones promised less
	}
}
