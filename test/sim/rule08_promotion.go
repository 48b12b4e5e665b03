package sim

import "hast/proto"

// Rule 8: promotion without force needs the newest data; an inconsistent copy is never primary alone.

// rulePromoted judges the moment at which a machine says that it may serve.
func (w *world) rulePromoted(n *node, forced bool) {
	s := w.super(n.id)
	if n.conns == 0 && s.Data == proto.DataInconsistent {
		w.fail("rule08", "node %s is promoted without its peer, and its copy is inconsistent", n.name)
		return
	}
	if n.conns == 0 && !forced && !w.oracleOf(n).holds(n) {
		w.fail("rule08", "node %s is promoted without force and without its peer, and lacks acknowledged writes", n.name)
	}
}
