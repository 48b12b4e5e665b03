package extent

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

var mapGeometry = Geometry{DataSize: 100 << 20, ExtentSize: 1 << 20, Logical: 4096}

// mapTwin knows what a disk may hold and what the map has promised. It keeps no
// attempt numbers: only lists.
type mapTwin struct {
	disk    []Extent       // list that certainly is on disk
	maybe   [][]Extent     // lists that a failed commit may have left there
	running []Extent       // prepared list
	writing bool           // a commit is under way
	writes  []*mapWrite    // pinned
	known   map[Extent]int // in the map: pins
	order   []Extent       // unpinned, least recently used first
	stamps  map[Extent]uint64
}

type mapWrite struct {
	first Extent
	n     int
	wait  uint64
	gone  bool // it was let go
}

// crash checks that whatever the disk holds after a crash now contains the
// extents of every write that was let go, and every extent that the map holds to be stable.
func (w *mapTwin) crash(t *rapid.T, m *Map) {
	disks := append([][]Extent{w.disk}, w.maybe...)
	if w.writing {
		disks = append(disks, w.running)
	}
	for _, disk := range disks {
		for _, write := range w.writes {
			for e := write.first; write.gone && e < write.first+Extent(write.n); e++ {
				if !slices.Contains(disk, e) {
					t.Fatalf("a write to extent %d was let go, the disk may hold %v", e, disk)
				}
			}
		}
		m.Victims(func(e Extent, _ uint64, _ int64) bool {
			if !slices.Contains(disk, e) {
				t.Fatalf("extent %d counts as stable, the disk may hold %v", e, disk)
			}
			return true
		})
	}
}

func (w *mapTwin) check(t *rapid.T, m *Map) {
	var want, got []Extent
	for e := range w.known {
		want = append(want, e)
	}
	m.Each(func(e Extent) { got = append(got, e) })
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) || m.Len() != len(want) || m.Room() != MinHot-len(want) {
		t.Fatalf("map has %v (Len %d, Room %d), want %v", got, m.Len(), m.Room(), want)
	}
	at := 0
	m.Victims(func(e Extent, stamp uint64, last int64) bool {
		for at < len(w.order) && w.order[at] != e { // those not yet stable are passed over
			at++
		}
		if at == len(w.order) || w.known[e] != 0 {
			t.Fatalf("victim %d out of order of %v, %d pins", e, w.order, w.known[e])
		}
		if stamp != w.stamps[e] || last != int64(stamp) {
			t.Fatalf("victim %d with stamp %d, %d, want %d", e, stamp, last, w.stamps[e])
		}
		return true
	})
	// Liveness: whoever waits is waiting for something that is under way or asked for.
	for _, write := range w.writes {
		if !write.gone && m.Stable() < write.wait && !m.Dirty() && !w.writing {
			t.Fatal("a write waits and no commit is asked for")
		}
	}
}

func (w *mapTwin) begin(t *rapid.T, m *Map) {
	n := rapid.IntRange(1, m.MaxSpan()).Draw(t, "n")
	first := Extent(rapid.IntRange(0, 30).Draw(t, "first"))
	missing := 0
	for e := first; e < first+Extent(n); e++ {
		if _, ok := w.known[e]; !ok {
			missing++
		}
	}
	wait, ok := m.Begin(first, n)
	if want := missing <= MinHot-len(w.known); ok != want {
		t.Fatalf("Begin(%d, %d): ok = %t with %d missing, room %d", first, n, ok, missing, MinHot-len(w.known))
	}
	if !ok {
		return
	}
	if missing > 0 && wait == 0 {
		t.Fatal("a new extent, and nothing to wait for")
	}
	for e := first; e < first+Extent(n); e++ {
		w.known[e]++
		w.order = slices.DeleteFunc(w.order, func(o Extent) bool { return o == e })
	}
	w.writes = append(w.writes, &mapWrite{first, n, wait, wait == 0})
}

func (w *mapTwin) end(t *rapid.T, m *Map, stamp uint64) {
	if len(w.writes) == 0 {
		return
	}
	at := rapid.IntRange(0, len(w.writes)-1).Draw(t, "write")
	write := w.writes[at]
	w.writes = slices.Delete(w.writes, at, at+1)
	m.End(write.first, write.n, stamp, int64(stamp))
	for e := write.first; e < write.first+Extent(write.n); e++ {
		w.stamps[e] = stamp
		if w.known[e]--; w.known[e] == 0 {
			w.order = append(w.order, e)
		}
	}
}

func (w *mapTwin) commit(t *rapid.T, m *Map) {
	if !w.writing {
		w.running = m.Prepare(w.running)
		w.writing = true
		if m.Dirty() || m.Drops() {
			t.Fatal("a commit was prepared and another is asked for")
		}
		return
	}
	w.writing = false
	if rapid.IntRange(0, 3).Draw(t, "fails") == 0 {
		w.maybe = append(w.maybe, slices.Clone(w.running))
		m.Failed()
		return
	}
	w.disk, w.maybe = slices.Clone(w.running), nil
	m.Committed()
	for _, write := range w.writes {
		write.gone = write.gone || m.Stable() >= write.wait
	}
}

func (w *mapTwin) drop(t *rapid.T, m *Map) {
	skip := rapid.IntRange(0, 3).Draw(t, "skip")
	m.Victims(func(e Extent, _ uint64, _ int64) bool {
		if skip > 0 {
			skip--
			return true
		}
		m.Drop(e)
		delete(w.known, e)
		delete(w.stamps, e)
		w.order = slices.DeleteFunc(w.order, func(o Extent) bool { return o == e })
		if !m.Drops() {
			t.Fatal("dropped, and no commit would say so")
		}
		return rapid.Bool().Draw(t, "more")
	})
}

func TestMapModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := NewMap(mapGeometry, MinHot)
		w := &mapTwin{known: map[Extent]int{}, stamps: map[Extent]uint64{}}
		for e := range Extent(rapid.IntRange(0, MinHot).Draw(t, "restored")) {
			w.disk = append(w.disk, 90-e)
			w.order = append(w.order, 90-e)
			w.known[90-e] = 0
		}
		m.Restore(w.disk)
		for stamp := range uint64(rapid.IntRange(1, 80).Draw(t, "steps")) {
			switch rapid.IntRange(0, 5).Draw(t, "op") {
			case 0, 1:
				w.begin(t, m)
			case 2:
				w.end(t, m, stamp+1)
			case 3, 4:
				w.commit(t, m)
			case 5:
				w.drop(t, m)
			}
			w.check(t, m)
			w.crash(t, m)
		}
	})
}

// The order of events that a group commit is about, one line each.
func TestMapGroupCommit(t *testing.T) {
	m := NewMap(mapGeometry, MinHot)
	say := func(what string, got, want any) {
		t.Helper()
		if got != want {
			t.Fatalf("%s: %v, want %v", what, got, want)
		}
	}
	first, _ := m.Begin(1, 1)
	say("first write waits for attempt", first, uint64(1))
	again, _ := m.Begin(1, 1)
	say("second write shares it", again, uint64(1))
	say("list", fmt.Sprint(m.Prepare(nil)), "[1]")
	late, _ := m.Begin(2, 1)
	say("an add during a commit waits for the next", late, uint64(2))
	riding, _ := m.Begin(1, 1)
	say("a covered extent rides along", riding, uint64(1))
	m.Failed()
	say("after a failure", m.Dirty(), true)
	say("list of the retry", fmt.Sprint(m.Prepare(nil)), "[1 2]")
	m.Committed()
	say("both stable", m.Stable() >= late, true)
	say("clean", m.Dirty(), false)
	hot, _ := m.Begin(2, 1)
	say("a hot write waits for nothing", hot, uint64(0))
	m.End(2, 1, 7, 70)
	m.End(2, 1, 5, 50)
	m.Victims(func(e Extent, stamp uint64, last int64) bool {
		say("victim", fmt.Sprint(e, stamp, last), "2 7 70")
		m.Drop(e)
		return true
	})
	list := m.Prepare(nil)
	say("list without the dropped", fmt.Sprint(list), "[1]")
	back, _ := m.Begin(2, 1)
	say("dropped during a commit and back", back, uint64(4))
	m.Committed()
	say("not stable by the commit that dropped it", m.Stable() < back, true)
	say("dirty", m.Dirty(), true)
}

func TestMapAllocatesNothing(t *testing.T) {
	g := Geometry{DataSize: 1 << 40, ExtentSize: 2 << 20, Logical: 4096}
	m := NewMap(g, 512)
	list := make([]Extent, 0, 512)
	i := 0
	if got := testing.AllocsPerRun(2000, func() {
		first := Extent(i * 7919 % 524000)
		if _, ok := m.Begin(first, 2); !ok {
			t.Fatal("no room")
		}
		m.End(first, 2, uint64(i), int64(i))
		if m.Room() < 4 {
			list = m.Prepare(list)
			m.Committed()
			m.Victims(func(e Extent, _ uint64, _ int64) bool { m.Drop(e); return m.Room() < 64 })
		}
		i++
	}); got != 0 {
		t.Fatalf("%v allocations", got)
	}
}

func BenchmarkMapHot(b *testing.B) {
	m := NewMap(Geometry{DataSize: 1 << 40, ExtentSize: 2 << 20, Logical: 4096}, 512)
	list := make([]Extent, 512)
	for i := range list {
		list[i] = Extent(i * 1000)
	}
	m.Restore(list)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		e := list[i*7%512]
		m.Begin(e, 1)
		m.End(e, 1, uint64(i), int64(i))
	}
}
