package extent

import (
	"strings"
	"testing"

	"hast/proto"
	"pgregory.net/rapid"
)

func TestLayoutPieces(t *testing.T) {
	g := Geometry{DataSize: 1 << 40, ExtentSize: 2 << 20, Logical: 4096}
	l := LayoutFor(g, 512)
	if l.PageCount != 8323 || l.MapSlot != 4096 || l.Pages != 0 {
		t.Fatalf("%+v", l)
	}
	at := l.Pages + int64(l.PageCount)*PageSize
	for _, off := range l.Map {
		if off != at {
			t.Fatalf("%+v", l)
		}
		at += int64(l.MapSlot)
	}
	if l.Super != [2]int64{at, at + SuperSize} || l.Size != at+SuperArea || l.Size%4096 != 0 {
		t.Fatalf("%+v", l)
	}
}

// The largest data size fits, one block more does not, and the superblocks are
// where FindSuper looks without knowing any of it.
func TestDataSizeFor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		device := rapid.OneOf(rapid.Int64Range(0, 1<<30), rapid.Int64Range(0, 1<<44)).Draw(t, "device")
		extentSize := uint32(MinExtent) << rapid.IntRange(0, 10).Draw(t, "extent")
		hot := rapid.IntRange(MinHot, MaxHot).Draw(t, "hot")
		size, err := DataSizeFor(device, extentSize, hot)
		if err != nil {
			least := LayoutFor(Geometry{DataSize: proto.Offset(extentSize), ExtentSize: extentSize}, hot)
			if device-device%4096 >= least.Size+int64(extentSize) {
				t.Fatal(err)
			}
			return
		}
		g := Geometry{DataSize: size, ExtentSize: extentSize, Logical: 4096}
		if err := g.Check(hot); err != nil {
			t.Fatal(err)
		}
		l := LayoutFor(g, hot)
		if int64(size) > l.AreaStart(device) {
			t.Fatalf("data of %d bytes, area at %d", size, l.AreaStart(device))
		}
		g.DataSize += proto.BlockSize
		if more := LayoutFor(g, hot); int64(g.DataSize) <= more.AreaStart(device) {
			t.Fatalf("%d bytes would fit as well", g.DataSize)
		}
		found, ok := FindSuper(device)
		if !ok || found[0] != l.AreaStart(device)+l.Super[0] || found[1] != l.AreaStart(device)+l.Super[1] {
			t.Fatalf("superblocks at %v, looked for at %v", l.Super, found)
		}
	})
}

func TestDataSizeForRefuses(t *testing.T) {
	for _, c := range []struct {
		device int64
		extent uint32
		hot    int
		says   string
	}{
		{1 << 30, 3 << 20, 512, "power of two"},
		{1 << 30, 2 << 20, 3, "hot extents"},
		{1 << 20, 2 << 20, 512, "too small"},
		{1 << 50, 64 << 10, 512, "larger extents"},
	} {
		if _, err := DataSizeFor(c.device, c.extent, c.hot); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, ok := FindSuper(8000); ok {
		t.Error("superblocks on nothing")
	}
}
