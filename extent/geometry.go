package extent

import "hast/proto"

// Block numbers a 4 KiB block of the data area, Extent a larger unit of it.
type (
	Block  uint64
	Extent uint32
)

// Geometry is the division of a data area; fixed at create, equal on both nodes.
type Geometry struct {
	DataSize   proto.Offset // bytes, a multiple of proto.BlockSize
	ExtentSize uint32       // bytes, a power of two, 64 KiB ... 64 MiB
	Logical    uint32       // logical block size: 512 or 4096
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
