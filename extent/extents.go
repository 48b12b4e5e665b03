package extent

import (
	"fmt"
	"math/bits"
)

// Extents is a plain set of the extents 0 ... n-1, one bit each (64 KiB for 1 TiB
// at 2 MiB). Extents outside are a caller's error and panic, but for Next. Not
// safe for concurrent use.
type Extents struct {
	n     Extent
	count Extent
	words []uint64
}

// NewExtents returns the empty set of n possible extents.
func NewExtents(n Extent) *Extents {
	return &Extents{n: n, words: make([]uint64, (uint64(n)+63)/64)}
}

// Len returns the number of extents that the set can hold.
func (x *Extents) Len() Extent { return x.n }

// Count returns the number of extents in the set.
func (x *Extents) Count() Extent { return x.count }

// Set adds e.
func (x *Extents) Set(e Extent) {
	x.check(e)
	bit := uint64(1) << (e % 64)
	if x.words[e/64]&bit == 0 {
		x.words[e/64] |= bit
		x.count++
	}
}

// Clear removes e.
func (x *Extents) Clear(e Extent) {
	x.check(e)
	bit := uint64(1) << (e % 64)
	if x.words[e/64]&bit != 0 {
		x.words[e/64] &^= bit
		x.count--
	}
}

// Test reports whether e is in the set.
func (x *Extents) Test(e Extent) bool {
	x.check(e)
	return x.words[e/64]>>(e%64)&1 != 0
}

// SetAll adds every extent.
func (x *Extents) SetAll() {
	for i := range x.words {
		x.words[i] = ^uint64(0)
	}
	if rest := x.n % 64; rest != 0 {
		x.words[len(x.words)-1] = 1<<rest - 1
	}
	x.count = x.n
}

// Reset empties the set.
func (x *Extents) Reset() {
	clear(x.words)
	x.count = 0
}

// Next returns the first extent of the set at or after from; ok = false: none.
func (x *Extents) Next(from Extent) (e Extent, ok bool) {
	if from >= x.n {
		return from, false
	}
	wi := int(from / 64)
	w := x.words[wi] &^ (1<<(from%64) - 1)
	for w == 0 {
		if wi++; wi == len(x.words) {
			return from, false
		}
		w = x.words[wi]
	}
	return Extent(wi*64 + bits.TrailingZeros64(w)), true
}

func (x *Extents) check(e Extent) {
	if e >= x.n {
		panic(fmt.Sprintf("extent: extent %d of a set of %d", e, x.n))
	}
}
