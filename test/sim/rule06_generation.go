package sim

import (
	"hast/proto"
	"hast/proto/wire"
)

// Rule 6: a copy that failed a write or a flush is recorded inconsistent before
// anybody acts on it. (That a generation is stable before an acknowledgement in absence is judged with rule 1.)

// ruleFailureRecorded judges a secondary's answer.
func (w *world) ruleFailureRecorded(n *node, h *wire.Header) {
	if h.Type != wire.TypeAck || h.Aux == 0 || n.metaFailed {
		return
	}
	if s := w.super(n.id); s.Data != proto.DataInconsistent {
		w.fail("rule06", "secondary %s reports a failure while its superblock still says %s", n.name, s.Data)
	}
}
