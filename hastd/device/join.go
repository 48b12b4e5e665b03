package device

import (
	"sync"
	"sync/atomic"

	"hast/proto"
)

// Joins makes one answer out of the answers to the pieces of a request that had
// to be cut. It is for requests without data to return: writes and zeroes.
//
// It allocates only while the number of cut requests under way grows; that number is bounded by the sink's table.
type Joins struct {
	sink Sink
	done func(handle uint64, errno proto.Errno)

	mu   sync.Mutex
	free []*Join
}

// NewJoins returns a maker of joins. done is called exactly once for each, from any
// goroutine, when the last piece has been answered; like Completer.Complete it must not block for long.
func NewJoins(sink Sink, done func(handle uint64, errno proto.Errno)) *Joins {
	return &Joins{sink: sink, done: done}
}

// Join is one request that was cut. It is the Owner of its pieces.
type Join struct {
	all    *Joins
	handle uint64
	left   atomic.Int64
	errno  atomic.Uint32
}

// New begins a request. The caller makes the join the Owner of every piece,
// calls Add before it submits each, and Close after the last one.
func (s *Joins) New(handle uint64) *Join {
	s.mu.Lock()
	var j *Join
	if n := len(s.free); n > 0 {
		j, s.free = s.free[n-1], s.free[:n-1]
	}
	s.mu.Unlock()
	if j == nil {
		j = &Join{all: s}
	}
	j.handle = handle
	j.errno.Store(0)
	j.left.Store(1) // the caller's own share, given up by Close
	return j
}

// Add announces one more piece.
func (j *Join) Add() { j.left.Add(1) }

// Close ends the list of pieces; errno, if not OK, is why the rest was never submitted.
// The caller must not touch j afterwards.
func (j *Join) Close(errno proto.Errno) { j.settle(errno, 1) }

// Abandon is Close for a caller that has announced one more piece and could not submit it.
func (j *Join) Abandon(errno proto.Errno) { j.settle(errno, 2) }

// Complete implements Completer: the first error is the request's.
func (j *Join) Complete(batch []*Request) {
	errno := proto.OK
	n := int64(len(batch))
	for _, r := range batch {
		if errno == proto.OK {
			errno = r.Errno
		}
		j.all.sink.Put(r)
	}
	j.settle(errno, n)
}

func (j *Join) settle(errno proto.Errno, n int64) {
	if errno != proto.OK {
		j.errno.CompareAndSwap(0, uint32(errno))
	}
	if j.left.Add(-n) != 0 {
		return
	}
	s, handle, result := j.all, j.handle, proto.Errno(j.errno.Load())
	s.mu.Lock()
	s.free = append(s.free, j)
	s.mu.Unlock()
	s.done(handle, result)
}
