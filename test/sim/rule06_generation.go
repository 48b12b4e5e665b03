package sim

import (
	"hast/hastd/replica"
	"hast/proto"
	"hast/proto/wire"
)

// Rule 6: a copy that failed a write or a flush is recorded inconsistent before
// anybody acts on it. (That a generation is stable before an acknowledgement in absence is judged with rule 1.)

// ruleFrozenBeginsNone: a refused or frozen write begins no generation. (One without a local copy makes the next handshake
// refuse, on purpose.)
func (w *world) ruleFrozenBeginsNone(n *node, r *replica.Report) {
	if r.Kind != replica.ReportGeneration || n.role != proto.RolePrimary {
		return
	}
	if s := n.m.Status(); s.Frozen && !s.LocalLost {
		w.fail("rule06", "node %s begins a generation while it is frozen: %s", n.name, s.Why)
	}
}

// ruleFailureRecorded judges a secondary's answer.
func (w *world) ruleFailureRecorded(n *node, h *wire.Header) {
	if h.Type != wire.TypeAck || h.Aux == 0 || n.metaFailed {
		return
	}
	if s := w.super(n.id); s.Data != proto.DataInconsistent {
		w.fail("rule06", "secondary %s reports a failure while its superblock still says %s", n.name, s.Data)
	}
}
