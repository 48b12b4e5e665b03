package extent

import (
	"encoding/binary"
	"fmt"
)

// MaxRun is the most bytes that one run takes, and the least room that AppendRuns accepts.
const MaxRun = 2 * binary.MaxVarintLen64

// AppendRuns appends the blocks of b from block `from` on, as pairs of unsigned
// LEB128 numbers: the gap since the end of the run before (since `from` for the
// first), and the length of the run, which is not 0. It stops before it would
// have appended more than maxBytes, which is at least MaxRun.
//
// next is the end of the last run appended: where the next call goes on, and
// what ApplyRuns returns for these bytes. done says that nothing is left.
func AppendRuns(dst []byte, b *Bitmap, from Block, maxBytes int) (out []byte, next Block, done bool) {
	if maxBytes < MaxRun {
		panic("extent: AppendRuns needs room for one run")
	}
	limit := len(dst) + maxBytes
	for {
		first, n := b.Next(from, b.Len())
		if n == 0 {
			return dst, from, true
		}
		if len(dst)+uvarintLen(uint64(first-from))+uvarintLen(uint64(n)) > limit {
			return dst, from, false
		}
		dst = binary.AppendUvarint(dst, uint64(first-from))
		dst = binary.AppendUvarint(dst, uint64(n))
		from = first + n
	}
}

func uvarintLen(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

// ApplyRuns adds the runs in src, which AppendRuns wrote from block `from` on, to
// b, and returns the end of the last of them. src may be hostile: unless all of
// it is well formed and lies inside b, b stays as it was. The memory that b may
// need is bounded by b's own size.
func ApplyRuns(src []byte, from Block, b *Bitmap) (next Block, err error) {
	if from > b.Len() {
		return from, fmt.Errorf("runs of dirty blocks begin at block %d of %d", from, b.Len())
	}
	if err := walkRuns(src, from, b.Len(), func(_, _ Block) {}); err != nil {
		return from, err
	}
	next = from
	err = walkRuns(src, from, b.Len(), func(first, n Block) {
		b.Set(first, n)
		next = first + n
	})
	return next, err
}

// walkRuns calls f for each run, all of which lie in [from, end).
func walkRuns(src []byte, from, end Block, f func(first, n Block)) error {
	for at := 0; at < len(src); {
		gap, gn := binary.Uvarint(src[at:])
		if gn <= 0 {
			return fmt.Errorf("runs of dirty blocks: bad number at byte %d of %d", at, len(src))
		}
		n, nn := binary.Uvarint(src[at+gn:])
		if nn <= 0 {
			return fmt.Errorf("runs of dirty blocks: bad number at byte %d of %d", at+gn, len(src))
		}
		left := uint64(end - from)
		if gap >= left || n == 0 || n > left-gap {
			return fmt.Errorf("runs of dirty blocks: gap %d, length %d at block %d of %d", gap, n, from, end)
		}
		f(from+Block(gap), Block(n))
		from += Block(gap + n)
		at += gn + nn
	}
	return nil
}
