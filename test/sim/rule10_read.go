package sim

import "hast/proto"

// Rule 10: a read never returns older data than the last write acknowledged before it began.
func (w *world) ruleReadCurrent(n *node, r *request, buf []version) {
	rule := "rule10"
	if n.link == nil && w.super(n.id).Data == proto.DataInconsistent {
		rule = "rule08"
	}
	for i := 0; i < r.n; i++ {
		s, v := r.first+i, buf[i]
		f := w.fate(v)
		if s < f.first || s >= f.first+f.n {
			w.fail(rule, "node %s reads version %d in sector %d, where it was never written", n.name, v, s)
			return
		}
		floor := min(r.floor[i], w.oracleOf(n).floor[s]) // what was given up while the read waited is lost for it, too
		if f.end < floor {
			w.fail(rule, "node %s reads version %d in sector %d, which was over at %d; a write that began at %d was acknowledged before the read began at %d", n.name, v, s, f.end, floor, r.inv)
			return
		}
	}
}
