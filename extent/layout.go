package extent

import (
	"fmt"

	"hast/proto"
)

// SuperArea is the size in bytes of the two superblock slots. They are the last
// bytes of the metadata area, so that internal metadata is found from the size
// of the device alone.
const SuperArea = 2 * SuperSize

// MapSlots is the number of slots in the ring of the activity map: with one
// being written and one the newest complete, two more are what a damaged sector
// or a torn write can be compared with.
const MapSlots = 4

// Layout says where things are inside a metadata area. All offsets are bytes from
// the area's start, multiples of 4096. In order: pages, map ring, superblocks.
type Layout struct {
	Size      int64           // of the area
	Pages     int64           // first page of the dirty bitmap
	PageCount int             // pages of PageSize bytes
	Map       [MapSlots]int64 // slots of the activity map
	MapSlot   int             // bytes of one slot
	Super     [2]int64        // superblock slots
}

// LayoutFor returns the layout for a valid geometry and an activity map of hot extents.
func LayoutFor(g Geometry, hot int) Layout {
	l := Layout{PageCount: PageCount(g), MapSlot: MapSlotSize(hot)}
	at := int64(l.PageCount) * PageSize
	for i := range l.Map {
		l.Map[i] = at
		at += int64(l.MapSlot)
	}
	for i := range l.Super {
		l.Super[i] = at
		at += SuperSize
	}
	l.Size = at
	return l
}

// AreaStart returns where the area begins on a device or file of the given size
// in bytes: it ends at the last multiple of 4096. With internal metadata the data area is what lies before it.
func (l Layout) AreaStart(device int64) int64 { return alignDown(device) - l.Size }

// FindSuper returns where the superblock slots are on a device or file of the
// given size in bytes, or ok = false if it is too small to have any.
func FindSuper(device int64) (slots [2]int64, ok bool) {
	end := alignDown(device)
	if end < SuperArea {
		return slots, false
	}
	return [2]int64{end - SuperArea, end - SuperSize}, true
}

// DataSizeFor returns the largest data size, a multiple of 4096, that leaves room
// for internal metadata on a device of the given size in bytes. The error says
// what is wrong with the arguments.
func DataSizeFor(device int64, extentSize uint32, hot int) (proto.Offset, error) {
	probe := Geometry{DataSize: proto.BlockSize, ExtentSize: extentSize, Logical: 4096}
	if err := probe.Check(hot); err != nil {
		return 0, err
	}
	least := LayoutFor(Geometry{DataSize: proto.Offset(extentSize), ExtentSize: extentSize}, hot)
	if alignDown(device) < least.Size+int64(extentSize) {
		return 0, fmt.Errorf("a device of %d bytes is too small: one extent of %d bytes and its metadata need %d",
			device, extentSize, least.Size+int64(extentSize))
	}
	// Data and metadata together grow with the data, so the largest fit can be searched for.
	fits := func(blocks int64) bool {
		g := Geometry{DataSize: proto.Offset(blocks * proto.BlockSize), ExtentSize: extentSize, Logical: 4096}
		return g.Validate() == nil && blocks*proto.BlockSize+LayoutFor(g, hot).Size <= alignDown(device)
	}
	low, high := int64(extentSize)/proto.BlockSize, alignDown(device)/proto.BlockSize
	for high-low > 1 {
		if mid := low + (high-low)/2; fits(mid) {
			low = mid
		} else {
			high = mid
		}
	}
	g := Geometry{DataSize: proto.Offset(high * proto.BlockSize), ExtentSize: extentSize, Logical: 4096}
	if err := g.Validate(); err != nil {
		return 0, err
	}
	return proto.Offset(low * proto.BlockSize), nil
}

func alignDown(n int64) int64 { return n &^ 4095 }
