package nbdserver

import (
	"fmt"
	"sync"

	"hast/hastd/device"
	"hast/proto"
)

// stream serves one read that is longer than proto.MaxRequest, from a client that
// did not ask for our limits. A simple reply is one header and all the data, with nothing between them, so the
// reader first lets everything else of this connection finish, and then sends the pieces in order as they come. No piece
// waits for a later one, so a small arena is enough for a read of any length. It is slow, and correct.
type stream struct {
	c *conn

	mu     sync.Mutex
	cookie uint64
	slots  [MaxPayload / proto.MaxRequest]*device.Request
	next   int  // the piece to be sent next
	failed bool // nothing more is sent
}

func (s *stream) run(h *header) error {
	c := s.c
	c.submit()
	c.settle()
	s.mu.Lock()
	s.cookie, s.next, s.failed = h.cookie, 0, false
	s.mu.Unlock()
	off, left := proto.Offset(h.off), proto.Length(h.length)
	for i := uint64(0); left > 0; i++ {
		n := min(left, proto.MaxRequest)
		c.inflight.Add(1)
		if err := c.simple(h, proto.OpRead, off, n, s, i); err != nil {
			c.inflight.Done()
			return err
		}
		c.submit()
		off, left = off+proto.Offset(n), left-n
	}
	c.settle()
	return nil
}

// Complete implements device.Completer.
func (s *stream) Complete(batch []*device.Request) {
	n := len(batch)
	s.mu.Lock()
	for _, r := range batch {
		s.slots[r.Handle] = r
	}
	for s.next < len(s.slots) && s.slots[s.next] != nil {
		r := s.slots[s.next]
		s.slots[s.next] = nil
		s.send(r)
		s.next++
	}
	s.mu.Unlock()
	s.c.inflight.Add(-n)
}

// send passes on the next piece in order; s is locked.
func (s *stream) send(r *device.Request) {
	out := &s.c.out
	switch {
	case s.failed:
		s.c.srv.sink.Put(r)
	case r.Errno == proto.OK:
		out.piece(r, s.cookie, s.next == 0)
	case s.next == 0:
		s.failed = true
		out.answer(s.cookie, r.Errno)
		s.c.srv.sink.Put(r)
	default: // the header has promised success: all that is left is to hang up
		s.failed = true
		out.fail(fmt.Errorf("read of %d bytes at %d: %w, after the answer had begun", r.Len, r.Off, r.Errno))
		s.c.srv.sink.Put(r)
	}
}
