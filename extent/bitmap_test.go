package extent

import (
	"testing"
	"unsafe"

	"pgregory.net/rapid"
)

// naive is the twin: a set as a slice of truths.
type naive []bool

func (s naive) set(first, n Block, v bool) (changed Block) {
	for i := first; i < first+n; i++ {
		if s[i] != v {
			s[i] = v
			changed++
		}
	}
	return changed
}

func (s naive) countIn(first, n Block) (sum Block) {
	for _, v := range s[first : first+n] {
		if v {
			sum++
		}
	}
	return sum
}

func (s naive) next(from, max Block) (first, n Block) {
	for from < Block(len(s)) && !s[from] {
		from++
	}
	for n < max && from+n < Block(len(s)) && s[from+n] {
		n++
	}
	return from, n
}

// drawRange draws a range inside [0, n), with a liking for chunk and word borders.
func drawRange(t *rapid.T, n Block) (first, count Block) {
	edge := rapid.OneOf(
		rapid.Uint64Range(0, uint64(n)),
		rapid.Map(rapid.Uint64Range(0, uint64(n)/64), func(v uint64) uint64 { return v * 64 }),
		rapid.Map(rapid.Uint64Range(0, uint64(n)/chunkBlocks), func(v uint64) uint64 { return v * chunkBlocks }),
	)
	a, b := Block(edge.Draw(t, "a")), Block(edge.Draw(t, "b"))
	if a > b {
		a, b = b, a
	}
	return a, b - a
}

func checkBitmap(t *rapid.T, b *Bitmap, want naive) {
	if got := b.Count(); got != want.countIn(0, b.Len()) {
		t.Fatalf("Count %d, want %d", got, want.countIn(0, b.Len()))
	}
	at := Block(0)
	for {
		first, n := b.Next(at, b.Len())
		wantFirst, wantN := want.next(at, b.Len())
		if n != wantN || n > 0 && first != wantFirst {
			t.Fatalf("Next(%d) = %d, %d, want %d, %d", at, first, n, wantFirst, wantN)
		}
		if n == 0 {
			break
		}
		at = first + n
	}
	for ci, c := range b.chunks {
		sum := Block(0)
		if c != nil {
			lo := Block(ci) * chunkBlocks
			sum = want.countIn(lo, min(chunkBlocks, b.n-lo))
		}
		if Block(b.counts[ci]) != sum || (c == nil) != (sum == 0) {
			t.Fatalf("chunk %d: counted %d, has %d, exists %t", ci, b.counts[ci], sum, c != nil)
		}
	}
	for _, c := range b.free {
		if *c != (chunk{}) {
			t.Fatal("a chunk on the free list has bits")
		}
	}
	if fullChunk[0] != ^uint64(0) || fullChunk[chunkWords-1] != ^uint64(0) {
		t.Fatal("the shared full chunk was written to")
	}
}

func TestBitmapModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := Block(rapid.OneOf(rapid.Uint64Range(1, 300), rapid.Uint64Range(4000, 20000), rapid.Just[uint64](3*chunkBlocks)).Draw(t, "n"))
		sets := []*Bitmap{NewBitmap(n), NewBitmap(n)}
		twins := []naive{make(naive, n), make(naive, n)}
		steps := rapid.IntRange(1, 20).Draw(t, "steps")
		for range steps {
			i := rapid.IntRange(0, 1).Draw(t, "set")
			b, twin := sets[i], twins[i]
			other, otherTwin := sets[1-i], twins[1-i]
			first, count := drawRange(t, n)
			switch rapid.IntRange(0, 6).Draw(t, "op") {
			case 0, 1:
				if got, want := b.Set(first, count), twin.set(first, count, true); got != want {
					t.Fatalf("Set(%d, %d) = %d, want %d", first, count, got, want)
				}
			case 2:
				if got, want := b.Clear(first, count), twin.set(first, count, false); got != want {
					t.Fatalf("Clear(%d, %d) = %d, want %d", first, count, got, want)
				}
			case 3:
				b.Or(other)
				for i, v := range otherTwin {
					twin[i] = twin[i] || v
				}
			case 4:
				b.AndNot(other)
				for i, v := range otherTwin {
					twin[i] = twin[i] && !v
				}
			case 5:
				b.Reset()
				clear(twin)
			case 6:
				b.SetAll()
				twin.set(0, n, true)
			}
			checkBitmap(t, b, twin)
		}
		for i, b := range sets {
			first, count := drawRange(t, n)
			in := twins[i].countIn(first, count)
			if got := b.CountIn(first, count); got != in {
				t.Fatalf("CountIn(%d, %d) = %d, want %d", first, count, got, in)
			}
			if b.Any(first, count) != (in > 0) || b.All(first, count) != (in == count) {
				t.Fatalf("Any, All (%d, %d) = %t, %t with %d", first, count, b.Any(first, count), b.All(first, count), in)
			}
			limit := Block(rapid.Uint64Range(0, uint64(n)).Draw(t, "max"))
			gotFirst, got := b.Next(first, limit)
			wantFirst, want := twins[i].next(first, limit)
			if got != want || got > 0 && gotFirst != wantFirst {
				t.Fatalf("Next(%d, %d) = %d, %d, want %d, %d", first, limit, gotFirst, got, wantFirst, want)
			}
			if first < n {
				if b.Test(first) != twins[i][first] {
					t.Fatalf("Test(%d) = %t", first, b.Test(first))
				}
				for j := Block(0); j < 64; j++ {
					want := first+j < n && twins[i][first+j]
					if b.load64(first)>>j&1 != 0 != want {
						t.Fatalf("load64(%d) bit %d, want %t", first, j, want)
					}
				}
			}
		}
	})
}

func TestBitmapOr64(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := NewBitmap(chunkBlocks + 100)
		at := Block(rapid.Uint64Range(0, chunkBlocks+36).Draw(t, "at"))
		w := rapid.Uint64().Draw(t, "w")
		b.or64(at, w)
		if got := b.load64(at); got != w {
			t.Fatalf("or64(%d, %x) then load64 = %x", at, w, got)
		}
	})
}

func TestBitmapOutOfRangePanics(t *testing.T) {
	b := NewBitmap(100)
	for name, f := range map[string]func(){
		"set":      func() { b.Set(99, 2) },
		"overflow": func() { b.Set(^Block(0), 2) },
		"clear":    func() { b.Clear(101, 0) },
		"test":     func() { b.Test(100) },
		"or":       func() { b.Or(NewBitmap(101)) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Fatal("no panic")
				}
			}()
			f()
		})
	}
}

// Memory for 1 TiB: the tables, and one chunk for each 16 MiB when every chunk exists and none is full.
func TestBitmapMemory(t *testing.T) {
	const n = 1 << 40 / 4096
	b := NewBitmap(n)
	fixed := len(b.chunks)*int(unsafe.Sizeof(b.chunks[0])) + len(b.counts)*2 + (len(b.live)+len(b.upper))*8
	dense := fixed + len(b.chunks)*int(unsafe.Sizeof(chunk{}))
	if dense > 33<<20 {
		t.Fatalf("a dense bitmap of 1 TiB takes %d bytes", dense)
	}
	b.SetAll()
	for ci, c := range b.chunks {
		if c != &fullChunk {
			t.Fatalf("chunk %d of a full bitmap has memory of its own", ci)
		}
	}
	if b.Count() != n {
		t.Fatalf("Count %d", b.Count())
	}
}

func TestBitmapAllocatesNothing(t *testing.T) {
	const n = 1 << 40 / 4096
	dirty, open, closing := NewBitmap(n), NewBitmap(n), NewBitmap(n)
	turn := func() {
		for i := Block(0); i < 50; i++ {
			open.Set(i*1_000_003%n, 1)
		}
		open, closing = closing, open
		dirty.Or(closing)
		dirty.AndNot(closing)
		closing.Clear(0, 5000)
		closing.Reset()
	}
	turn()
	turn()
	if got := testing.AllocsPerRun(100, turn); got != 0 {
		t.Fatalf("%v allocations", got)
	}
	dirty.Set(7, 1)
	if got := testing.AllocsPerRun(100, func() { dirty.Set(8, 3); dirty.Clear(8, 3) }); got != 0 {
		t.Fatalf("%v allocations", got)
	}
}

func BenchmarkBitmapSetClear(b *testing.B) {
	m := NewBitmap(1 << 40 / 4096)
	m.Set(5, 1)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		at := Block(i) * 1_000_003 % (m.Len() - 8)
		m.Set(at, 4)
		m.Clear(at, 4)
	}
}

// A flush after every write: one block each in dirty and closing.
func BenchmarkBitmapAndNotOne(b *testing.B) {
	dirty, closing := NewBitmap(1<<40/4096), NewBitmap(1<<40/4096)
	for i := Block(0); i < 1000; i++ {
		dirty.Set(i*260_000, 1)
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		closing.Set(Block(i)*1_000_003%dirty.Len(), 1)
		dirty.AndNot(closing)
		closing.Reset()
	}
}

// A flush after a thousand random writes.
func BenchmarkBitmapTurn1000(b *testing.B) {
	dirty, open := NewBitmap(1<<40/4096), NewBitmap(1<<40/4096)
	b.ReportAllocs()
	for b.Loop() {
		for i := Block(0); i < 1000; i++ {
			open.Set(i*1_000_003%dirty.Len(), 1)
		}
		dirty.Or(open)
		dirty.AndNot(open)
		open.Reset()
	}
}
