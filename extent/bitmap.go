package extent

import (
	"fmt"
	"math/bits"
)

// A chunk holds the bits of 16 MiB of data in 512 bytes: small enough that a
// random write costs little memory, large enough that the tables beside it
// (14 bytes a chunk) stay below 3 % of a dense bitmap: 32.9 MiB for 1 TiB.
const (
	chunkWords  = 64
	chunkBlocks = chunkWords * 64
)

// freeChunks bounds the chunks that an emptied bitmap keeps for reuse (8 MiB):
// what open and closing sets turn over between two flushes fits many times,
// and what a whole resync leaves behind goes back to the heap.
const freeChunks = 16384

type chunk [chunkWords]uint64

// fullChunk stands for every chunk whose 4096 bits are all set, so that "all
// dirty" costs no memory. It is never written to.
var fullChunk = func() (c chunk) {
	for i := range c {
		c[i] = ^uint64(0)
	}
	return c
}()

// Bitmap is a set of the blocks 0 ... Len()-1. It is sparse: a chunk exists only
// while one of its bits is set, and a chunk that becomes empty is kept for
// reuse, so that a set which is filled and emptied all the time does not
// allocate. It is counted: Count is O(1). Operations on whole bitmaps cost in
// proportion to the chunks that exist.
//
// Blocks outside the set are a caller's error and panic, but for Next. Not safe
// for concurrent use.
type Bitmap struct {
	n      Block
	count  Block
	chunks []*chunk // nil: no bit set
	counts []uint16 // bits set in each chunk
	live   []uint64 // bit per chunk: exists
	upper  []uint64 // bit per word of live: not zero
	free   []*chunk // all zero
}

// NewBitmap returns the empty set of n possible blocks.
func NewBitmap(n Block) *Bitmap {
	chunks := int((n + chunkBlocks - 1) / chunkBlocks)
	live := (chunks + 63) / 64
	return &Bitmap{
		n:      n,
		chunks: make([]*chunk, chunks),
		counts: make([]uint16, chunks),
		live:   make([]uint64, live),
		upper:  make([]uint64, (live+63)/64),
	}
}

// Len returns the number of blocks that the set can hold.
func (b *Bitmap) Len() Block { return b.n }

// Count returns the number of blocks in the set.
func (b *Bitmap) Count() Block { return b.count }

// Set adds the blocks [first, first+n) and returns how many of them are new.
func (b *Bitmap) Set(first, n Block) (added Block) {
	b.check(first, n)
	for n > 0 {
		ci, lo, hi := pieceOf(first, n)
		added += b.setIn(ci, lo, hi)
		first += Block(hi - lo)
		n -= Block(hi - lo)
	}
	b.count += added
	return added
}

// Clear removes the blocks [first, first+n) and returns how many were there.
func (b *Bitmap) Clear(first, n Block) (removed Block) {
	b.check(first, n)
	for n > 0 {
		ci, lo, hi := pieceOf(first, n)
		removed += b.clearIn(ci, lo, hi)
		first += Block(hi - lo)
		n -= Block(hi - lo)
	}
	b.count -= removed
	return removed
}

// Test reports whether block i is in the set.
func (b *Bitmap) Test(i Block) bool {
	b.check(i, 1)
	c := b.chunks[i/chunkBlocks]
	return c != nil && c[i%chunkBlocks/64]>>(i%64)&1 != 0
}

// Any reports whether one of the blocks [first, first+n) is in the set.
func (b *Bitmap) Any(first, n Block) bool {
	b.check(first, n)
	for n > 0 {
		ci, lo, hi := pieceOf(first, n)
		if c := b.chunks[ci]; c != nil {
			for wi := lo / 64; wi <= (hi-1)/64; wi++ {
				if c[wi]&wordMask(wi, lo, hi) != 0 {
					return true
				}
			}
		}
		first += Block(hi - lo)
		n -= Block(hi - lo)
	}
	return false
}

// All reports whether all of the blocks [first, first+n) are in the set; true for n = 0.
func (b *Bitmap) All(first, n Block) bool {
	b.check(first, n)
	for n > 0 {
		ci, lo, hi := pieceOf(first, n)
		c := b.chunks[ci]
		if c == nil {
			return false
		}
		if c != &fullChunk {
			for wi := lo / 64; wi <= (hi-1)/64; wi++ {
				if mask := wordMask(wi, lo, hi); c[wi]&mask != mask {
					return false
				}
			}
		}
		first += Block(hi - lo)
		n -= Block(hi - lo)
	}
	return true
}

// CountIn returns how many of the blocks [first, first+n) are in the set.
func (b *Bitmap) CountIn(first, n Block) (sum Block) {
	b.check(first, n)
	for n > 0 {
		ci, lo, hi := pieceOf(first, n)
		switch c := b.chunks[ci]; {
		case c == nil:
		case hi-lo == chunkBlocks:
			sum += Block(b.counts[ci])
		default:
			for wi := lo / 64; wi <= (hi-1)/64; wi++ {
				sum += Block(bits.OnesCount64(c[wi] & wordMask(wi, lo, hi)))
			}
		}
		first += Block(hi - lo)
		n -= Block(hi - lo)
	}
	return sum
}

// Next returns the first run of blocks of the set that begins at or after from,
// cut to at most max blocks. n = 0 says that there is none. from may lie behind the end.
func (b *Bitmap) Next(from, max Block) (first, n Block) {
	if from >= b.n || max == 0 {
		return from, 0
	}
	first, ok := b.firstSet(from)
	if !ok {
		return from, 0
	}
	return first, b.runFrom(first, max)
}

// Or adds all blocks of o, which has the same Len.
func (b *Bitmap) Or(o *Bitmap) {
	b.same(o)
	for ci := o.nextChunk(0); ci >= 0; ci = o.nextChunk(ci + 1) {
		oc := o.chunks[ci]
		if oc == &fullChunk {
			b.count += b.setIn(ci, 0, chunkBlocks)
			continue
		}
		if b.chunks[ci] == &fullChunk {
			continue
		}
		c, sum := b.own(ci), 0
		for i, w := range oc {
			c[i] |= w
			sum += bits.OnesCount64(c[i])
		}
		b.count += Block(sum) - Block(b.counts[ci])
		b.counts[ci] = uint16(sum)
	}
}

// AndNot removes all blocks of o, which has the same Len.
func (b *Bitmap) AndNot(o *Bitmap) {
	b.same(o)
	for ci := o.nextChunk(0); ci >= 0; ci = o.nextChunk(ci + 1) {
		if b.chunks[ci] == nil {
			continue
		}
		oc := o.chunks[ci]
		if oc == &fullChunk {
			b.count -= b.clearIn(ci, 0, chunkBlocks)
			continue
		}
		c, sum := b.own(ci), 0
		for i, w := range oc {
			c[i] &^= w
			sum += bits.OnesCount64(c[i])
		}
		b.count -= Block(b.counts[ci]) - Block(sum)
		b.counts[ci] = uint16(sum)
		if sum == 0 {
			b.drop(ci)
		}
	}
}

// Reset empties the set.
func (b *Bitmap) Reset() {
	for ci := b.nextChunk(0); ci >= 0; ci = b.nextChunk(ci + 1) {
		b.drop(ci)
	}
	b.count = 0
}

// SetAll adds every block. It costs next to no memory.
func (b *Bitmap) SetAll() { b.Set(0, b.n) }

// check panics unless [first, first+n) lies inside the set.
func (b *Bitmap) check(first, n Block) {
	if n > b.n || first > b.n-n {
		panic(fmt.Sprintf("extent: blocks [%d, +%d) of a bitmap of %d", first, n, b.n))
	}
}

func (b *Bitmap) same(o *Bitmap) {
	if b.n != o.n {
		panic(fmt.Sprintf("extent: bitmaps of %d and %d blocks", b.n, o.n))
	}
}

// pieceOf cuts [first, first+n) at its first chunk: that chunk, and the bits [lo, hi) of it.
func pieceOf(first, n Block) (ci, lo, hi int) {
	ci, lo = int(first/chunkBlocks), int(first%chunkBlocks)
	hi = chunkBlocks
	if n < Block(hi-lo) {
		hi = lo + int(n)
	}
	return ci, lo, hi
}

// wordMask returns the bits of word wi that lie in the bits [lo, hi) of a chunk;
// wi is a word that they touch.
func wordMask(wi, lo, hi int) uint64 {
	mask := ^uint64(0)
	if wi == lo/64 {
		mask <<= lo % 64
	}
	if wi == (hi-1)/64 {
		mask &= ^uint64(0) >> (63 - (hi-1)%64)
	}
	return mask
}

// setIn sets the bits [lo, hi) of a chunk. The caller keeps b.count.
func (b *Bitmap) setIn(ci, lo, hi int) (added Block) {
	if b.chunks[ci] == &fullChunk {
		return 0
	}
	if hi-lo == chunkBlocks {
		added = chunkBlocks - Block(b.counts[ci])
		if b.chunks[ci] != nil {
			b.drop(ci)
		}
		b.put(ci, &fullChunk)
		b.counts[ci] = chunkBlocks
		return added
	}
	c := b.own(ci)
	for wi := lo / 64; wi <= (hi-1)/64; wi++ {
		fresh := wordMask(wi, lo, hi) &^ c[wi]
		c[wi] |= fresh
		added += Block(bits.OnesCount64(fresh))
	}
	b.counts[ci] += uint16(added)
	return added
}

// clearIn clears the bits [lo, hi) of a chunk. The caller keeps b.count.
func (b *Bitmap) clearIn(ci, lo, hi int) (removed Block) {
	if b.chunks[ci] == nil {
		return 0
	}
	if hi-lo == chunkBlocks {
		removed = Block(b.counts[ci])
		b.drop(ci)
		return removed
	}
	c := b.own(ci)
	for wi := lo / 64; wi <= (hi-1)/64; wi++ {
		gone := wordMask(wi, lo, hi) & c[wi]
		c[wi] &^= gone
		removed += Block(bits.OnesCount64(gone))
	}
	b.counts[ci] -= uint16(removed)
	if b.counts[ci] == 0 {
		b.drop(ci)
	}
	return removed
}

// own returns a chunk that may be written to: a new one, the existing one, or a copy of the shared full one.
func (b *Bitmap) own(ci int) *chunk {
	c := b.chunks[ci]
	if c != nil && c != &fullChunk {
		return c
	}
	var fresh *chunk
	if last := len(b.free) - 1; last >= 0 {
		fresh, b.free = b.free[last], b.free[:last]
	} else {
		fresh = new(chunk)
	}
	if c != nil {
		*fresh = *c
	}
	b.put(ci, fresh)
	return fresh
}

func (b *Bitmap) put(ci int, c *chunk) {
	b.chunks[ci] = c
	b.live[ci/64] |= 1 << (ci % 64)
	b.upper[ci/4096] |= 1 << (ci / 64 % 64)
}

// drop forgets an existing chunk, whatever is set in it.
func (b *Bitmap) drop(ci int) {
	c := b.chunks[ci]
	if c != &fullChunk && len(b.free) < freeChunks {
		if b.counts[ci] != 0 {
			*c = chunk{}
		}
		b.free = append(b.free, c)
	}
	b.chunks[ci] = nil
	b.counts[ci] = 0
	b.live[ci/64] &^= 1 << (ci % 64)
	if b.live[ci/64] == 0 {
		b.upper[ci/4096] &^= 1 << (ci / 64 % 64)
	}
}

// nextChunk returns the first existing chunk at or after ci, or -1. It looks at
// one word for each 64 GiB without marks.
func (b *Bitmap) nextChunk(ci int) int {
	if ci >= len(b.chunks) {
		return -1
	}
	li := ci / 64
	if w := b.live[li] >> (ci % 64); w != 0 {
		return ci + bits.TrailingZeros64(w)
	}
	li = nextBit(b.upper, li+1)
	if li < 0 {
		return -1
	}
	return li*64 + bits.TrailingZeros64(b.live[li])
}

// nextBit returns the first set bit at or after i, or -1.
func nextBit(words []uint64, i int) int {
	wi := i / 64
	if wi >= len(words) {
		return -1
	}
	if w := words[wi] >> (i % 64); w != 0 {
		return i + bits.TrailingZeros64(w)
	}
	for wi++; wi < len(words); wi++ {
		if words[wi] != 0 {
			return wi*64 + bits.TrailingZeros64(words[wi])
		}
	}
	return -1
}

// firstSet returns the first block of the set at or after from.
func (b *Bitmap) firstSet(from Block) (Block, bool) {
	for ci := b.nextChunk(int(from / chunkBlocks)); ci >= 0; ci = b.nextChunk(ci + 1) {
		base, lo := Block(ci)*chunkBlocks, 0
		if from > base {
			lo = int(from - base)
		}
		if i := nextBit(b.chunks[ci][:], lo); i >= 0 {
			return base + Block(i), true
		}
	}
	return 0, false
}

// runFrom returns the length of the run that begins at first, which is set; at most max.
func (b *Bitmap) runFrom(first, max Block) (n Block) {
	for at := first; at < b.n && n < max; at = first + n {
		c := b.chunks[at/chunkBlocks]
		if c == nil {
			break
		}
		if c == &fullChunk {
			n += chunkBlocks - at%chunkBlocks
			continue
		}
		left := 64 - at%64
		ones := Block(bits.TrailingZeros64(^(c[at%chunkBlocks/64] >> (at % 64))))
		if ones < left {
			n += ones
			break
		}
		n += left
	}
	return min(n, max)
}

// load64 returns the bits of the blocks at ... at+63, zero behind the end.
func (b *Bitmap) load64(at Block) uint64 {
	w := b.word(at / 64)
	if s := at % 64; s != 0 {
		w = w>>s | b.word(at/64+1)<<(64-s)
	}
	return w
}

func (b *Bitmap) word(wi Block) uint64 {
	ci := wi / chunkWords
	if ci >= Block(len(b.chunks)) || b.chunks[ci] == nil {
		return 0
	}
	return b.chunks[ci][wi%chunkWords]
}

// or64 adds the blocks at+i for the bits i of w. None of them lies behind the end.
func (b *Bitmap) or64(at Block, w uint64) {
	for w != 0 {
		lo := bits.TrailingZeros64(w)
		n := bits.TrailingZeros64(^(w >> lo))
		b.Set(at+Block(lo), Block(n))
		if lo+n == 64 {
			return
		}
		w &= ^uint64(0) << (lo + n)
	}
}
