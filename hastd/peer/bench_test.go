package peer

import (
	"fmt"
	"sync"
	"testing"

	"hast/proto"
	"hast/proto/wire"
)

// echo acknowledges writes as soon as they are there, in batches, as a secondary without a disk.
type echo struct {
	l    *Link
	buf  []byte
	acks []wire.Header
}

func (e *echo) Buffer(Kind, *wire.Header) []byte { return e.buf }
func (e *echo) Frame(k Kind, h *wire.Header, _ []byte) {
	if k == Data {
		e.acks = append(e.acks, wire.Header{Type: wire.TypeAck, Seq: h.Seq, Offset: h.Offset, Length: h.Length})
	}
}
func (e *echo) Idle(k Kind) {
	for i := range e.acks {
		_ = e.l.Send(Control, &e.acks[i], nil, 0)
	}
	if len(e.acks) > 0 {
		e.l.Flush(Control)
	}
	e.acks = e.acks[:0]
}
func (e *echo) Sent(Kind, []uint32) {}

// client keeps depth writes under way.
type client struct {
	l       *Link
	payload []byte
	left    int // to send
	open    int // not acknowledged
	off     int
	done    chan struct{}
	mu      sync.Mutex
	acked   int
	head    wire.Header
}

func (c *client) Buffer(Kind, *wire.Header) []byte { return nil }
func (c *client) Sent(Kind, []uint32)              {}
func (c *client) Frame(k Kind, h *wire.Header, _ []byte) {
	if k == Control {
		c.acked++
	}
}
func (c *client) Idle(Kind) {
	n := c.acked
	c.acked = 0
	c.issue(n)
}
func (c *client) issue(acked int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open -= acked
	n := min(acked, c.left)
	for range n {
		c.head = wire.Header{Type: wire.TypeWrite, Length: proto.Length(len(c.payload))}
		_ = c.l.Send(Data, &c.head, c.payload, 1)
	}
	c.left -= n
	c.open += n
	if n > 0 {
		c.l.Flush(Data)
	}
	if c.open == 0 {
		c.done <- struct{}{}
	}
}

func BenchmarkLink(b *testing.B) {
	for _, c := range []struct{ size, depth int }{{4096, 1}, {4096, 16}, {131072, 1}, {131072, 16}} {
		for _, sum := range []wire.Checksum{wire.ChecksumNone, wire.ChecksumCRC32C} {
			for _, tls := range []bool{false, true} {
				b.Run(fmt.Sprintf("%dK/depth=%d/tls=%v/%v", c.size>>10, c.depth, tls, sum), func(b *testing.B) {
					benchLink(b, c.size, c.depth, tls, sum)
				})
			}
		}
	}
}

func benchLink(b *testing.B, size, depth int, encrypt bool, sum wire.Checksum) {
	ca, cb := config("a"), config("b")
	ca.Encrypt, cb.Encrypt = encrypt, encrypt
	ca.Checksum, cb.Checksum = sum, sum
	la, lb := links(b, ca, cb)
	cl := &client{l: la, payload: make([]byte, size), done: make(chan struct{}, 1)}
	for i := range cl.payload {
		cl.payload[i] = byte(i*7 + 1)
	}
	ra, rb := start(la, cl), start(lb, &echo{l: lb, buf: make([]byte, size)})
	round := func(n int) {
		cl.left = n
		cl.issue2(depth)
		<-cl.done
	}
	round(200) // TLS grows its buffers
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	round(b.N)
	b.StopTimer()
	stop(b, ra, rb)
}

// issue2 begins with depth writes.
func (c *client) issue2(depth int) { c.open = depth; c.issue(depth) }
