package extent

import (
	"testing"

	"pgregory.net/rapid"
)

func TestExtentsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 200).Draw(t, "n")
		x, twin := NewExtents(Extent(n)), make(naive, n)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			e := rapid.IntRange(0, n-1).Draw(t, "e")
			switch rapid.IntRange(0, 8).Draw(t, "op") {
			default:
				x.Set(Extent(e))
				twin[e] = true
			case 1, 2, 3:
				x.Clear(Extent(e))
				twin[e] = false
			case 4:
				x.SetAll()
				twin.set(0, Block(n), true)
			case 5:
				x.Reset()
				clear(twin)
			}
			if x.Test(Extent(e)) != twin[e] || Block(x.Count()) != twin.countIn(0, Block(n)) {
				t.Fatalf("Test %t, Count %d", x.Test(Extent(e)), x.Count())
			}
			from := rapid.IntRange(0, n+5).Draw(t, "from")
			got, ok := x.Next(Extent(from))
			want, found := twin.next(Block(from), 1)
			if ok != (found > 0) || ok && Block(got) != want {
				t.Fatalf("Next(%d) = %d, %t, want %d, %d", from, got, ok, want, found)
			}
		}
	})
}

func TestGeometryRanges(t *testing.T) {
	g := Geometry{DataSize: 5<<20 + 8192, ExtentSize: 2 << 20, Logical: 512}
	if g.Blocks() != 1282 || g.Extents() != 3 || g.PerExtent() != 512 || g.ExtentOf(1024) != 2 {
		t.Fatal(g.Blocks(), g.Extents(), g.PerExtent(), g.ExtentOf(1024))
	}
	if first, n := g.Range(2); first != 1024 || n != 258 {
		t.Fatal(first, n)
	}
	if first, n := g.Touched(4095, 2); first != 0 || n != 2 {
		t.Fatal(first, n)
	}
	if first, n := g.Covered(4095, 8194); first != 1 || n != 2 {
		t.Fatal(first, n)
	}
	if _, n := g.Covered(1, 8190); n != 0 {
		t.Fatal(n)
	}
}
