package sim

import (
	"hast/proto"
)

// Rule 3: blocks that differ between the nodes, or would after a loss of power on
// either, are marked in what both metadata areas have on stable storage; extents
// never written on both are exempt (rule 16).

// ruleDifferencesMarked judges both disks at this moment.
func (w *world) ruleDifferencesMarked(when string) {
	a, b := w.stableMarks(0), w.stableMarks(1)
	if w.split || a.err != nil || b.err != nil || !w.marksMatter(a, b) {
		return
	}
	da, db := w.nodes[0].disk, w.nodes[1].disk
	same := w.flat(da)
	other := w.flat(db)
	for blk := 0; blk < w.blocks; blk++ {
		e := blk / w.perExtent
		if a.never[e] && b.never[e] || a.marked(w, blk) || b.marked(w, blk) {
			continue
		}
		for s := blk * 8; s < blk*8+8; s++ {
			va, vb := da.cache[s], db.cache[s]
			if same[s] && other[s] && va == vb {
				continue
			}
			if va&zeroBit != 0 && vb&zeroBit != 0 && same[s] && other[s] {
				continue
			}
			w.fail("rule03", "%s: sector %d is %d (stable %d) on %s and %d (stable %d) on %s, and block %d is marked on neither (never written: %v, %v)",
				when, s, va, da.stable[s], w.nodes[0].name, vb, db.stable[s], w.nodes[1].name, blk, a.never[e], b.never[e])
			return
		}
	}
}

// flat reports for each sector whether its content is the same whatever is lost.
func (w *world) flat(d *disk) []bool {
	out := w.flats[d.node]
	for s := range out {
		out[s] = d.cache[s] == d.stable[s]
	}
	d.possible(func(s int, v version) {
		if v != d.cache[s] || d.stable[s] != v {
			out[s] = false
		}
	})
	return out
}

// marksMatter reports whether the next handshake would trust marks: the copies are of one
// generation, or one began its marks at the other's. Otherwise everything written is compared.
func (w *world) marksMatter(a, b *marks) bool {
	sa, sb := &a.super, &b.super
	if sa.Current.IsZero() || sb.Current.IsZero() {
		return false
	}
	session := !sa.SyncID.IsZero() && sa.SyncID == sb.SyncID && sa.SyncRole+sb.SyncRole == 3
	if session {
		return true
	}
	if sa.Data == proto.DataInconsistent || sb.Data == proto.DataInconsistent {
		// An inconsistent copy that went ahead is no source: the handshake refuses, and a person has one of them made anew.
		return sa.Data != proto.DataInconsistent && sa.Base == sb.Current || sb.Data != proto.DataInconsistent && sb.Base == sa.Current
	}
	return sa.Current == sb.Current || sa.Base == sb.Current || sb.Base == sa.Current
}
