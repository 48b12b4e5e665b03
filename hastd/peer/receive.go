package peer

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"hast/proto"
	"hast/proto/wire"

	"golang.org/x/sys/unix"
)

// A connection's receiving side: one goroutine with one buffer. Small frames
// come many with one read and are copied out of the buffer; of a large payload, what is not in the buffer yet is read
// straight into its destination, together with the beginning of the next frame.

const (
	// receiveBuffer holds the largest control body, and a dozen frames of 4 KiB.
	receiveBuffer = wire.MaxBody + 8<<10
	// bigBody: behind a payload of this many bytes, probably another one of its size follows; then only
	bigBody = 32 << 10
	// bigTail bytes are read beyond it, so that the rest is not copied.
	bigTail = 4 << 10
)

type receiver struct {
	link *Link
	kind Kind
	sock *socket
	tls  *tls.Conn

	buf     []byte
	r, w    int // buf[r:w] has arrived and is not used
	head    wire.Header
	prefix  [wire.PrefixSize]byte
	scratch []byte // for compressed payloads that exceed buf
	dirty   bool   // frames were delivered since the last Idle
	big     bool

	turn   sync.Mutex    // held by whoever reads
	assist atomic.Bool   // somebody reads in place of run: see Assist
	rest   chan struct{} // ... and has ceased to
	polls  atomic.Uint64 // how often somebody did

	iov [2]unix.Iovec

	reads atomic.Uint64 // successful reads: the sign of life
	busy  atomic.Bool   // in the handler: silence is our own then

	frames, bytes, data atomic.Uint64
}

func (r *receiver) init(l *Link, c *channel) {
	r.link, r.kind, r.sock, r.tls = l, c.kind, c.sock, c.tls
	r.buf = make([]byte, receiveBuffer)
	r.rest = make(chan struct{}, 1)
}

func (r *receiver) run() {
	for {
		if r.assist.Load() {
			r.turn.Lock()
			err := r.whole() // what came with the last frame
			r.turn.Unlock()
			if err != nil {
				r.link.ended(err)
				return
			}
			select {
			case <-r.rest:
			case <-r.link.done:
				return
			}
			continue
		}
		r.turn.Lock()
		err := r.frame()
		if err != nil {
			r.idle() // what was delivered still counts
		}
		r.turn.Unlock()
		if err != nil {
			r.awaitBye(err)
			r.link.ended(err)
			return
		}
	}
}

// byeWait is how long the end of the data connection waits for what the control connection still has: its reader may be scheduled later, not
// by much.
const byeWait = 200 * time.Millisecond

// awaitBye lets the peer's last words count, when it has closed both connections: the end of this one says less.
func (r *receiver) awaitBye(err error) {
	if r.kind != Data || !errors.Is(err, io.EOF) {
		return
	}
	t := time.NewTimer(byeWait)
	defer t.Stop()
	select {
	case <-r.link.done:
	case <-t.C:
	}
}

// frame receives one frame and delivers it.
func (r *receiver) frame() error {
	if err := r.fill(wire.HeaderSize); err != nil {
		if err == io.EOF && r.w > r.r {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("receive on the %s connection: %w", r.kind, err)
	}
	h := &r.head
	if err := wire.Decode(r.buf[r.r:r.w], h); err != nil {
		return r.garbage(err)
	}
	r.r += wire.HeaderSize
	if (r.kind == Data) != h.Type.OnData() {
		return r.garbage(fmt.Errorf("a %s frame does not belong here", h.Type))
	}
	if n := h.Prefix(); n > 0 {
		if err := r.fill(n); err != nil {
			return r.cut(err)
		}
		copy(r.prefix[:], r.buf[r.r:r.w])
		r.r += n
	}
	payload, err := r.payload(h)
	if err != nil {
		return err
	}
	r.frames.Add(1)
	r.bytes.Add(wire.HeaderSize + uint64(h.Payload))
	r.deliver(h, payload)
	if h.Type == wire.TypeBye {
		return &Bye{Code: h.Aux, Text: string(printable(string(payload)))}
	}
	return nil
}

func (r *receiver) deliver(h *wire.Header, payload []byte) {
	if h.Type == wire.TypeKeepalive {
		// Where much is queued, what is asked for is on its way.
		if l := r.link; h.Aux == wire.KeepaliveAsk && l.send[Control-1].queued() < QueueFrames/2 {
			l.keepalive(0)
		}
		return
	}
	r.busy.Store(true)
	r.link.handler.Frame(r.kind, h, payload)
	r.busy.Store(false)
	r.dirty = true
}

// idle tells the handler, once after each run of frames, that a read follows.
func (r *receiver) idle() {
	if !r.dirty {
		return
	}
	r.dirty = false
	r.busy.Store(true)
	r.link.handler.Idle(r.kind)
	r.busy.Store(false)
}

// payload receives what follows h and its prefix, verifies it, and makes the data of it.
func (r *receiver) payload(h *wire.Header) ([]byte, error) {
	n, size := h.Body(), h.DataSize()
	if size == 0 { // a control body, borrowed from the buffer, or nothing
		if n == 0 {
			return nil, nil
		}
		return r.buffered(h, n)
	}
	r.busy.Store(true)
	dst := r.link.handler.Buffer(r.kind, h)
	r.busy.Store(false)
	if len(dst) < size {
		return nil, fmt.Errorf("no buffer for a %s frame of %d bytes: the engine is closing or did not ask for it", h.Type, size)
	}
	dst = dst[:size:size]
	r.data.Add(uint64(size))
	r.big = n >= bigBody
	if h.Compression == wire.CompressionNone {
		if err := r.read(dst); err != nil {
			return nil, r.cut(err)
		}
		if err := wire.Verify(h, r.prefix[:h.Prefix()], dst); err != nil {
			return nil, r.garbage(err)
		}
		return dst, nil
	}
	body, err := r.compressed(h, n)
	if err != nil {
		return nil, err
	}
	if err := wire.Expand(h, body, dst); err != nil {
		return nil, r.garbage(err)
	}
	return dst, nil
}

// buffered returns n <= wire.MaxBody verified bytes of payload, in the buffer.
func (r *receiver) buffered(h *wire.Header, n int) ([]byte, error) {
	if err := r.fill(n); err != nil {
		return nil, r.cut(err)
	}
	body := r.buf[r.r : r.r+n : r.r+n]
	r.r += n
	if err := wire.Verify(h, r.prefix[:h.Prefix()], body); err != nil {
		return nil, r.garbage(err)
	}
	return body, nil
}

// compressed returns the n verified bytes of a payload that has to be expanded.
func (r *receiver) compressed(h *wire.Header, n int) ([]byte, error) {
	if n <= wire.MaxBody {
		return r.buffered(h, n)
	}
	if r.scratch == nil {
		r.scratch = make([]byte, proto.MaxRequest) // once, and the same whatever the peer says (rule 15)
	}
	body := r.scratch[:n]
	if err := r.read(body); err != nil {
		return nil, r.cut(err)
	}
	if err := wire.Verify(h, r.prefix[:h.Prefix()], body); err != nil {
		return nil, r.garbage(err)
	}
	return body, nil
}

// fill reads until n <= receiveBuffer bytes are buffered.
func (r *receiver) fill(n int) error {
	if r.w-r.r >= n {
		return nil
	}
	if r.r == r.w {
		r.r, r.w = 0, 0
	} else if len(r.buf)-r.r < n {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	limit := len(r.buf)
	if r.big {
		limit = min(limit, r.w+max(bigTail, n))
	}
	for r.w-r.r < n {
		k, err := r.some(r.buf[r.w:limit])
		r.w += k
		if err != nil {
			return err
		}
	}
	return nil
}

// some reads at least one byte.
func (r *receiver) some(b []byte) (n int, err error) {
	if r.tls != nil {
		n, err = r.tls.Read(b)
	} else {
		n, err = r.sock.Read(b)
	}
	if n > 0 {
		r.reads.Add(1)
		return n, nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return 0, err
}

// read fills dst, from the buffer first.
func (r *receiver) read(dst []byte) error {
	n := copy(dst, r.buf[r.r:r.w])
	r.r += n
	dst = dst[n:]
	for len(dst) > 0 { // the buffer is empty now
		if r.tls != nil {
			n, err := r.some(dst)
			if err != nil {
				return err
			}
			dst = dst[n:]
			continue
		}
		n, err := r.scatter(dst)
		if err != nil {
			return err
		}
		dst = dst[n:]
	}
	return nil
}

// scatter reads into dst and, behind it, the empty buffer, with one system call. It returns the bytes in dst.
func (r *receiver) scatter(dst []byte) (int, error) {
	tail := len(r.buf)
	if r.big {
		tail = bigTail
	}
	r.r, r.w = 0, 0
	r.iov[0] = unix.Iovec{Base: &dst[0], Len: uint64(len(dst))}
	r.iov[1] = unix.Iovec{Base: &r.buf[0], Len: uint64(tail)}
	n, err := r.sock.readv(r.iov[:])
	r.iov[0].Base = nil // the engine's again
	if err != nil {
		return 0, err
	}
	r.reads.Add(1)
	if n > len(dst) {
		r.w = n - len(dst)
		return len(dst), nil
	}
	return n, nil
}

// garbage says where the stream is not what the protocol asks for.
func (r *receiver) garbage(err error) error {
	return fmt.Errorf("%s connection, frame %d at byte %d: %w", r.kind, r.frames.Load(), r.bytes.Load(), err)
}

// cut says that the stream ended inside a frame.
func (r *receiver) cut(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return r.garbage(err)
}

// Assist takes in what has arrived on connection k, if anything, in the caller's goroutine, and from now on keeps the link's own
// goroutine from waiting for more, until Rest: the caller promises to look again at once, and to call Rest before it does
// anything slow. (If it does not keep the promise the link goes on without it.) It returns whether frames were
// delivered; they are before it returns. Any goroutine may call it, but none that is in a Handler.
//
// One request at a time is the case that this is for: who waits for its answer is awake already, and
// the thread that would be woken to read it need not be.
func (l *Link) Assist(k Kind) bool {
	r := &l.recv[k-1]
	if !l.started.Load() || l.failed() != nil {
		return false
	}
	if !r.assist.Load() {
		r.assist.Store(true)
	}
	if !r.turn.TryLock() {
		return false // run is in its last read
	}
	defer r.turn.Unlock()
	return r.poll()
}

// Rest ends what Assist began.
func (l *Link) Rest(k Kind) {
	r := &l.recv[k-1]
	if r.assist.Load() && r.assist.Swap(false) {
		select {
		case r.rest <- struct{}{}:
		default:
		}
	}
}

// poll is one read without waiting; the caller has the turn.
func (r *receiver) poll() bool {
	if r.link.failed() != nil {
		return false // Run is about to return, or has
	}
	r.polls.Add(1)
	if r.dirty || r.complete() { // run was about to
		if err := r.whole(); err != nil {
			r.link.ended(err)
		}
		return true
	}
	if r.r == r.w {
		r.r, r.w = 0, 0
	} else if r.w == len(r.buf) {
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	r.sock.nowait = true
	var n int
	var err error
	if r.tls != nil {
		n, err = r.tls.Read(r.buf[r.w:])
	} else {
		n, err = r.sock.Read(r.buf[r.w:])
	}
	r.sock.nowait = false
	switch {
	case err == errAgain:
		return false
	case err != nil || n == 0: // the end, which run will find as well
		r.link.Rest(r.kind)
		return false
	}
	r.w += n
	r.reads.Add(1)
	before := r.frames.Load()
	if err := r.whole(); err != nil {
		r.link.ended(err)
	}
	return r.frames.Load() != before
}

// whole delivers the frames that are in the buffer from end to end.
func (r *receiver) whole() (err error) {
	for err == nil && r.complete() {
		err = r.frame()
	}
	r.idle()
	return err
}

// More reports whether a further complete frame of connection k is at hand
// without a read. Only for use inside Handler.Frame of that connection. With TLS there may be more than it knows of.
func (l *Link) More(k Kind) bool {
	return l.recv[k-1].complete()
}

// complete reports whether the buffer holds a whole frame.
func (r *receiver) complete() bool {
	n := r.w - r.r
	return n >= wire.HeaderSize && uint64(n-wire.HeaderSize) >= uint64(binary.LittleEndian.Uint32(r.buf[r.r+28:]))
}
