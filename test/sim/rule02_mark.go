package sim

import (
	"hast/hastd/replica"
	"hast/proto"
	"hast/proto/wire"
)

// Rule 2: before the first byte of a write reaches any disk or the wire, its
// extent is active on the primary's stable storage. A sync's writes go to blocks that are marked.

// ruleMarkedFirst judges a write to the local disk.
func (w *world) ruleMarkedFirst(n *node, e *replica.Effect, first, cnt int) {
	if n.role != proto.RolePrimary {
		w.ruleEpochOfWriter(n)
		return
	}
	w.marksBefore(n, first, cnt, "to the disk", int(e.Tag) >= appTags)
}

// ruleMarkedFrame judges a write to the wire.
func (w *world) ruleMarkedFrame(n *node, h *wire.Header, first, cnt int) {
	w.marksBefore(n, first, cnt, "to the wire", h.Flags&wire.FlagSync != 0)
}

func (w *world) marksBefore(n *node, first, cnt int, where string, sync bool) {
	if cnt == 0 {
		return
	}
	m := w.stableMarks(n.id)
	if n.localFailed {
		// Its own copy or metadata is out: it marks nothing, and what the peer has recorded stands in.
		for e := first / 8 / w.perExtent; !sync && n.m.Status().LocalLost && e <= (first+cnt-1)/8/w.perExtent; e++ {
			if !m.hot[e] && !w.disqualified(n, w.peerOf(n)) {
				w.fail("rule02", "node %s writes sectors %d+%d %s, its own copy is out, and no stable superblock says so", n.name, first, cnt, where)
				return
			}
		}
		return
	}
	for e := first / 8 / w.perExtent; e <= (first+cnt-1)/8/w.perExtent; e++ {
		if !m.hot[e] && !sync {
			w.fail("rule02", "node %s writes sectors %d+%d %s, and extent %d is not active on stable storage", n.name, first, cnt, where, e)
			return
		}
	}
	if !sync {
		return
	}
	p := w.stableMarks(w.peerOf(n).id)
	for b := first / 8; b <= (first+cnt-1)/8; b++ {
		if !m.marked(w, b) && !p.marked(w, b) && p.super.Data != proto.DataInconsistent && m.super.Data != proto.DataInconsistent {
			w.fail("rule02", "node %s syncs block %d %s, which neither node has marked on stable storage", n.name, b, where)
			return
		}
	}
}
