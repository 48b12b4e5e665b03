package extent

import "fmt"

// Span is a range of bytes, [Off, End), Off < End.
type Span struct{ Off, End uint64 }

// Overlaps reports whether s and o share a byte.
func (s Span) Overlaps(o Span) bool { return s.Off < o.End && o.Off < s.End }

// Entries are found by region: 256 KiB, so that the largest request (1 MiB,
// proto.MaxRequest, at any offset) touches at most maxRegions of them, and 64
// disjoint 4 KiB writes at most share one. What touches more is wide: it is
// kept in a list of its own that everyone looks at; only long zeroing and
// discards are.
const (
	regionSize = 256 << 10
	maxRegions = 5
)

const none = -1

// Locks orders what touches the same bytes: at most one of two overlapping
// requests holds its span, and they get it in the order in which they asked.
//
// The rule is one sentence: an entry holds its span unless an *earlier* entry
// that overlaps it is still there, holder or waiter. So each entry counts the
// earlier ones that overlap it; when an entry goes, the later ones that overlap
// it count one less, and who counts zero holds.
//
// Everything is allocated by NewLocks. Not safe for concurrent use.
type Locks struct {
	entries []lockEntry
	nodes   []lockNode // maxRegions per entry
	heads   []int32    // hash table of regions: first node
	shift   uint
	wide    int32 // list of wide entries
	all     int32 // list of all entries
	n       int
	order   uint64
}

type lockEntry struct {
	span     Span
	order    uint64 // of arrival, from 1; 0: not in use
	blockers int32  // earlier entries that overlap; 0: holds
	wide     bool
	nextWide int32
	prevWide int32
	nextAll  int32
	prevAll  int32
}

// lockNode is an entry's place in the list of one region.
type lockNode struct {
	region     uint64
	next, prev int32
}

// NewLocks returns locks for the ids 0 ... max-1.
func NewLocks(max int) *Locks {
	if max < 1 || max > 1<<24 {
		panic(fmt.Sprintf("extent: locks for %d ids", max))
	}
	size, shift := 64, uint(64-6)
	for size < 2*max {
		size, shift = size*2, shift-1
	}
	l := &Locks{
		entries: make([]lockEntry, max),
		nodes:   make([]lockNode, max*maxRegions),
		heads:   make([]int32, size),
		shift:   shift,
		wide:    none,
		all:     none,
	}
	for i := range l.heads {
		l.heads[i] = none
	}
	return l
}

// Len returns the number of ids that hold or wait.
func (l *Locks) Len() int { return l.n }

// Acquire asks for s in the name of id, which must not hold or wait already.
// granted = false: id waits, and a later Release returns it.
func (l *Locks) Acquire(id uint32, s Span) (granted bool) {
	e := &l.entries[id]
	if e.order != 0 || s.Off >= s.End {
		panic(fmt.Sprintf("extent: lock %d for [%d, %d), in use %t", id, s.Off, s.End, e.order != 0))
	}
	l.order++
	*e = lockEntry{span: s, order: l.order, wide: isWide(s)}
	l.visit(s, func(int32) bool { e.blockers++; return true })
	l.insert(int32(id))
	return e.blockers == 0
}

// Release takes id away, whether it holds or waits, and appends the ids that
// hold because of that to granted, in the order in which they asked.
func (l *Locks) Release(id uint32, granted []uint32) []uint32 {
	e := &l.entries[id]
	if e.order == 0 {
		panic(fmt.Sprintf("extent: release of %d, which neither holds nor waits", id))
	}
	l.remove(int32(id))
	order, base := e.order, len(granted)
	e.order = 0
	l.visit(e.span, func(i int32) bool {
		o := &l.entries[i]
		if o.order < order {
			return true
		}
		if o.blockers--; o.blockers == 0 {
			granted = append(granted, uint32(i))
			l.sortLast(granted[base:])
		}
		return true
	})
	return granted
}

// sortLast moves the last id of a list in order of arrival to its place.
func (l *Locks) sortLast(ids []uint32) {
	for i := len(ids) - 1; i > 0 && l.entries[ids[i]].order < l.entries[ids[i-1]].order; i-- {
		ids[i], ids[i-1] = ids[i-1], ids[i]
	}
}

// Busy reports whether anyone holds or waits for a byte of s.
func (l *Locks) Busy(s Span) (busy bool) {
	l.visit(s, func(int32) bool { busy = true; return false })
	return busy
}

// visit calls f once for each entry that overlaps s, until f returns false.
func (l *Locks) visit(s Span, f func(i int32) bool) {
	if l.n == 0 {
		return
	}
	if isWide(s) {
		for i := l.all; i != none; i = l.entries[i].nextAll {
			if l.entries[i].span.Overlaps(s) && !f(i) {
				return
			}
		}
		return
	}
	for i := l.wide; i != none; i = l.entries[i].nextWide {
		if l.entries[i].span.Overlaps(s) && !f(i) {
			return
		}
	}
	first, last := regions(s)
	for r := first; r <= last; r++ {
		if !l.visitRegion(s, r, first, f) {
			return
		}
	}
}

// visitRegion is visit for the narrow entries of region r, of which first is the first that s touches.
// Entries that meet in several regions are taken in the first one that they share.
func (l *Locks) visitRegion(s Span, r, first uint64, f func(i int32) bool) bool {
	for ni := l.heads[l.hash(r)]; ni != none; ni = l.nodes[ni].next {
		if l.nodes[ni].region != r {
			continue
		}
		i := ni / maxRegions
		o := l.entries[i].span
		if max(o.Off/regionSize, first) != r || !o.Overlaps(s) {
			continue
		}
		if !f(i) {
			return false
		}
	}
	return true
}

// insert links entry i into the lists.
func (l *Locks) insert(i int32) {
	e := &l.entries[i]
	e.prevAll, e.nextAll = none, l.all
	if l.all != none {
		l.entries[l.all].prevAll = i
	}
	l.all = i
	l.n++
	if e.wide {
		e.prevWide, e.nextWide = none, l.wide
		if l.wide != none {
			l.entries[l.wide].prevWide = i
		}
		l.wide = i
		return
	}
	first, last := regions(e.span)
	for r := first; r <= last; r++ {
		ni, head := i*maxRegions+int32(r-first), &l.heads[l.hash(r)]
		l.nodes[ni] = lockNode{region: r, next: *head, prev: none}
		if *head != none {
			l.nodes[*head].prev = ni
		}
		*head = ni
	}
}

// remove unlinks entry i.
func (l *Locks) remove(i int32) {
	e := &l.entries[i]
	if e.prevAll == none {
		l.all = e.nextAll
	} else {
		l.entries[e.prevAll].nextAll = e.nextAll
	}
	if e.nextAll != none {
		l.entries[e.nextAll].prevAll = e.prevAll
	}
	l.n--
	if e.wide {
		l.removeWide(e)
		return
	}
	first, last := regions(e.span)
	for r := first; r <= last; r++ {
		n := l.nodes[i*maxRegions+int32(r-first)]
		if n.prev == none {
			l.heads[l.hash(r)] = n.next
		} else {
			l.nodes[n.prev].next = n.next
		}
		if n.next != none {
			l.nodes[n.next].prev = n.prev
		}
	}
}

func (l *Locks) removeWide(e *lockEntry) {
	if e.prevWide == none {
		l.wide = e.nextWide
	} else {
		l.entries[e.prevWide].nextWide = e.nextWide
	}
	if e.nextWide != none {
		l.entries[e.nextWide].prevWide = e.prevWide
	}
}

// regions returns the first and the last region that s touches.
func regions(s Span) (first, last uint64) { return s.Off / regionSize, (s.End - 1) / regionSize }

func isWide(s Span) bool {
	first, last := regions(s)
	return last-first >= maxRegions
}

// hash spreads neighbouring regions (Fibonacci hashing).
func (l *Locks) hash(region uint64) uint64 { return region * 0x9e3779b97f4a7c15 >> l.shift }
