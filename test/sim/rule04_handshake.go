package sim

// Rule 4: a handshake never clears a mark. The dirty bits that each node had
// on stable storage when the connection came are there when it is established, unless the block is equal and
// flushed on both: then the mark went with a flush before, and only its page was written now.

func (w *world) ruleHandshakeBegins(l *link) {
	for i := range l.before {
		m := w.stableMarks(i)
		l.before[i] = append(w.bools(0), m.dirty...)
	}
}

func (w *world) ruleHandshakeKeepsMarks(l *link) {
	if l == nil || l.established {
		return
	}
	l.established = true
	marked := 0
	for i := range l.before {
		m := w.stableMarks(i)
		for b, was := range l.before[i] {
			if was && !m.marked(w, b) && !w.equalFlat(b) {
				w.fail("rule04", "block %d was marked on node %s when the connection came, and is not when it is established", b, w.nodes[i].name)
				return
			}
		}
	}
	if !w.op.healing || len(w.nodes[0].front.out)+len(w.nodes[1].front.out) > 0 {
		return // new writes mark more
	}
	a, b := w.stableMarks(0), w.stableMarks(1)
	full := !w.marksMatter(a, b)
	for blk := 0; blk < w.blocks; blk++ {
		e := blk / w.perExtent
		if a.marked(w, blk) || b.marked(w, blk) || full && !(a.never[e] && b.never[e]) {
			marked++
		}
	}
	l.bound = marked
}

// ruleSyncClears: a completed sync clears the secondary's marks, on stable storage before it says so. If they came back with a restart, the next
// verdict would take them for something that the primary lacks.
func (w *world) ruleSyncClears(n *node) {
	m := w.stableMarks(n.id)
	for b := range m.dirty {
		if m.marked(w, b) {
			w.fail("rule04", "node %s says that the sync is complete, and block %d is still marked on its stable storage", n.name, b)
			return
		}
	}
}

// equalFlat reports whether a block is the same on both disks, whatever they lose.
func (w *world) equalFlat(b int) bool {
	x, y := w.flat(w.nodes[0].disk), w.flat(w.nodes[1].disk)
	for s := b * 8; s < b*8+8; s++ {
		if !x[s] || !y[s] || w.nodes[0].disk.cache[s] != w.nodes[1].disk.cache[s] {
			return false
		}
	}
	return true
}
