package sim

import "hast/hastd/replica"

// Time is simulated nanoseconds.
type Time = replica.Time

// The units.
const (
	usec Time = 1000
	msec      = 1000 * usec
	sec       = 1000 * msec
)

// happening is one thing that will happen.
type happening struct {
	at  Time
	seq uint64 // order of things that happen at the same time
	f   func()
}

// schedule is a heap of happenings: the world's clock.
type schedule struct {
	now  Time
	seq  uint64
	heap []happening
}

func (s *schedule) after(d Time, f func()) {
	if d < 0 {
		d = 0
	}
	s.seq++
	s.heap = append(s.heap, happening{at: s.now + d, seq: s.seq, f: f})
	for i := len(s.heap) - 1; i > 0; {
		up := (i - 1) / 2
		if !s.less(i, up) {
			break
		}
		s.heap[i], s.heap[up] = s.heap[up], s.heap[i]
		i = up
	}
}

func (s *schedule) less(i, j int) bool {
	a, b := &s.heap[i], &s.heap[j]
	return a.at < b.at || a.at == b.at && a.seq < b.seq
}

// step lets the next thing happen; false: there is none.
func (s *schedule) step() bool {
	n := len(s.heap)
	if n == 0 {
		return false
	}
	top := s.heap[0]
	s.heap[0] = s.heap[n-1]
	s.heap[n-1].f = nil
	s.heap = s.heap[:n-1]
	for i := 0; ; {
		c := 2*i + 1
		if c >= len(s.heap) {
			break
		}
		if c+1 < len(s.heap) && s.less(c+1, c) {
			c++
		}
		if !s.less(c, i) {
			break
		}
		s.heap[i], s.heap[c] = s.heap[c], s.heap[i]
		i = c
	}
	s.now = top.at
	top.f()
	return true
}
