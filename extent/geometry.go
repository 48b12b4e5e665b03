package extent

import (
	"fmt"

	"hast/proto"
)

// Block numbers a 4 KiB block of the data area, Extent a larger unit of it.
type (
	Block  uint64
	Extent uint32
)

// Geometry is the division of a data area; fixed at create, equal on both nodes.
type Geometry struct {
	DataSize   proto.Offset `json:"data_size"`   // bytes, a multiple of proto.BlockSize
	ExtentSize uint32       `json:"extent_size"` // bytes, a power of two, 64 KiB ... 64 MiB
	Logical    uint32       `json:"logical"`     // logical block size: 512 or 4096
}

// Blocks returns the number of 4 KiB blocks.
func (g Geometry) Blocks() Block { return Block(g.DataSize / proto.BlockSize) }

// Extents returns the number of extents; the last one may be shorter.
func (g Geometry) Extents() Extent {
	return Extent((uint64(g.DataSize) + uint64(g.ExtentSize) - 1) / uint64(g.ExtentSize))
}

// PerExtent returns the blocks of a whole extent.
func (g Geometry) PerExtent() Block { return Block(g.ExtentSize / proto.BlockSize) }

// ExtentOf returns the extent that holds b.
func (g Geometry) ExtentOf(b Block) Extent { return Extent(b / g.PerExtent()) }

// Range returns the first block and the number of blocks of e.
func (g Geometry) Range(e Extent) (first, n Block) {
	first = Block(e) * g.PerExtent()
	n = g.PerExtent()
	if first+n > g.Blocks() {
		n = g.Blocks() - first
	}
	return first, n
}

// Touched returns the blocks that [off, off+n) touches, n > 0.
func (g Geometry) Touched(off proto.Offset, n proto.Length) (first, count Block) {
	first = Block(off / proto.BlockSize)
	last := Block((uint64(off) + uint64(n) - 1) / proto.BlockSize)
	return first, last - first + 1
}

// Covered returns the blocks that [off, off+n) covers whole; count may be 0.
func (g Geometry) Covered(off proto.Offset, n proto.Length) (first, count Block) {
	first = Block((uint64(off) + proto.BlockSize - 1) / proto.BlockSize)
	end := Block((uint64(off) + uint64(n)) / proto.BlockSize)
	if end <= first {
		return first, 0
	}
	return first, end - first
}

// Limits of a geometry, in bytes: a page of the dirty bitmap describes at least
// one whole extent, and always something like a hundred MiB.
const (
	MinExtent = 64 << 10
	MaxExtent = 64 << 20
)

// maxExtents keeps extent numbers below 2^32-1, which marks an unused entry of
// the activity map on disk. At 2 MiB this is 8 PiB.
const maxExtents = 1<<32 - 1

// Validate reports what is wrong with g, for people; it may come from a disk, a peer or an operator.
func (g Geometry) Validate() error {
	switch {
	case g.ExtentSize < MinExtent || g.ExtentSize > MaxExtent || g.ExtentSize&(g.ExtentSize-1) != 0:
		return fmt.Errorf("extent size %d: want a power of two from %d to %d", g.ExtentSize, MinExtent, MaxExtent)
	case g.Logical != 512 && g.Logical != 4096:
		return fmt.Errorf("logical block size %d: want 512 or 4096", g.Logical)
	case g.DataSize == 0 || g.DataSize%proto.BlockSize != 0 || g.DataSize > 1<<62:
		return fmt.Errorf("data size %d: want a multiple of %d", g.DataSize, proto.BlockSize)
	case (uint64(g.DataSize)-1)/uint64(g.ExtentSize) >= maxExtents:
		return fmt.Errorf("data size %d has more than 2^32-1 extents of %d bytes: choose larger extents", g.DataSize, g.ExtentSize)
	}
	return nil
}

// Check is Validate, and the same for a number of hot extents.
func (g Geometry) Check(hot int) error {
	if hot < MinHot || hot > MaxHot {
		return fmt.Errorf("%d hot extents: want %d to %d", hot, MinHot, MaxHot)
	}
	return g.Validate()
}
