package extent

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// queue is the naive twin: all entries in order of arrival. An entry holds when
// nothing before it overlaps it.
type queue []queued

type queued struct {
	id   uint32
	span Span
}

func (q queue) holds(i int) bool {
	return !slices.ContainsFunc(q[:i], func(o queued) bool { return o.span.Overlaps(q[i].span) })
}

func (q queue) holders() (ids []uint32) {
	for i := range q {
		if q.holds(i) {
			ids = append(ids, q[i].id)
		}
	}
	return ids
}

func drawSpan(t *rapid.T) Span {
	o := rapid.OneOf(rapid.Uint64Range(0, 40), rapid.Uint64Range(0, 4096)).Draw(t, "block") * 4096
	n := rapid.OneOf(rapid.Just[uint64](4096), rapid.Uint64Range(1, 1<<20), rapid.Uint64Range(1<<20, 16<<20)).Draw(t, "len")
	return Span{o, o + n}
}

func TestLocksModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const ids = 24
		l, q := NewLocks(ids), queue(nil)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			id := uint32(rapid.IntRange(0, ids-1).Draw(t, "id"))
			at := slices.IndexFunc(q, func(e queued) bool { return e.id == id })
			if at < 0 {
				span := drawSpan(t)
				if want := slices.ContainsFunc(q, func(e queued) bool { return e.span.Overlaps(span) }); l.Busy(span) != want {
					t.Fatalf("Busy(%v) = %t", span, !want)
				}
				q = append(q, queued{id, span})
				if got, want := l.Acquire(id, span), q.holds(len(q)-1); got != want {
					t.Fatalf("Acquire(%d, %v) = %t, want %t", id, span, got, want)
				}
			} else {
				before := q.holders()
				q = slices.Delete(q, at, at+1)
				var want []uint32
				for _, h := range q.holders() {
					if !slices.Contains(before, h) {
						want = append(want, h)
					}
				}
				got := l.Release(id, []uint32{999})
				if got[0] != 999 || !slices.Equal(got[1:], want) {
					t.Fatalf("Release(%d) = %v, want %v in the order of arrival", id, got[1:], want)
				}
			}
			if l.Len() != len(q) {
				t.Fatalf("Len %d, want %d", l.Len(), len(q))
			}
		}
	})
}

// Nobody starves: a wide waiter behind two alternating holders gets its turn.
func TestLocksFair(t *testing.T) {
	l := NewLocks(8)
	l.Acquire(0, Span{0, 10})
	l.Acquire(1, Span{10, 20})
	if l.Acquire(2, Span{0, 20}) {
		t.Fatal("overlaps two holders")
	}
	if l.Acquire(3, Span{0, 10}) {
		t.Fatal("went past an earlier waiter")
	}
	if got := l.Release(0, nil); len(got) != 0 {
		t.Fatal(got)
	}
	if got := l.Release(1, nil); !slices.Equal(got, []uint32{2}) {
		t.Fatal(got)
	}
	if got := l.Release(2, nil); !slices.Equal(got, []uint32{3}) {
		t.Fatal(got)
	}
}

func TestLocksMisuse(t *testing.T) {
	for name, f := range map[string]func(l *Locks){
		"twice":   func(l *Locks) { l.Acquire(1, Span{0, 1}); l.Acquire(1, Span{5, 6}) },
		"empty":   func(l *Locks) { l.Acquire(1, Span{5, 5}) },
		"release": func(l *Locks) { l.Release(1, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Fatal("no panic")
				}
			}()
			f(NewLocks(4))
		})
	}
}

func TestLocksAllocateNothing(t *testing.T) {
	l, granted := NewLocks(1024), make([]uint32, 0, 1024)
	id := uint32(0)
	if got := testing.AllocsPerRun(1000, func() {
		l.Acquire(id%1024, Span{uint64(id) * 4096, uint64(id)*4096 + 1<<20})
		if id >= 512 {
			granted = l.Release((id-512)%1024, granted[:0])
		}
		id++
	}); got != 0 {
		t.Fatalf("%v allocations", got)
	}
}

// One Acquire and one Release of a 4 KiB write, with depth others held.
func benchmarkLocks(b *testing.B, depth int, next func() uint64) {
	l, granted := NewLocks(1024), make([]uint32, 0, 1024)
	id := 0
	put := func() {
		for {
			off := next() * 4096
			if s := (Span{off, off + 4096}); !l.Busy(s) {
				l.Acquire(uint32(id%1024), s)
				id++
				return
			}
		}
	}
	for range depth {
		put()
	}
	b.ReportAllocs()
	for b.Loop() {
		granted = l.Release(uint32((id-depth)%1024), granted[:0])
		put()
	}
}

func BenchmarkLocksRandom1000(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 2))
	benchmarkLocks(b, 1000, func() uint64 { return r.Uint64N(1 << 28) })
}

func BenchmarkLocksSequential1000(b *testing.B) {
	at := uint64(0)
	benchmarkLocks(b, 1000, func() uint64 { at++; return at })
}

func BenchmarkLocksDepth1(b *testing.B) {
	at := uint64(0)
	benchmarkLocks(b, 1, func() uint64 { at++; return at })
}
