package sim

import "hast/extent"

// Rule 11: after a failed flush without a peer nothing is acknowledged until the copy is synced or made anew.
func (w *world) ruleFlushFinal(n *node, r *request) {
	if n.flushEIO && w.super(n.id).Flags&extent.FlagFlushFailed == 0 && w.oracleOf(n).keeps(n) {
		n.flushEIO = false // a target sealed its sync, and the link went before SYNC_DONE was seen: nothing is in doubt
	}
	if n.flushEIO && n.link == nil && r.inv > n.flushEIOAt {
		w.fail("rule11", "node %s acknowledges a %s after a failed flush, without a peer", n.name, r.op)
	}
}
