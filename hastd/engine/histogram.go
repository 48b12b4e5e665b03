package engine

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Histogram counts durations in buckets of an eighth of a power of two, from
// 1 µs to about an hour. Add costs a few nanoseconds; nothing is allocated.
type Histogram struct {
	buckets [256]atomic.Uint64
	max     atomic.Int64
}

// Add counts d.
func (h *Histogram) Add(d time.Duration) {
	h.buckets[bucket(int64(d))].Add(1)
	for m := h.max.Load(); int64(d) > m && !h.max.CompareAndSwap(m, int64(d)); m = h.max.Load() {
	}
}

func bucket(ns int64) int {
	v := uint64(max(ns, 0)) >> 7 // 128 ns
	if v < 8 {
		return int(v)
	}
	e := bits.Len64(v) - 4
	return min(8*(e+1)+int(v>>e)-8, 255)
}

// bound is the largest duration of a bucket.
func bound(b int) time.Duration {
	if b < 8 {
		return time.Duration(b+1) << 7
	}
	e := b/8 - 1
	return time.Duration(b%8+9) << (e + 7)
}

// Summary returns the number of durations, two percentiles as upper bounds, and the longest.
func (h *Histogram) Summary() (count uint64, p50, p99, longest time.Duration) {
	var n [256]uint64
	for i := range n {
		n[i] = h.buckets[i].Load()
		count += n[i]
	}
	var sum uint64
	for i := range n {
		sum += n[i]
		if p50 == 0 && count > 0 && sum*2 >= count {
			p50 = bound(i)
		}
		if p99 == 0 && count > 0 && sum*100 >= count*99 {
			p99 = bound(i)
		}
	}
	return count, p50, p99, time.Duration(h.max.Load())
}
