package sim

// random is a small generator (splitmix64): one per run, so that a seed is a run.
type random struct{ s uint64 }

func (r *random) next() uint64 {
	r.s += 0x9e3779b97f4a7c15
	z := r.s
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// n returns 0 ... max-1; 0 for max <= 1.
func (r *random) n(max int) int {
	if max <= 1 {
		return 0
	}
	return int(r.next() >> 33 % uint64(max))
}

// between returns lo ... hi.
func (r *random) between(lo, hi int) int { return lo + r.n(hi-lo+1) }

// chance is true in one of a million tries for p = 1.
func (r *random) chance(ppm int) bool { return r.n(1000000) < ppm }

// one is true in one of n tries.
func (r *random) one(n int) bool { return r.n(n) == 0 }

// skew returns lo ... hi, mostly near lo.
func (r *random) skew(lo, hi Time) Time {
	span := uint64(hi - lo + 1)
	for i := r.n(4); i > 0 && span > 16; i-- {
		span /= 4
	}
	return lo + Time(r.next()%span)
}
