package sim

import (
	"encoding/binary"

	"hast/hastd/role"
	"hast/proto"
	"hast/proto/wire"
)

// Rule 7: both nodes reach mirror-image verdicts, or neither acts; after a refusal nothing flows.

// seeFrame looks at every frame that goes out.
func (w *world) seeFrame(l *link, n *node, f *frame) {
	h := &f.head
	switch h.Type {
	case wire.TypeVerdict:
		if len(f.body) >= 8 {
			l.verdict[n.id] = role.Action(binary.LittleEndian.Uint32(f.body[4:]))
		}
		if l.verdict == [2]role.Action{role.NoSync, role.NoSync} {
			for _, n := range w.nodes {
				n.flushEIO = n.flushEIO && !w.oracleOf(n).keeps(n) // nothing was in doubt: there is nothing to sync
			}
		}
		return
	case wire.TypeStart:
		a := role.Action(f.body[4]) // the secondary's; the last byte says that its copy stays whole
		l.target = (a == role.Target || a == role.TargetFull) && f.body[len(f.body)-1] == 0
	case wire.TypeHello:
		if n.m.Status().DirtyBytes == 0 {
			clear(l.before[n.id]) // the old connection's sync ended meanwhile; only its pages are still on their way
		}
		return
	case wire.TypeBye, wire.TypeKeepalive:
		return
	}
	if h.Type == wire.TypeSyncDone {
		w.nodes[0].flushEIO, w.nodes[1].flushEIO = false, false
	}
	if h.Type == wire.TypeSyncDoneOK {
		w.ruleSyncClears(n)
	}
	if n.role == proto.RoleSecondary {
		w.ruleFailureRecorded(n, h)
	}
	if l.established && h.Flags&wire.FlagSync != 0 && (h.Type == wire.TypeWrite || h.Type == wire.TypeData || h.Type == wire.TypeZero) {
		l.moved += int(h.Length / proto.BlockSize)
	}
	if h.Flags&wire.FlagSync != 0 && h.Type < wire.TypeAck && h.Length > 0 {
		w.syncing(int(h.Offset/sector)-w.skip, int(h.Length/sector))
	}
	a, b := l.verdict[0], l.verdict[1]
	switch {
	case a == 0 || b == 0:
		w.fail("rule07", "node %s sends a frame of type %d before both verdicts", n.name, h.Type)
	case a.Mirror() != b:
		w.fail("rule07", "node %s sends a frame of type %d after the verdicts %s and %s", n.name, h.Type, a, b)
	case a > role.TargetFull:
		w.fail("rule07", "node %s sends a frame of type %d after the refusal %s", n.name, h.Type, a)
	}
}
