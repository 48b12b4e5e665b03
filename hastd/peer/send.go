package peer

import (
	"crypto/tls"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"hast/proto/wire"

	"golang.org/x/sys/unix"
)

// A connection's sending side:
//
//	Send   encodes the frame into the next slot of a ring; the payload is referenced
//	Flush  whoever comes first takes all slots, builds one vector (or encrypts into one buffer), and writes it
//	       without blocking; the others return at once, since the first looks for more before it goes
//	background takes over when the socket is full: a reader that blocked in a write could
//	       deadlock with a peer that does the same
//
// A slot is free again, and its tag handed to Sent, when its last byte is in the kernel.

const (
	// QueueFrames is the most frames that wait on one connection: more than an engine has requests, so that only a
	// handshake's bitmap ever fills it.
	QueueFrames = 4096
	// queueBodies bounds the memory in bytes of queued control bodies, which are copied: 64 frames of the largest kind.
	queueBodies = 64 * wire.MaxBody
	// arenaSize is the memory in bytes for compressed payloads that wait; when it is full, payloads go uncompressed.
	arenaSize = 4 << 20
	// batchFrames and batchBytes bound one write, so that slots are given back in time. IOV_MAX is 1024, a frame needs three at most.
	batchFrames = 340
	batchBytes  = 512 << 10
	// recordSize is the largest plaintext of a TLS record in bytes.
	recordSize = 16 << 10
)

// errQueue means that the peer takes nothing.
var errQueue = errors.New("the peer takes no data: the send queue stayed full for the timeout")

// slot is a queued frame; its header is in sender.heads, its SHA-256 prefix in sender.sums.
type slot struct {
	body   []byte // borrowed from the engine, or of the arena, or owned (control bodies)
	tag    uint32
	tagged bool
	owned  int  // bytes of body that count against queueBodies
	prefix bool // a SHA-256 sum goes first
	arena  uint64
}

type sender struct {
	link *Link
	kind Kind
	sock *socket
	tls  *tls.Conn
	wake chan struct{} // to background: the socket is full

	order sync.Mutex // held through Send: encoding happens in queue order
	enc   *wire.Encoder
	next  atomic.Pointer[wire.Encoder] // of the next frame, if not nil: see Retune

	mu      sync.Mutex
	room    sync.Cond // slots were freed, or the drain ended
	head    uint64    // oldest slot in use
	taken   uint64    // first slot not yet in a batch
	tail    uint64    // next free slot
	bodies  int
	arenaR  uint64 // arena bytes freed, total
	writing bool   // somebody drains
	handed  bool   // ... and background has not begun to
	dead    bool   // no drain begins any more
	last    atomic.Int64

	slots  []slot
	heads  []byte
	sums   [][wire.PrefixSize]byte
	arena  []byte
	arenaW uint64 // total, under order

	// Of whoever drains:
	iov   []unix.Iovec
	at    int    // first entry of iov with unwritten bytes
	plain []byte // TLS: bytes of a record that is not full
	tags  []uint32

	frames, bytes, data atomic.Uint64
}

func (s *sender) init(l *Link, c *channel) {
	s.link, s.kind, s.sock, s.tls = l, c.kind, c.sock, c.tls
	s.room.L = &s.mu
	s.wake = make(chan struct{}, 1)
	s.enc = wire.NewEncoder(l.cfg.Compression, l.cfg.Checksum)
	s.slots = make([]slot, QueueFrames)
	s.heads = make([]byte, QueueFrames*wire.HeaderSize)
	s.sums = make([][wire.PrefixSize]byte, QueueFrames)
	s.tags = make([]uint32, 0, batchFrames)
	s.iov = make([]unix.Iovec, 0, 3*batchFrames)
	if s.tls != nil {
		s.plain = make([]byte, 0, recordSize)
		s.sock.take(false)
		s.sock.out = make([]byte, 0, batchBytes+batchBytes/8)
	}
	s.touch()
}

// touch notes that something is being sent, for the keepalive.
func (s *sender) touch() { s.last.Store(time.Now().UnixNano()) }

// Send queues a frame on connection k; it is written by the next Flush. h needs Type, Flags, Seq, Offset, Length and Aux; the
// rest is set here. Frames of one connection go out in the order of the calls.
//
// payload of a data frame (Write, Data, Digest) has h.DataSize() bytes and is borrowed until Sent is called
// with tag, exactly once, at the latest before Run returns. payload of a control frame is copied. Send waits while
// QueueFrames frames are queued (or 4 MiB of control bodies), at most for the timeout; it does not call Sent, but waits for a
// goroutine that may. An error means that the frame is not queued (and there will be no Sent) and the link is over.
func (l *Link) Send(k Kind, h *wire.Header, payload []byte, tag uint32) error {
	if (k == Data) != h.Type.OnData() {
		return l.misuse(fmt.Errorf("a %s frame does not belong on the %s connection", h.Type, k))
	}
	if h.Type == wire.TypeBye {
		l.byed.Store(true)
	}
	s := &l.send[k-1]
	s.order.Lock()
	defer s.order.Unlock()
	if err := s.await(k, len(payload)); err != nil {
		return err
	}
	if s.next.Load() != nil {
		s.enc = s.next.Swap(nil)
	}
	i := s.tail % QueueFrames // tail only moves here, under order
	e := &s.slots[i]
	*e = slot{tag: tag}
	if k == Control {
		s.enc.Body(h, payload, &s.sums[i])
		if len(payload) > 0 {
			e.body, e.owned = append([]byte(nil), payload...), len(payload)
		}
	} else if size := h.DataSize(); size > 0 {
		if len(payload) != size {
			return l.misuse(fmt.Errorf("a %s frame of %d bytes with a payload of %d", h.Type, size, len(payload)))
		}
		e.body, e.tagged = s.encode(h, payload, i), true
		s.data.Add(uint64(size))
	} else {
		h.Compression, h.Checksum, h.Payload, h.Sum = wire.CompressionNone, wire.ChecksumNone, 0, 0
	}
	e.prefix, e.arena = h.Prefix() > 0, s.arenaW
	wire.Encode(h, s.heads[i*wire.HeaderSize:])
	s.frames.Add(1)
	s.bytes.Add(wire.HeaderSize + uint64(h.Payload))
	s.mu.Lock()
	s.tail++
	s.bodies += e.owned
	s.mu.Unlock()
	return nil
}

// misuse ends the link for a frame that our own side should not have sent: to drop it would leave both sides waiting.
func (l *Link) misuse(err error) error {
	err = fmt.Errorf("internal error: %w", err)
	l.fail(err)
	return err
}

// encode compresses and sums payload; the result is payload, a part of the arena, or nothing.
func (s *sender) encode(h *wire.Header, payload []byte, i uint64) []byte {
	var scratch []byte
	start := s.arenaW
	if s.enc.Wants(len(payload)) {
		if s.arena == nil {
			s.arena = make([]byte, arenaSize) // it stays, should compression be changed again: queued frames lie in it
		}
		n := uint64(wire.ScratchSize(len(payload)))
		if at := start % arenaSize; at+n > arenaSize {
			start += arenaSize - at // a payload is in one piece
		}
		s.mu.Lock()
		free := s.arenaR + arenaSize
		s.mu.Unlock()
		if start+n <= free {
			scratch = s.arena[start%arenaSize:][:n:n]
		}
	}
	body := s.enc.Payload(h, payload, scratch, &s.sums[i])
	if h.Compression == wire.CompressionLZ4 {
		s.arenaW = start + uint64(len(body))
	}
	return body
}

// await waits for a free slot, and room for a control body.
func (s *sender) await(k Kind, n int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	full := func() bool {
		return s.tail-s.head == QueueFrames || k == Control && n > 0 && s.bodies > 0 && s.bodies+n > queueBodies
	}
	if full() {
		wait := time.AfterFunc(s.link.timeout(), func() { s.link.fail(errQueue) })
		defer wait.Stop()
	}
	for {
		if err := s.link.failed(); err != nil {
			return err
		}
		if !full() {
			return nil
		}
		if !s.link.started.Load() {
			return errors.New("the send queue is full and the link does not run yet")
		}
		if s.claim() {
			s.handOver() // Send never calls Sent, so the caller may hold its lock
		}
		s.room.Wait()
	}
}

// claim makes the caller the one who drains, if nobody does and there is something. Under mu.
func (s *sender) claim() bool {
	if s.writing || s.dead || s.taken == s.tail || !s.link.started.Load() {
		return false
	}
	s.writing = true
	return true
}

// handOver leaves the drain to background. Under mu.
func (s *sender) handOver() {
	s.handed = true
	s.room.Broadcast()
	s.wake <- struct{}{} // never blocks: there is one drain, and one place in the channel
}

// Flush writes what is queued on connection k. It does not block on the network. It must not be called with a lock
// held that Handler.Sent takes. Before Run it does nothing: Run flushes.
func (l *Link) Flush(k Kind) {
	s := &l.send[k-1]
	s.mu.Lock()
	mine := s.claim()
	s.mu.Unlock()
	if mine {
		s.drain(false)
	}
}

// drain writes batches until nothing is queued. The caller has claimed it.
// Where the socket is full it waits (background), or leaves the rest to background.
func (s *sender) drain(wait bool) {
	for {
		if s.at == len(s.iov) && !s.gather() {
			return
		}
		s.touch()
		if err := s.write(wait); err == unix.EAGAIN {
			s.mu.Lock()
			s.handOver()
			s.mu.Unlock()
			return
		} else if err != nil {
			s.link.ended(err)
			s.release()
			return
		}
		s.complete()
	}
}

// gather takes the next batch into iov. It returns false, and ends the drain, if there is nothing.
func (s *sender) gather() bool {
	s.mu.Lock()
	from, to := s.taken, s.tail
	if from == to || s.dead {
		s.writing = false
		s.room.Broadcast()
		s.mu.Unlock()
		return false
	}
	s.mu.Unlock()
	s.iov, s.at = s.iov[:0], 0
	if s.tls != nil {
		s.sock.take(true)
	}
	var bytes int
	for ; from < to && bytes < batchBytes && len(s.iov)+3 <= cap(s.iov); from++ {
		i := from % QueueFrames
		e := &s.slots[i]
		s.put(s.heads[i*wire.HeaderSize:][:wire.HeaderSize])
		if e.prefix {
			s.put(s.sums[i][:])
		}
		if len(e.body) > 0 {
			s.put(e.body)
		}
		bytes += wire.HeaderSize + len(e.body)
	}
	if s.tls != nil {
		s.seal()
	}
	s.mu.Lock()
	s.taken = from
	s.mu.Unlock()
	return true
}

// put adds b to the batch: to the vector, joined with its predecessor where
// they are neighbours in memory (headers of frames without payload), or to the TLS record.
func (s *sender) put(b []byte) {
	if s.tls != nil {
		s.encrypt(b)
		return
	}
	if n := len(s.iov); n > 0 {
		if p := &s.iov[n-1]; neighbours(p, &b[0]) {
			p.SetLen(int(p.Len) + len(b))
			return
		}
	}
	s.iov = append(s.iov, unix.Iovec{Base: &b[0], Len: uint64(len(b))})
}

// encrypt passes b to TLS in full records; what does not fill one waits for more.
// Large payloads are encrypted from where they are.
func (s *sender) encrypt(b []byte) {
	for len(b) > 0 {
		if len(s.plain) == 0 && len(b) >= recordSize {
			n := len(b) / recordSize * recordSize
			s.record(b[:n])
			b = b[n:]
			continue
		}
		n := copy(s.plain[len(s.plain):recordSize], b)
		s.plain, b = s.plain[:len(s.plain)+n], b[n:]
		if len(s.plain) == recordSize {
			s.record(s.plain)
			s.plain = s.plain[:0]
		}
	}
}

func (s *sender) record(b []byte) {
	if _, err := s.tls.Write(b); err != nil {
		s.link.fail(fmt.Errorf("encrypt: %w", err))
	}
}

// seal ends a TLS batch: what is left becomes a record, and the collected records the vector.
func (s *sender) seal() {
	if len(s.plain) > 0 {
		s.record(s.plain)
		s.plain = s.plain[:0]
	}
	s.sock.take(false)
	if out := s.sock.out; len(out) > 0 {
		s.iov = append(s.iov, unix.Iovec{Base: &out[0], Len: uint64(len(out))})
	}
}

// write writes the rest of the vector. EAGAIN: the socket is full, and wait is false.
func (s *sender) write(wait bool) error {
	for s.at < len(s.iov) {
		n, errno := s.sock.conn.Writev(s.iov[s.at:])
		switch {
		case errno == 0:
			s.advance(n)
		case errno == unix.EAGAIN && !wait:
			return unix.EAGAIN
		case errno == unix.EAGAIN:
			// Progress renews the limit, so it is the time for which the peer takes nothing.
			if limit := s.link.timeout(); !s.sock.conn.AwaitRoom(limit) {
				return fmt.Errorf("the peer took nothing on the %s connection for %v", s.kind, limit)
			}
		default:
			return fmt.Errorf("write to the %s connection: %w", s.kind, errno)
		}
	}
	return nil
}

// advance skips n written bytes.
func (s *sender) advance(n int) {
	for n > 0 {
		v := &s.iov[s.at]
		if uint64(n) < v.Len {
			v.Base = addressPlus(v.Base, n)
			v.Len -= uint64(n)
			return
		}
		n -= int(v.Len)
		s.at++
	}
}

// complete frees the slots of the batch that was written, and tells the engine.
func (s *sender) complete() {
	clear(s.iov)
	s.iov, s.at = s.iov[:0], 0
	if s.tls != nil {
		s.sock.out = s.sock.out[:0]
	}
	s.free(s.taken)
}

// free gives back the slots before end, in groups that fit tags.
func (s *sender) free(end uint64) {
	for s.head < end {
		s.mu.Lock()
		s.tags = s.tags[:0]
		for s.head < end && len(s.tags) < cap(s.tags) {
			e := &s.slots[s.head%QueueFrames]
			if e.tagged {
				s.tags = append(s.tags, e.tag)
			}
			s.bodies -= e.owned
			s.arenaR = e.arena
			*e = slot{}
			s.head++
		}
		s.room.Broadcast()
		s.mu.Unlock()
		if len(s.tags) > 0 {
			s.link.handler.Sent(s.kind, s.tags)
		}
	}
}

// background writes when Flush could not: it waits for the socket.
func (s *sender) background() {
	for {
		select {
		case <-s.wake:
			s.mu.Lock()
			s.handed = false
			s.mu.Unlock()
			s.drain(true)
		case <-s.link.done:
			return
		}
	}
}

// release ends a drain that failed, and with it all draining.
func (s *sender) release() {
	s.mu.Lock()
	s.dead, s.writing = true, false
	s.room.Broadcast()
	s.mu.Unlock()
}

// finish gives back everything that was never sent. Run calls it when its own goroutines have ended; it waits
// for a Flush that another goroutine is in, and none begins afterwards.
func (s *sender) finish() {
	s.order.Lock() // a Send that has begun ends; the next one finds the link over
	s.mu.Lock()
	s.order.Unlock() // not held during Sent, which may wait for a lock of a goroutine that waits in Send
	s.dead = true
	for s.writing && !s.handed { // handed over to a background that has ended: nobody drains
		s.room.Wait()
	}
	end := s.tail
	s.mu.Unlock()
	clear(s.iov[:cap(s.iov)])
	s.free(end)
}

func (s *sender) wakeAll() {
	s.mu.Lock()
	s.room.Broadcast()
	s.mu.Unlock()
}

// empty reports whether everything queued is in the kernel.
func (s *sender) empty() bool { return s.queued() == 0 }

func (s *sender) queued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.tail - s.head)
}
