package extent

import "fmt"

// MinHot and MaxHot bound the capacity of the activity map. Below 16 a write of
// four extents would be half the map; 992 is what eight sectors of 512 bytes
// hold, so that a transaction never writes more than 4 KiB.
const (
	MinHot = 16
	MaxHot = 992
)

// spanShare: one write pins at most this part of the map, so that four of the
// largest can be under way.
const spanShare = 4

// Map is the activity map: the extents that may differ between the nodes without
// a mark in the dirty bitmap (rules 2 and 3). In memory it is what the next
// transaction would write; on disk it is the list of the last one. Between the
// two stands a group commit: Prepare hands out the list, Committed or Failed
// answers, one at a time.
//
// The invariant that everything serves: an extent for which Stable has reached
// what Begin said is in every list that the disk may hold, until a commit that
// was prepared after its Drop.
//
// Attempts to commit are numbered from 1. An entry waits for the first attempt
// that is prepared after it came: w. A commit that succeeds covers all entries
// that were in the map when it was prepared, so the entry is stable as soon as any
// attempt >= w has succeeded.
//
// Nothing is allocated after NewMap. Not safe for concurrent use.
type Map struct {
	extents  Extent
	capacity int
	entries  []mapEntry
	buckets  []int16 // hash table: first entry
	mask     uint32
	free     int16 // list of unused entries, linked by chain
	n        int

	// Unpinned entries, least recently used first.
	oldest, newest int16

	stable  uint64 // last attempt that succeeded
	attempt uint64 // last attempt that was prepared
	running bool

	adds, addsRunning   int // entries not stable: for the next attempt, in the running one
	drops, dropsRunning int // extents dropped: since Prepare, before it
}

type mapEntry struct {
	extent     Extent
	used       bool
	pins       int32
	wait       uint64 // attempt that makes it stable
	stamp      uint64
	last       int64
	chain      int16 // next in the hash bucket or the free list
	prev, next int16 // neighbours among the unpinned
}

// NewMap returns an empty map of at most capacity extents, MinHot ... MaxHot.
func NewMap(g Geometry, capacity int) *Map {
	if capacity < MinHot || capacity > MaxHot {
		panic(fmt.Sprintf("extent: activity map of %d extents", capacity))
	}
	m := &Map{
		extents:  g.Extents(),
		capacity: capacity,
		entries:  make([]mapEntry, capacity),
		oldest:   none,
		newest:   none,
	}
	size := 1
	for size < 2*capacity {
		size *= 2
	}
	m.buckets = make([]int16, size)
	m.mask = uint32(size - 1)
	for i := range m.buckets {
		m.buckets[i] = none
	}
	for i := range m.entries {
		m.entries[i].chain = int16(i) + 1
	}
	m.entries[capacity-1].chain = none
	return m
}

// MaxSpan returns the most extents that one Begin may ask for.
func (m *Map) MaxSpan() int { return m.capacity / spanShare }

// Len returns the number of extents in the map.
func (m *Map) Len() int { return m.n }

// Room returns the number of extents that can be added.
func (m *Map) Room() int { return m.capacity - m.n }

// Has reports whether e is in the map, stable or not.
func (m *Map) Has(e Extent) bool { return m.find(e) != none }

// Each calls f for every extent of the map, in no particular but a repeatable order.
func (m *Map) Each(f func(Extent)) {
	for i := range m.entries {
		if m.entries[i].used {
			f(m.entries[i].extent)
		}
	}
}

// Restore adds extents that the disk has, unpinned, the first being the least
// recently used. It is for the start, before the first Begin; list fits.
func (m *Map) Restore(list []Extent) {
	for _, e := range list {
		if m.find(e) == none {
			m.append(m.add(e, 0))
		}
	}
}

// Begin pins the extents [first, first+n) for one write, 1 <= n <= MaxSpan().
//
// ok = false: no room; nothing was pinned or added. Try again after an End, a
// Drop or a commit. Else the pins are taken: with wait = 0 all of them are
// stable and the write may go; else it may go once Stable() >= wait.
func (m *Map) Begin(first Extent, n int) (wait uint64, ok bool) {
	if n < 1 || n > m.MaxSpan() || first >= m.extents || uint64(first)+uint64(n) > uint64(m.extents) {
		panic(fmt.Sprintf("extent: write to extents [%d, +%d) of %d, at most %d at once", first, n, m.extents, m.MaxSpan()))
	}
	missing := 0
	for e := first; e-first < Extent(n); e++ {
		if m.find(e) == none {
			missing++
		}
	}
	if missing > m.Room() {
		return 0, false
	}
	for e := first; e-first < Extent(n); e++ {
		wait = max(wait, m.pin(e))
	}
	return wait, true
}

// pin pins e, adding it where it is missing, and returns what to wait for.
func (m *Map) pin(e Extent) (wait uint64) {
	i := m.find(e)
	if i == none {
		i = m.add(e, m.attempt+1)
		m.adds++
	} else if m.entries[i].pins == 0 {
		m.unlink(i)
	}
	m.entries[i].pins++
	if m.entries[i].wait > m.stable {
		return m.entries[i].wait
	}
	return 0
}

// End takes back the pins of one Begin. stamp is the flush epoch to which the
// write belongs (larger is later), now the time of its end; an extent keeps the largest of each.
func (m *Map) End(first Extent, n int, stamp uint64, now int64) {
	for e := first; e-first < Extent(n); e++ {
		i := m.find(e)
		if i == none || m.entries[i].pins == 0 {
			panic(fmt.Sprintf("extent: end of a write to extent %d, which has none", e))
		}
		entry := &m.entries[i]
		entry.stamp = max(entry.stamp, stamp)
		entry.last = max(entry.last, now)
		if entry.pins--; entry.pins == 0 {
			m.append(i)
		}
	}
}

// Victims calls f for the unpinned stable extents, least recently used first,
// until f returns false: with the stamp and the time of the last write (0 for a
// restored one). f may Drop the extent it was called with, and no other.
func (m *Map) Victims(f func(e Extent, stamp uint64, last int64) bool) {
	for i := m.oldest; i != none; {
		entry := m.entries[i]
		if entry.wait <= m.stable && !f(entry.extent, entry.stamp, entry.last) {
			return
		}
		i = entry.next
	}
}

// Drop takes e out: the next commit that is prepared writes the list without it,
// and its place is free at once. e is unpinned and stable. The caller knows that e
// is clean on both disks, or that its bits are stable (rule 3).
func (m *Map) Drop(e Extent) {
	i := m.find(e)
	if i == none || m.entries[i].pins != 0 || m.entries[i].wait > m.stable {
		panic(fmt.Sprintf("extent: drop of extent %d, which is not in the map, in use or not stable", e))
	}
	m.unlink(i)
	m.remove(i)
	m.drops++
}

// Dirty reports whether writes wait for a commit that has not been prepared yet.
func (m *Map) Dirty() bool { return m.adds > 0 }

// Drops reports whether a commit would write out extents that were dropped; it is not urgent.
func (m *Map) Drops() bool { return m.drops > 0 }

// Stable returns the number of the last attempt that succeeded; see Begin.
func (m *Map) Stable() uint64 { return m.stable }

// Prepare begins a commit and returns the list to write, in list's memory. What
// comes after belongs to the next commit. Committed or Failed must follow before another Prepare.
func (m *Map) Prepare(list []Extent) []Extent {
	if m.running {
		panic("extent: two commits of the activity map at once")
	}
	m.running = true
	m.attempt++
	m.addsRunning, m.adds = m.adds, 0
	m.dropsRunning, m.drops = m.drops, 0
	list = list[:0]
	for i := range m.entries {
		if m.entries[i].used {
			list = append(list, m.entries[i].extent)
		}
	}
	return list
}

// Committed says that the prepared list is on stable storage.
func (m *Map) Committed() {
	m.end("commit")
	m.stable = m.attempt
	m.addsRunning, m.dropsRunning = 0, 0
}

// Failed says that the prepared list may or may not be on stable storage: what
// was added still waits, for the next attempt, and what was dropped is to be
// written out again. What is stable stays so: it is in both lists.
func (m *Map) Failed() {
	m.end("failure")
	m.adds += m.addsRunning
	m.drops += m.dropsRunning
	m.addsRunning, m.dropsRunning = 0, 0
}

func (m *Map) end(what string) {
	if !m.running {
		panic("extent: " + what + " of the activity map without Prepare")
	}
	m.running = false
}

// find returns the entry of e, or none.
func (m *Map) find(e Extent) int16 {
	i := m.buckets[m.hash(e)]
	for i != none && m.entries[i].extent != e {
		i = m.entries[i].chain
	}
	return i
}

// add puts e in, not among the unpinned. There is room.
func (m *Map) add(e Extent, wait uint64) int16 {
	if e >= m.extents || m.free == none {
		panic(fmt.Sprintf("extent: extent %d of %d, %d places free", e, m.extents, m.Room()))
	}
	i := m.free
	bucket := &m.buckets[m.hash(e)]
	m.free = m.entries[i].chain
	m.entries[i] = mapEntry{extent: e, used: true, wait: wait, chain: *bucket, prev: none, next: none}
	*bucket = i
	m.n++
	return i
}

// remove takes entry i out; it is not among the unpinned any more.
func (m *Map) remove(i int16) {
	at := &m.buckets[m.hash(m.entries[i].extent)]
	for *at != i {
		at = &m.entries[*at].chain
	}
	*at = m.entries[i].chain
	m.entries[i] = mapEntry{chain: m.free}
	m.free = i
	m.n--
}

// append puts entry i behind the unpinned: it is the most recently used.
func (m *Map) append(i int16) {
	m.entries[i].prev, m.entries[i].next = m.newest, none
	if m.newest == none {
		m.oldest = i
	} else {
		m.entries[m.newest].next = i
	}
	m.newest = i
}

// unlink takes entry i out of the unpinned.
func (m *Map) unlink(i int16) {
	e := &m.entries[i]
	if e.prev == none {
		m.oldest = e.next
	} else {
		m.entries[e.prev].next = e.next
	}
	if e.next == none {
		m.newest = e.prev
	} else {
		m.entries[e.next].prev = e.prev
	}
	e.prev, e.next = none, none
}

func (m *Map) hash(e Extent) uint32 { return uint32(e) * 0x9e3779b1 >> 16 & m.mask }
