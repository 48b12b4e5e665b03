package extent

import (
	"slices"
	"testing"

	"hast/proto"
	"pgregory.net/rapid"
)

func drawGeometry(t *rapid.T) Geometry {
	size := uint32(MinExtent) << rapid.IntRange(0, 10).Draw(t, "extent")
	return Geometry{
		DataSize:   proto.Offset(rapid.Uint64Range(1, 200000).Draw(t, "blocks")) * proto.BlockSize,
		ExtentSize: size,
		Logical:    4096,
	}
}

func TestPagesCoverEveryExtentOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := drawGeometry(t)
		at, blocks := Extent(0), Block(0)
		for page := range PageCount(g) {
			first, n := PageExtents(g, page)
			if first != at || n < 1 {
				t.Fatalf("page %d has %d extents from %d, want them from %d", page, n, first, at)
			}
			for e := first; e < first+Extent(n); e++ {
				if PageOf(g, e) != page {
					t.Fatalf("extent %d in page %d, want %d", e, PageOf(g, e), page)
				}
			}
			fb, nb := pageBlocks(g, page)
			if fb != blocks {
				t.Fatalf("page %d begins at block %d, want %d", page, fb, blocks)
			}
			at, blocks = at+Extent(n), blocks+nb
		}
		if at != g.Extents() || blocks != g.Blocks() {
			t.Fatalf("pages have %d extents, %d blocks; want %d, %d", at, blocks, g.Extents(), g.Blocks())
		}
	})
}

func TestPageExtentsPerPage(t *testing.T) {
	for size, want := range map[uint32]int{64 << 10: 1908, 1 << 20: 126, 2 << 20: 63, 4 << 20: 31, 32 << 20: 3, 64 << 20: 1} {
		g := Geometry{DataSize: 1 << 40, ExtentSize: size, Logical: 512}
		if _, n := PageExtents(g, 0); n != want {
			t.Errorf("%d: %d extents in a page, want %d", size, n, want)
		}
		if end := bitsAt(g) + want*int(g.PerExtent())/8; end > PageSize {
			t.Errorf("%d: a page ends at byte %d", size, end)
		}
	}
}

func TestPageRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := drawGeometry(t)
		dirty, never := NewBitmap(g.Blocks()), NewExtents(g.Extents())
		for range rapid.IntRange(0, 20).Draw(t, "runs") {
			dirty.Set(drawRange(t, g.Blocks()))
		}
		for range rapid.IntRange(0, 20).Draw(t, "never") {
			never.Set(Extent(rapid.Uint64Range(0, uint64(g.Extents()-1)).Draw(t, "e")))
		}
		gotDirty, gotNever := NewBitmap(g.Blocks()), NewExtents(g.Extents())
		gotNever.SetAll()
		buf := make([]byte, PageSize)
		for page := range PageCount(g) {
			EncodePage(buf, page, testMeta, g, dirty, never)
			if err := DecodePage(buf, page, testMeta, g, gotDirty, gotNever); err != nil {
				t.Fatal(err)
			}
		}
		gotDirty.AndNot(dirty)
		if gotDirty.Count() != 0 || !slices.Equal(gotNever.words, never.words) || gotNever.Count() != never.Count() {
			t.Fatal("not what was written")
		}
		for page := range PageCount(g) {
			EncodePage(buf, page, testMeta, g, dirty, never)
			if err := DecodePage(buf, page, testMeta, g, gotDirty, gotNever); err != nil {
				t.Fatal(err)
			}
		}
		if gotDirty.Count() != dirty.Count() {
			t.Fatalf("%d dirty, want %d", gotDirty.Count(), dirty.Count())
		}
	})
}

// No single damaged byte, no wrong page and no foreign one is believed, and a refused page changes nothing.
func TestPageDamage(t *testing.T) {
	g := Geometry{DataSize: 300 << 20, ExtentSize: 2 << 20, Logical: 4096}
	dirty, never := NewBitmap(g.Blocks()), NewExtents(g.Extents())
	dirty.Set(40000, 99)
	never.Set(70)
	good := make([]byte, PageSize)
	EncodePage(good, 1, testMeta, g, dirty, never)
	d, n := NewBitmap(g.Blocks()), NewExtents(g.Extents())
	refuse := func(what string, src []byte, page int, uuid proto.ID) {
		t.Helper()
		if DecodePage(src, page, uuid, g, d, n) == nil {
			t.Fatalf("%s was believed", what)
		}
		if d.Count() != 0 || n.Count() != 0 {
			t.Fatalf("%s changed the marks", what)
		}
	}
	for i := range good {
		bad := slices.Clone(good)
		bad[i] ^= 0x10
		refuse("a damaged byte", bad, 1, testMeta)
	}
	other := make([]byte, PageSize)
	dirty.Set(40200, 8000)
	dirty.Clear(40000, 90)
	EncodePage(other, 1, testMeta, g, dirty, never)
	for at := 512; at < PageSize; at += 512 {
		torn := slices.Concat(good[:at], other[at:])
		if !slices.Equal(torn, good) && !slices.Equal(torn, other) {
			refuse("a torn page", torn, 1, testMeta)
		}
	}
	refuse("another page", good, 0, testMeta)
	refuse("an earlier create", good, 1, otherMeta)
	refuse("zeroes", make([]byte, PageSize), 1, testMeta)
	refuse("half a page", good[:2048], 1, testMeta)
	MarkPage(2, g, d, n)
	first, count := pageBlocks(g, 2)
	if d.Count() != count || !d.All(first, count) {
		t.Fatal("an unreadable page is not all dirty")
	}
}

// A page with a valid checksum and bits where nothing is was not written by us.
func TestPageStrayBits(t *testing.T) {
	g := Geometry{DataSize: 130<<20 + 4096, ExtentSize: 2 << 20, Logical: 4096}
	for name, at := range map[string]int{"block": bitsAt(g) + 600, "extent": pgNever + 1} {
		src := make([]byte, PageSize)
		EncodePage(src, 1, testMeta, g, NewBitmap(g.Blocks()), NewExtents(g.Extents()))
		src[at] |= 0x80
		le32(src[pgCRC:], pageCRC(src))
		if DecodePage(src, 1, testMeta, g, NewBitmap(g.Blocks()), NewExtents(g.Extents())) == nil {
			t.Errorf("a stray bit of a %s was believed", name)
		}
	}
}

func le32(dst []byte, v uint32) {
	dst[0], dst[1], dst[2], dst[3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
}

func TestEncodePageGolden(t *testing.T) {
	g := Geometry{DataSize: 300 << 20, ExtentSize: 2 << 20, Logical: 4096}
	dirty, never := NewBitmap(g.Blocks()), NewExtents(g.Extents())
	dirty.Set(32256, 3)
	dirty.Set(32256+512, 1)
	dirty.Set(2*32256-1, 1)
	never.Set(63)
	never.Set(125)
	dst := make([]byte, PageSize)
	EncodePage(dst, 1, testMeta, g, dirty, never)
	golden(t, "page.hex", dst)
}

func TestEncodersAllocateNothing(t *testing.T) {
	g := Geometry{DataSize: 300 << 20, ExtentSize: 2 << 20, Logical: 4096}
	dirty, never := NewBitmap(g.Blocks()), NewExtents(g.Extents())
	dirty.Set(32256, 30000)
	dst, list, sb := make([]byte, 4096), make([]Extent, 512), testSuper()
	if got := testing.AllocsPerRun(100, func() {
		EncodePage(dst, 1, testMeta, g, dirty, never)
		EncodeMap(dst, testMeta, 5, list)
		sb.Encode(dst)
	}); got != 0 {
		t.Fatalf("%v allocations", got)
	}
}

func FuzzDecodePage(f *testing.F) {
	g := Geometry{DataSize: 300 << 20, ExtentSize: 2 << 20, Logical: 4096}
	dirty, never := NewBitmap(g.Blocks()), NewExtents(g.Extents())
	dirty.Set(65000, 3)
	good := make([]byte, PageSize)
	EncodePage(good, 2, testMeta, g, dirty, never)
	f.Add(good, true)
	f.Add(good[:100], false)
	f.Fuzz(func(t *testing.T, src []byte, sum bool) {
		src = slices.Clone(src)
		if sum && len(src) == PageSize { // let it past the checksum
			le32(src[pgCRC:], pageCRC(src))
		}
		d, n := NewBitmap(g.Blocks()), NewExtents(g.Extents())
		if DecodePage(src, 2, testMeta, g, d, n) != nil {
			return
		}
		again := make([]byte, PageSize)
		EncodePage(again, 2, testMeta, g, d, n)
		if !slices.Equal(again, src) {
			t.Fatal("accepted, and not what would be written")
		}
	})
}

func BenchmarkEncodePage(b *testing.B) {
	g := Geometry{DataSize: 300 << 20, ExtentSize: 2 << 20, Logical: 4096}
	dirty, never := NewBitmap(g.Blocks()), NewExtents(g.Extents())
	for i := Block(0); i < g.Blocks(); i += 2 {
		dirty.Set(i, 1)
	}
	dst := make([]byte, PageSize)
	b.ReportAllocs()
	for b.Loop() {
		EncodePage(dst, 1, testMeta, g, dirty, never)
	}
}
