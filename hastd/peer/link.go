package peer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"hast/proto/wire"
)

// Handler is the engine's side of a link. Frame, Buffer and Idle of one
// connection are called from one goroutine, those of the two connections concurrently. Nothing is called
// after Run has returned.
type Handler interface {
	// Buffer returns the destination of a frame that brings data (Write, Data without error, Digest): at
	// least h.DataSize() bytes, of which the first are used. It belongs to the link until Frame is called with it, or
	// Run returns. It may wait for a free one; nil ends the link.
	Buffer(k Kind, h *wire.Header) []byte
	// Frame delivers a frame whose payload is verified: the data in what Buffer
	// returned, or a control frame's body, which is borrowed during the call, as h is. h.Compression is CompressionHole where the
	// data are zeroes (the buffer is filled all the same). Keepalives are not delivered.
	Frame(k Kind, h *wire.Header, payload []byte)
	// Idle is called after one or more Frames when no further complete frame is
	// at hand, before the goroutine reads from the network again.
	Idle(k Kind)
	// Sent gives back the payloads of data frames by the tags that Send was called with, after they have left
	// this process. Called from any goroutine, without locks of the link's; tags is borrowed.
	Sent(k Kind, tags []uint32)
}

// ErrClosed is the cause of a link that this node ended.
var ErrClosed = errors.New("link closed")

// ErrSilent says that nothing came from the peer for the timeout.
var ErrSilent = errors.New("the peer is silent: dead, frozen or cut off")

// Bye is the end that the peer announced.
type Bye struct {
	Code uint64
	Text string
}

// Error says what the peer said.
func (b *Bye) Error() string { return "the peer ended the connection: " + b.Text }

// closeWait bounds what Close waits for the peer to read the last frames: longer than a round trip, shorter
// than anybody's patience (rule 14).
const closeWait = time.Second

// Link is an authenticated pair of connections. Send, Flush, Close, Counters
// and More may be called from any goroutine; Run once.
type Link struct {
	cfg     Config
	handler Handler
	cipher  string
	send    [2]sender // by Kind-1
	recv    [2]receiver
	patient atomic.Int64  // the timeout in force, in nanoseconds
	retuned chan struct{} // it is another one

	started atomic.Bool // Run was called
	leaving atomic.Bool // Close was called, and reason is set
	byed    atomic.Bool // a Bye was queued
	closing chan struct{}
	closed  sync.Once
	reason  string
	once    sync.Once
	cause   error
	done    chan struct{} // closed by the first failure; cause is set before
}

func newLink(cfg *Config, chans []*channel) (*Link, error) {
	l := &Link{cfg: *cfg, cipher: "none", done: make(chan struct{}), closing: make(chan struct{}), retuned: make(chan struct{}, 1)}
	l.patient.Store(int64(cfg.Timeout))
	l.cfg.Key = nil // not needed any more, so not kept
	for _, c := range chans {
		if c.sock == nil {
			c.sock = &socket{raw: c.raw}
		}
	}
	for i, c := range chans {
		if err := c.sock.begin(l.recv[i].idle); err != nil {
			for _, c := range chans {
				c.sock.Close()
			}
			return nil, err
		}
		c.sock.wait.Spin = c.kind == cfg.Awake
		l.send[i].init(l, c)
		l.recv[i].init(l, c)
		if c.tls != nil {
			l.cipher = tlsName(c.tls)
		}
	}
	return l, nil
}

// Cipher names the TLS cipher suite, or is "none".
func (l *Link) Cipher() string { return l.cipher }

// Run moves frames until the link ends, and says why: an error that wraps
// ErrClosed, ErrSilent, a *Bye, the context's cause, or what the network or the peer did wrong. When it returns,
// both connections are closed, all payloads were given back by Sent, and no goroutine is left.
func (l *Link) Run(ctx context.Context, h Handler) error {
	l.handler = h
	var wg sync.WaitGroup
	for i := range l.send {
		wg.Go(l.send[i].background)
	}
	l.started.Store(true)
	for i := range l.recv {
		wg.Go(l.recv[i].run)
	}
	wg.Go(l.watch)
	wg.Go(l.leave)
	l.Flush(Data) // what was queued before Run
	l.Flush(Control)
	select {
	case <-ctx.Done():
		l.fail(fmt.Errorf("%w: %w", ErrClosed, context.Cause(ctx)))
	case <-l.done:
	}
	l.shut()
	wg.Wait()
	for i := range l.recv {
		l.recv[i].turn.Lock() // whoever assists is out, and finds the link over
		l.recv[i].turn.Unlock()
	}
	for i := range l.send {
		l.send[i].finish()
	}
	return l.cause
}

// fail ends the link; the first reason counts. It does not wait.
func (l *Link) fail(err error) {
	l.once.Do(func() {
		l.cause = err
		close(l.done)
		l.shut()
		for i := range l.send {
			l.send[i].wakeAll()
		}
	})
}

func (l *Link) shut() {
	for i := range l.send {
		l.send[i].sock.Close()
	}
}

// failed returns the cause once there is one.
func (l *Link) failed() error {
	select {
	case <-l.done:
		return l.cause
	default:
		return nil
	}
}

// Close ends the link: what is queued and a Bye with reason are sent if the peer takes them within a bound
// (one second, or the timeout if that is shorter); then Run returns with ErrClosed. Close does not wait for Run, so it may be
// called from a Handler. A second call does nothing.
func (l *Link) Close(reason string) {
	l.closed.Do(func() {
		l.reason = reason
		l.leaving.Store(true)
		close(l.closing)
		if !l.started.Load() { // nobody would close the sockets
			l.ended(nil)
		}
	})
}

// leave waits for Close and then ends the link within closeWait.
func (l *Link) leave() {
	select {
	case <-l.closing:
	case <-l.done:
		return
	}
	timer := time.AfterFunc(min(closeWait, l.timeout()), func() { l.ended(nil) })
	defer timer.Stop()
	if !l.byed.Load() { // a machine may have said it in its own words
		h := wire.Header{Type: wire.TypeBye}
		text := printable(l.reason)
		_ = l.Send(Control, &h, text[:min(len(text), wire.MaxByeText)], 0)
	}
	l.Flush(Data)
	l.Flush(Control)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for shut := false; ; {
		if !shut && l.send[0].empty() && l.send[1].empty() {
			// The peer reads the Bye, then sees the end, and closes: that ends our readers. To close at once could reset
			// the connection and take the Bye from the peer's receive queue; the end of the data connection might overtake it.
			l.send[Control-1].sock.conn.CloseWrite()
			shut = true
		}
		select {
		case <-l.done:
			return
		case <-tick.C:
		}
	}
}

// ended is a failure that is expected while the link is being closed.
func (l *Link) ended(err error) {
	if l.leaving.Load() {
		err = fmt.Errorf("%w: %s", ErrClosed, l.reason)
	}
	l.fail(err)
}

// Counters of one connection since the handshake. Bytes are those of frames, before TLS.
type Counters struct {
	FramesIn, FramesOut uint64
	BytesIn, BytesOut   uint64
	// DataIn and DataOut are the bytes that the payloads stand for: more than the bytes sent where compression pays.
	DataIn, DataOut uint64
	Queued          int // frames that wait to be written
}

// Counters returns the totals of connection k.
func (l *Link) Counters(k Kind) Counters {
	s, r := &l.send[k-1], &l.recv[k-1]
	return Counters{
		FramesIn: r.frames.Load(), BytesIn: r.bytes.Load(), DataIn: r.data.Load(),
		FramesOut: s.frames.Load(), BytesOut: s.bytes.Load(), DataOut: s.data.Load(), Queued: s.queued(),
	}
}
