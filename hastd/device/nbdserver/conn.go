package nbdserver

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"hast/hastd/device"
	"hast/hastd/sock"
	"hast/proto"
)

// The way of a request:
//
//  1. fill     one readv takes everything that the client has sent          (reader goroutine)
//  2. request  headers are decoded and checked, payload goes to its buffer  (reader goroutine)
//  3. submit   all of it crosses into the sink with one call                (reader goroutine)
//  4. Complete answers are queued and written                               (whoever completes; outbox.go)
//
// At depth 1 with a sink that completes inside Submit, that is one read and one write by one goroutine.

// inSize is the receive buffer in bytes: thirty 4 KiB writes, about what a unix
// socket holds by default. Payload that is not in it yet is read past it.
const inSize = 128 << 10

const (
	// bigPayload: behind a payload of this many bytes, probably another one of its size follows; then only
	bigPayload = 32 << 10
	// bigTail bytes are read beyond it, so that the next one goes where it belongs instead of through our buffer.
	bigTail = 4 << 10
)

// errDisconnect: the client asked for an orderly end.
var errDisconnect = errors.New("disconnect")

// errClosing: the sink gives out no more requests.
var errClosing = errors.New("the device is closing")

// conn is one client. Its reader is the goroutine in serve; its Complete is called from anywhere.
type conn struct {
	srv  *Server
	nc   net.Conn   // until the handshake is over
	sock *sock.Conn // from then on, under srv.mu; nil before

	// The reader's own.
	in     []byte // in[r:w] is received and not decoded
	r, w   int
	big    bool // the last payload was a big one
	batch  []*device.Request
	joins  *device.Joins
	stream stream

	// Of the readv under way.
	wait   sock.Wait
	riov   [2]unix.Iovec
	rcount int
	rn     int

	limit *time.Timer // of a stall
	late  atomic.Bool // it ran out

	inflight sync.WaitGroup // requests that the sink has, whose answers are not queued yet
	out      outbox
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{srv: s, nc: nc, in: make([]byte, inSize)}
	c.batch = make([]*device.Request, 0, inSize/requestSize)
	c.joins = device.NewJoins(s.sink, c.joined)
	c.wait.Spin = true
	c.wait.Helper, _ = s.sink.(sock.Helper)
	c.stream.c = c
	c.limit = time.AfterFunc(time.Hour, c.tooLate)
	c.limit.Stop()
	c.out.init(c)
	return c
}

// serve runs the transmission until the client leaves, fails, or the server stops.
func (c *conn) serve() error {
	var writer sync.WaitGroup
	writer.Go(c.out.writer)
	err := c.transmit()
	c.submit() // what was decoded before the end is served
	if !errors.Is(err, errDisconnect) && !c.srv.isStopped() {
		c.out.abandon() // nobody reads the answers
	}
	c.settle()
	c.out.drain()
	close(c.out.wake)
	writer.Wait()
	switch cause := c.out.failure(); {
	case errors.Is(cause, errClosing):
		return nil
	case cause != nil && !left(cause):
		return cause
	case errors.Is(err, io.EOF), errors.Is(err, errDisconnect), errors.Is(err, errClosing), errors.Is(err, errStopped),
		errors.Is(err, unix.ECONNRESET):
		return nil
	}
	return err
}

// left reports whether a write failed because the client is no longer there.
func left(err error) bool {
	return errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EBADF)
}

func (c *conn) transmit() error {
	for {
		for c.w-c.r >= requestSize {
			if err := c.request(); err != nil {
				return err
			}
		}
		c.submit()
		if err := c.fill(nil, true); err != nil {
			return err
		}
	}
}

// request takes one request from the buffer, and its payload from wherever that is.
func (c *conn) request() error {
	h, ok := parseHeader(c.in[c.r:c.w])
	if !ok {
		return errNotNBD
	}
	c.r += requestSize
	if h.cmd == cmdDisc {
		return errDisconnect
	}
	if errno := h.check(c.srv.info.Size, c.srv.info.Logical); errno != proto.OK {
		return c.refuse(&h, errno)
	}
	if h.length == 0 && h.cmd != cmdFlush {
		c.out.answer(h.cookie, proto.OK)
		return nil
	}
	switch h.cmd {
	case cmdRead:
		return c.read(&h)
	case cmdWrite:
		return c.write(&h)
	case cmdFlush:
		return c.simple(&h, proto.OpFlush, 0, 0, c, h.cookie)
	}
	return c.zero(&h)
}

// refuse answers a request that can't be served, and skips its payload.
func (c *conn) refuse(h *header, errno proto.Errno) error {
	if h.cmd == cmdWrite {
		if h.length > MaxPayload {
			return fmt.Errorf("write of %d bytes, at most %d", h.length, MaxPayload)
		}
		if err := c.skip(int(h.length)); err != nil {
			return err
		}
	}
	c.out.answer(h.cookie, errno)
	return nil
}

// read submits a read that is answered in one piece; stream cuts longer ones.
func (c *conn) read(h *header) error {
	if h.length > uint32(proto.MaxRequest) {
		return c.stream.run(h)
	}
	return c.simple(h, proto.OpRead, proto.Offset(h.off), proto.Length(h.length), c, h.cookie)
}

// simple adds a request without payload to the batch.
func (c *conn) simple(h *header, op proto.Op, off proto.Offset, n proto.Length, owner device.Completer, handle uint64) error {
	size := n
	if op != proto.OpRead {
		size = 0
	}
	r, err := c.get(size)
	if err != nil {
		return err
	}
	r.Op, r.Off, r.Len = op, off, n
	r.FUA = h.flags&cmdFlagFUA != 0 && op == proto.OpZero
	r.NoUnmap = h.flags&cmdFlagNoHole != 0 && op == proto.OpZero
	r.Owner, r.Handle = owner, handle
	c.take(r)
	return nil
}

// write reads a write's payload into one buffer, or several.
func (c *conn) write(h *header) error {
	off, left := proto.Offset(h.off), proto.Length(h.length)
	if left <= proto.MaxRequest {
		return c.payload(h, off, left, c, h.cookie)
	}
	j := c.joins.New(h.cookie)
	c.inflight.Add(1) // the join's answer
	for left > 0 {
		n := min(left, proto.MaxRequest)
		j.Add()
		if err := c.payload(h, off, n, j, 0); err != nil {
			j.Abandon(proto.EIO)
			return err
		}
		off, left = off+proto.Offset(n), left-n
	}
	j.Close(proto.OK)
	return nil
}

// payload adds a write to the batch. Payload that was received with the header is copied; the rest is read
// straight into the request's buffer, and what the client sent after it into ours.
func (c *conn) payload(h *header, off proto.Offset, n proto.Length, owner device.Completer, handle uint64) error {
	r, err := c.get(n)
	if err != nil {
		return err
	}
	c.big = n >= bigPayload
	have := copy(r.Buf, c.in[c.r:c.w])
	c.r += have
	if have < len(r.Buf) {
		c.submit() // nobody has to wait for this client's next bytes
		if err := c.receive(r.Buf[have:]); err != nil {
			c.srv.sink.Put(r)
			return err
		}
	}
	r.Op, r.Off, r.Len, r.FUA = proto.OpWrite, off, n, h.flags&cmdFlagFUA != 0
	r.Owner, r.Handle = owner, handle
	c.take(r)
	return nil
}

// zero adds a trim or a write-zeroes, cut where it is long.
func (c *conn) zero(h *header) error {
	off, left := proto.Offset(h.off), uint64(h.length)
	if n := device.ZeroPiece(off, left); uint64(n) == left {
		return c.simple(h, proto.OpZero, off, n, c, h.cookie)
	}
	j := c.joins.New(h.cookie)
	c.inflight.Add(1)
	for left > 0 {
		n := device.ZeroPiece(off, left)
		j.Add()
		if err := c.simple(h, proto.OpZero, off, n, j, 0); err != nil {
			j.Abandon(proto.ESHUTDOWN)
			return err
		}
		off, left = off+proto.Offset(n), left-uint64(n)
	}
	j.Close(proto.OK)
	return nil
}

// get takes a request from the sink. If it has to wait, what was decoded so far is served meanwhile.
func (c *conn) get(n proto.Length) (*device.Request, error) {
	r := c.srv.sink.TryGet(n)
	if r == nil {
		c.submit()
		if r = c.srv.sink.Get(n); r == nil {
			return nil, errClosing
		}
	}
	return r, nil
}

// take puts r into the batch.
func (c *conn) take(r *device.Request) {
	if r.Owner == device.Completer(c) {
		c.inflight.Add(1) // a join, or the stream, counts for itself
	}
	c.batch = append(c.batch, r)
	if len(c.batch) == cap(c.batch) {
		c.submit()
	}
}

// settle waits until everything that the sink has of this client is answered.
func (c *conn) settle() {
	if h := c.wait.Helper; h != nil {
		h.Rest()
	}
	c.inflight.Wait()
}

func (c *conn) submit() {
	if len(c.batch) > 0 {
		c.srv.sink.Submit(c.batch)
		c.batch = c.batch[:0]
	}
}

// Complete implements device.Completer.
func (c *conn) Complete(batch []*device.Request) {
	n := len(batch)
	c.out.answers(batch)
	c.inflight.Add(-n)
}

// joined answers a write or zero that was cut.
func (c *conn) joined(cookie uint64, errno proto.Errno) {
	c.out.answer(cookie, errno)
	c.inflight.Done()
}

// need returns the next n bytes (n <= maxOption), valid until the next read. For the handshake.
func (c *conn) need(n int) ([]byte, error) {
	if c.r > 0 {
		c.r, c.w = 0, copy(c.in, c.in[c.r:c.w])
	}
	if c.w < n {
		k, err := io.ReadAtLeast(c.nc, c.in[c.w:], n-c.w)
		if c.w += k; err != nil {
			return nil, err
		}
	}
	c.r += n
	return c.in[c.r-n : c.r], nil
}

// skip drops n bytes of payload.
func (c *conn) skip(n int) error {
	for {
		drop := min(n, c.w-c.r)
		c.r += drop
		if n -= drop; n == 0 {
			return nil
		}
		c.submit()
		if err := c.await(nil); err != nil {
			return err
		}
	}
}

// receive fills dst; the receive buffer is empty.
func (c *conn) receive(dst []byte) error {
	for {
		err := c.fill(dst, false)
		if err == errAgain {
			err = c.await(dst)
		}
		if err != nil {
			return err
		}
		if c.rn >= len(dst) {
			return nil
		}
		dst = dst[c.rn:]
	}
}

// await is fill with a limit on how long the client may take.
func (c *conn) await(dst []byte) error {
	if err := c.srv.stall(c, true); err != nil {
		return err
	}
	if err := c.fill(dst, true); err != nil {
		if c.late.Load() {
			return fmt.Errorf("the client sent half a write and nothing for %v", StallTime)
		}
		return err
	}
	return c.srv.stall(c, false)
}

// tooLate ends a stall: the reader finds the connection's end.
func (c *conn) tooLate() {
	c.late.Store(true)
	c.sock.CloseRead()
}

var errAgain = errors.New("nothing to read")

// fill reads what there is: into direct first, if any, then into the receive buffer behind what is in it.
// c.rn is the number of bytes read. Without wait it returns errAgain instead of waiting.
func (c *conn) fill(direct []byte, wait bool) error {
	if c.r > 0 { // less than one header is left, or nothing: a cheap move
		copy(c.in, c.in[c.r:c.w])
		c.r, c.w = 0, c.w-c.r
	}
	ahead := c.in[c.w:]
	if c.big {
		ahead = ahead[:min(len(ahead), bigTail)]
	}
	c.rcount = 0
	for _, b := range [2][]byte{direct, ahead} {
		if len(b) > 0 {
			c.riov[c.rcount].Base = &b[0]
			c.riov[c.rcount].SetLen(len(b))
			c.rcount++
		}
	}
	var errno unix.Errno
	if wait {
		c.rn, errno = c.wait.Readv(c.sock, c.riov[:c.rcount])
	} else {
		c.rn, errno = c.wait.Look(c.sock, c.riov[:c.rcount]) // the rest of a payload is on its way, as a rule
	}
	switch {
	case errno == unix.EAGAIN:
		return errAgain
	case errno != 0:
		return errno
	case c.rn == 0 && c.srv.isStopped():
		return errStopped
	case c.rn == 0:
		return io.EOF
	}
	c.w += max(0, c.rn-len(direct))
	return nil
}
