package sim

import (
	"hast/extent"
	"hast/proto"
)

// Rule 1: a write is acknowledged when the copies that the mode promises exist,
// or the missing copy has been disqualified on stable storage; a flush when they are stable.

// ruleWriteAck judges the acknowledgement of a write by node n, at this moment.
func (w *world) ruleWriteAck(n *node, r *request) {
	p := w.peerOf(n)
	for s := r.first; s < r.first+r.n; s++ {
		here := w.shows(n, s, r)
		if r.fua {
			here = w.fate(n.disk.stable[s]).end >= r.inv
		}
		if !here && !w.disqualified(n, p) {
			w.fail("rule01", "node %s acknowledges write %d of sector %d, which its own disk does not show, nor is its copy disqualified", n.name, r.ver, s)
			return
		}
		if w.split || here && r.laxer == proto.ModeAsync {
			continue
		}
		there := w.shows(p, s, r)
		if r.fua && r.laxer == proto.ModeFullsync {
			there = w.fate(p.disk.stable[s]).end >= r.inv
		}
		if !there && r.laxer == proto.ModeMemsync && here {
			there = w.inMemory(p, s, r)
		}
		if !there && !w.disqualified(p, n) {
			rule := "rule01"
			if n.link == nil {
				rule = "rule06"
			}
			w.fail(rule, "node %s acknowledges write %d of sector %d, which the peer lacks, and the peer's copy is not disqualified on stable storage", n.name, r.ver, s)
			return
		}
	}
}

// shows reports whether a node's disk has r's write or a later one, or had it until its disk lost it.
func (w *world) shows(n *node, s int, r *request) bool {
	return w.fate(n.disk.cache[s]).end >= r.inv || n.lastLoss >= r.inv
}

func (w *world) inMemory(n *node, s int, r *request) bool {
	for _, f := range n.memory {
		if f == nil || len(f.vers) == 0 {
			continue
		}
		first := int(f.head.Offset/sector) - w.skip
		if s >= first && s < first+len(f.vers) && w.fate(f.vers[s-first]).end >= r.inv {
			return true
		}
	}
	return n.lastDeath >= r.inv
}

// disqualified reports whether y's copy is known to be older than x's by what the two disks
// have on stable storage.
func (w *world) disqualified(y, x *node) bool {
	sy, sx := w.super(y.id), w.super(x.id)
	if sy.Data == proto.DataInconsistent || sy.Data == proto.DataOutdated {
		return true
	}
	if sy.Current == sx.Current {
		return false
	}
	return sy.Current.IsZero() || descends(sx, sy.Current)
}

func descends(s *extent.Superblock, id proto.ID) bool {
	if s.Base == id {
		return true
	}
	for _, h := range s.History {
		if h == id {
			return true
		}
	}
	return false
}

// ruleFlushAck judges the acknowledgement of a flush.
func (w *world) ruleFlushAck(n *node, o *oracle, r *request) {
	p := w.peerOf(n)
	k := min(r.seen-o.base, len(o.volatile))
	for i := 0; i < k; i++ {
		v := o.volatile[i]
		f := w.fate(v)
		for s := f.first; s < f.first+f.n; s++ {
			here := w.fate(n.disk.stable[s]).end >= f.inv
			there := w.fate(p.disk.stable[s]).end >= f.inv
			rule := "rule01"
			if n.lastLoss >= f.inv {
				rule = "rule11"
			}
			switch {
			case !here && !(there && w.disqualified(n, p)):
				w.fail(rule, "node %s acknowledges a flush, and write %d of sector %d is not stable on its disk (there %v, disqualified %v)", n.name, v, s, there, w.disqualified(n, p))
				return
			case !there && !w.split && r.laxer == proto.ModeFullsync && !w.disqualified(p, n):
				if n.link == nil {
					rule = "rule06"
				}
				w.fail(rule, "node %s acknowledges a flush, and write %d of sector %d is not stable on the peer, whose copy is not disqualified", n.name, v, s)
				return
			}
		}
	}
}

// ruleNoErrors: clients see errors only from disks that fail.
func (w *world) ruleNoErrors(n *node, errno proto.Errno) {
	o := &w.opt
	if o.ReadError+o.WriteError+o.FlushError+o.MetaError == 0 {
		w.fail("errors", "node %s answers %q, and no disk fails in this run", n.name, errno)
	}
}
