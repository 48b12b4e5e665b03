package sim

import "hast/proto"

// Rule 5: at most one node accepts writes in an epoch, which is stable before the
// first write is; a secondary takes nothing from an older epoch.

// ruleOneWriter judges an acknowledgement: whose epoch is it?
func (w *world) ruleOneWriter(n *node, r *request) {
	e := w.super(n.id).Epoch
	if e.Node != n.name {
		w.fail("rule05", "node %s acknowledges a write while the epoch on its stable storage is %s", n.name, e)
		return
	}
	if w.super(n.id).Data == proto.DataOutdated {
		w.fail("rule05", "node %s acknowledges a write, and its superblock says that a newer primary exists", n.name)
		return
	}
	if owner, ok := w.epochs[e.Number]; ok && owner != n.id && !w.everSplit {
		w.fail("rule05", "both nodes acknowledged writes in epoch %d", e.Number)
		return
	}
	w.epochs[e.Number] = n.id
}

// ruleEpochOfWriter judges a secondary that carries out a write.
func (w *world) ruleEpochOfWriter(n *node) {
	if n.link == nil {
		return // it arrived before the connection went
	}
	mine, theirs := w.super(n.id).Epoch, w.super(1-n.id).Epoch
	if theirs.Number < mine.Number {
		w.fail("rule05", "secondary %s at epoch %s carries out a write of epoch %s", n.name, mine, theirs)
	}
}
