package peer

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"hast/proto"
	"hast/proto/wire"

	"golang.org/x/sys/unix"
)

// tagTable is a table of payload buffers as an engine has one: a buffer is used
// again, and poisoned, as soon as Sent gives it back.
type tagTable struct {
	recorder
	mu   sync.Mutex
	free chan uint32
	bufs [][]byte
	out  map[uint32]bool
}

func newTagTable(n int) *tagTable {
	t := &tagTable{free: make(chan uint32, n), bufs: make([][]byte, n), out: map[uint32]bool{}}
	for i := range n {
		t.bufs[i] = make([]byte, proto.MaxRequest)
		t.free <- uint32(i)
	}
	return t
}

func (t *tagTable) Sent(_ Kind, tags []uint32) {
	t.mu.Lock()
	for _, tag := range tags {
		if !t.out[tag] {
			panic("a tag that was not sent, or twice")
		}
		delete(t.out, tag)
		b := t.bufs[tag]
		for i := 0; i < len(b); i += 512 {
			b[i] = 0xdd // poison
		}
	}
	t.mu.Unlock()
	for _, tag := range tags {
		t.free <- tag
	}
}

// pattern fills b by a seed: zeroes, text, noise, or one byte only.
func pattern(b []byte, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 0))
	switch seed % 4 {
	case 0:
		clear(b)
	case 1:
		for i := range b {
			b[i] = "all work and no play "[i%21]
		}
		binary.LittleEndian.PutUint64(b, seed)
	default:
		for i := 0; i+8 <= len(b); i += 8 {
			binary.LittleEndian.PutUint64(b[i:], r.Uint64())
		}
	}
}

// checker receives what mixer sends and compares.
type checker struct {
	recorder
	t       testing.TB
	scratch []byte
	next    uint64
	buf     []byte
	seen    int
}

func (c *checker) Buffer(_ Kind, h *wire.Header) []byte { return c.buf[:h.DataSize()] }

func (c *checker) Frame(k Kind, h *wire.Header, p []byte) {
	if k != Data {
		c.recorder.Frame(k, h, p)
		return
	}
	if h.Seq != c.next {
		c.t.Errorf("frame %d arrived as number %d", h.Seq, c.next)
	}
	c.next++
	c.seen++
	if h.Type == wire.TypeWrite || h.Type == wire.TypeDigest {
		want := c.scratch[:h.DataSize()]
		pattern(want, h.Seq)
		if !bytes.Equal(p, want) {
			c.t.Errorf("frame %d (%s, %d bytes, %s/%s): data differ", h.Seq, h.Type, h.Length, h.Compression, h.Checksum)
		}
	}
}

// TestMixed sends frames of all kinds and sizes with every compression and
// checksum, both ways at once, with buffers poisoned as soon as they are given back.
func TestMixed(t *testing.T) {
	modes(t, func(t *testing.T, encrypt bool) {
		for c := wire.CompressionNone; c.Valid(); c++ {
			for s := wire.ChecksumNone; s.Valid(); s++ {
				mixed(t, encrypt, c, s)
			}
		}
	})
}

func mixed(t *testing.T, encrypt bool, comp wire.Compression, sum wire.Checksum) {
	ca, cb := config("a"), config("b")
	ca.Encrypt, cb.Encrypt = encrypt, encrypt
	ca.Compression, ca.Checksum = comp, sum // b keeps hole and crc32c: the two need not agree
	a, b := links(t, ca, cb)
	handler := func() (*tagTable, *checker, Handler) {
		tt := newTagTable(8)
		ch := &checker{t: t, scratch: make([]byte, proto.MaxRequest), buf: make([]byte, proto.MaxRequest)}
		return tt, ch, &both2{ch, tt}
	}
	ta, cha, ha := handler()
	tb, chb, hb := handler()
	ra, rb := start(a, ha), start(b, hb)
	const frames = 60
	var wg sync.WaitGroup
	wg.Go(func() { sendMixed(t, a, ta, frames, 1) })
	wg.Go(func() { sendMixed(t, b, tb, frames, 2) })
	wg.Wait()
	until(t, "all tags to come back", func() bool { return len(ta.free) == 8 && len(tb.free) == 8 })
	until(t, "all frames", func() bool {
		return a.Counters(Data).FramesIn == frames && b.Counters(Data).FramesIn == frames
	})
	stop(t, ra, rb)
	if cha.seen != frames || chb.seen != frames {
		t.Errorf("%v/%v: %d and %d of %d frames", comp, sum, cha.seen, chb.seen, frames)
	}
	if n := b.Counters(Data); n.FramesIn != frames || n.BytesIn != a.Counters(Data).BytesOut {
		t.Errorf("counters %+v, %+v", n, a.Counters(Data))
	}
}

// both2 joins a checker's receiving with a table's Sent.
type both2 struct {
	*checker
	table *tagTable
}

func (b *both2) Sent(k Kind, tags []uint32) { b.table.Sent(k, tags) }

func sendMixed(t *testing.T, l *Link, tt *tagTable, frames int, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 99))
	sizes := []int{512, 4096, 4096, 8192, 65536, 131072, 99 * 512, 1 << 20}
	for i := range frames {
		var err error
		switch r.IntN(6) {
		case 0:
			err = l.Send(Data, &wire.Header{Type: wire.TypeFlush, Seq: uint64(i)}, nil, 0)
		case 1:
			tag := <-tt.free
			p := tt.bufs[tag][:64*wire.DigestSize]
			pattern(p, uint64(i))
			tt.take(tag)
			err = l.Send(Data, &wire.Header{Type: wire.TypeDigest, Seq: uint64(i), Length: 256 << 10}, p, tag)
		default:
			n := sizes[r.IntN(len(sizes))]
			tag := <-tt.free
			p := tt.bufs[tag][:n]
			pattern(p, uint64(i))
			tt.take(tag)
			err = l.Send(Data, &wire.Header{Type: wire.TypeWrite, Seq: uint64(i), Length: proto.Length(n)}, p, tag)
		}
		if err != nil {
			t.Error(err)
			return
		}
		if r.IntN(3) == 0 || len(tt.free) == 0 {
			l.Flush(Data)
		}
		if r.IntN(8) == 0 {
			l.Send(Control, &wire.Header{Type: wire.TypeAck, Seq: uint64(i)}, nil, 0)
			l.Flush(Control)
		}
	}
	l.Flush(Data)
}

func (t *tagTable) take(tag uint32) { t.mu.Lock(); t.out[tag] = true; t.mu.Unlock() }

// TestControlBodies: bodies of every size arrive, from memory that the caller changes at once.
func TestControlBodies(t *testing.T) {
	modes(t, func(t *testing.T, encrypt bool) {
		ca, cb := config("a"), config("b")
		ca.Encrypt, cb.Encrypt = encrypt, encrypt
		ca.Checksum = wire.ChecksumNone
		a, b := links(t, ca, cb)
		var rec recorder
		// Queued before Run, and more than fits the bound for bodies.
		body := make([]byte, wire.MaxBody)
		early := a.Send(Control, &wire.Header{Type: wire.TypeHello}, []byte("hello"), 0)
		ra, rb := start(a, &recorder{}), start(b, &rec)
		for i := range 200 {
			n := []int{0, 1, 100, 5000, wire.MaxBody}[i%5]
			pattern(body, uint64(i))
			if err := a.Send(Control, &wire.Header{Type: wire.TypeBitmap, Seq: uint64(i)}, body[:n], 0); err != nil {
				t.Fatal(err)
			}
		}
		a.Flush(Control)
		until(t, "the bodies", func() bool { n, _ := rec.count(); return n == 201 })
		stop(t, ra, rb)
		if early != nil || string(rec.frames[0].data) != "hello" {
			t.Errorf("sent before Run: %v", early)
		}
		want := make([]byte, wire.MaxBody)
		for i, g := range rec.frames[1:201] {
			pattern(want, uint64(i))
			if g.h.Seq != uint64(i) || !bytes.Equal(g.data, want[:len(g.data)]) || len(g.data) != []int{0, 1, 100, 5000, wire.MaxBody}[i%5] {
				t.Fatalf("body %d of %d bytes differs", i, len(g.data))
			}
		}
		if last := rec.frames[len(rec.frames)-1]; last.h.Type != wire.TypeBye || string(last.data) != "test over" {
			t.Errorf("the last frame is %s", last.h.Type)
		}
		if rec.idles == 0 {
			t.Error("Idle was never called")
		}
	})
}

// TestSilentPeer: the other end stops to exist without a word; idle, and while we send.
func TestSilentPeer(t *testing.T) {
	modes(t, func(t *testing.T, encrypt bool) {
		for _, load := range []bool{false, true} {
			ca, cb := config("a"), config("b")
			ca.Encrypt, cb.Encrypt = encrypt, encrypt
			ca.Timeout, cb.Timeout = 400*time.Millisecond, 400*time.Millisecond
			a, _ := links(t, ca, cb) // b never runs
			tt := newTagTable(4)
			begin := time.Now()
			ra := start(a, tt)
			if load {
				go func() {
					for tag := range tt.free {
						tt.take(tag)
						if a.Send(Data, writeFrame(0, 1<<20), tt.bufs[tag], tag) != nil {
							tt.mu.Lock()
							delete(tt.out, tag)
							tt.mu.Unlock()
							return
						}
						a.Flush(Data)
					}
				}()
			}
			err := ra.wait(t)
			if d := time.Since(begin); d < ca.Timeout/2 || d > ca.Timeout*3/2 {
				t.Errorf("load=%v: noticed after %v: %v", load, d, err)
			}
			if !load && !errors.Is(err, ErrSilent) {
				t.Error(err)
			}
			until(t, "the tags", func() bool { tt.mu.Lock(); defer tt.mu.Unlock(); return len(tt.out) == 0 })
		}
	})
}

// TestKeepalive: two idle ends stay together for many timeouts, also while one only receives.
func TestKeepalive(t *testing.T) {
	ca, cb := config("a"), config("b")
	ca.Timeout, cb.Timeout = 200*time.Millisecond, 200*time.Millisecond
	a, b := links(t, ca, cb)
	var rec recorder
	ra, rb := start(a, &recorder{}), start(b, &rec)
	time.Sleep(5 * ca.Timeout)
	if n, _ := rec.count(); n != 0 {
		t.Error("keepalives are delivered")
	}
	if n := b.Counters(Control).FramesIn; n < 15 || n > 40 {
		t.Errorf("%d keepalives in five timeouts", n)
	}
	stop(t, ra, rb)
}

// TestSlowHandlerIsNotSilence: while our own handler works, the peer's silence does not count; and when it is done, a peer of a longer timeout is
// heard because it is asked. One that does not even answer is silent.
func TestSlowHandlerIsNotSilence(t *testing.T) {
	ca, cb := config("a"), config("b")
	ca.Timeout, cb.Timeout = 200*time.Millisecond, 10*time.Second
	a, b := links(t, ca, cb)
	rec, other := &recorder{stop: make(chan struct{})}, &recorder{stop: make(chan struct{})}
	ra, rb := start(a, rec), start(b, other)
	b.Send(Control, &wire.Header{Type: wire.TypeHello}, nil, 0)
	b.Flush(Control)
	time.Sleep(3 * ca.Timeout)
	if err := a.failed(); err != nil {
		t.Errorf("ended: %v", err)
	}
	close(rec.stop)
	time.Sleep(5 * ca.Timeout) // b's own keepalives come every 2.5 s
	if err := a.failed(); err != nil {
		t.Errorf("ended although the peer answers: %v", err)
	}
	a.Send(Control, &wire.Header{Type: wire.TypeHello}, nil, 0)
	a.Flush(Control)
	if err := ra.wait(t); !errors.Is(err, ErrSilent) { // b's reader is busy: now it is silence
		t.Error(err)
	}
	close(other.stop)
	rb.wait(t)
}

// TestStuckSocket: the peer keeps the connection alive and reads no data.
func TestStuckSocket(t *testing.T) {
	ca, cb := config("a"), config("b")
	ca.Timeout, cb.Timeout = 300*time.Millisecond, 300*time.Millisecond
	a, b := links(t, ca, cb)
	rec := &recorder{stop: make(chan struct{})}
	tt := newTagTable(8)
	ra, rb := start(a, tt), start(b, rec)
	for range 64 {
		select {
		case tag := <-tt.free:
			tt.take(tag)
			pattern(tt.bufs[tag], 3)
			if a.Send(Data, writeFrame(0, 1<<20), tt.bufs[tag], tag) == nil {
				a.Flush(Data)
			} else {
				tt.Sent(Data, []uint32{tag})
			}
		case <-ra.done:
		}
	}
	if err := ra.wait(t); err == nil || !strings.Contains(err.Error(), "took nothing") {
		t.Error(err)
	}
	close(rec.stop)
	rb.wait(t)
	if len(tt.free) != 8 {
		t.Errorf("%d of 8 tags came back", len(tt.free))
	}
}

// TestFullSocketRecovers: a socket that was full, and is not any more, has no deadline left that could end the link later.
func TestFullSocketRecovers(t *testing.T) {
	ca, cb := config("a"), config("b")
	ca.Timeout = 400 * time.Millisecond
	cb.Timeout = ca.Timeout
	a, b := links(t, ca, cb)
	rec := &recorder{stop: make(chan struct{})}
	ra, rb := start(a, &recorder{}), start(b, rec)
	p := make([]byte, 1<<20)
	pattern(p, 3)
	for range 16 {
		if err := a.Send(Data, writeFrame(0, 1<<20), p, 0); err != nil {
			t.Fatal(err)
		}
	}
	a.Flush(Data)
	time.Sleep(ca.Timeout / 4)
	if a.Counters(Data).Queued == 0 {
		t.Error("the socket was never full")
	}
	close(rec.stop)
	until(t, "the backlog", func() bool { n, _ := rec.count(); return n == 16 })
	time.Sleep(ca.Timeout * 3 / 2)
	if err := a.Send(Data, writeFrame(0, 1<<20), p, 0); err != nil {
		t.Fatal(err)
	}
	a.Flush(Data)
	until(t, "one more", func() bool { n, _ := rec.count(); return n == 17 || a.failed() != nil })
	stop(t, ra, rb)
}

// TestMore: frames that came with one read are announced, and Idle comes after the last.
func TestMore(t *testing.T) {
	a, b := links(t, config("a"), config("b"))
	m := &moreCounter{l: b, gate: make(chan struct{})}
	for range 10 {
		a.Send(Control, &wire.Header{Type: wire.TypeAck}, nil, 0)
	}
	ra := start(a, &recorder{}) // one write
	until(t, "the write", func() bool { return a.Counters(Control).Queued == 0 })
	time.Sleep(20 * time.Millisecond) // loopback delivers at once
	rb := start(b, m)
	<-m.gate
	stop(t, ra, rb)
	if m.more != 9 {
		t.Errorf("%d of 10 frames were announced, 9 expected", m.more)
	}
}

type moreCounter struct {
	recorder
	l    *Link
	more int
	gate chan struct{}
	once sync.Once
}

func (m *moreCounter) Frame(k Kind, h *wire.Header, _ []byte) {
	if h.Type == wire.TypeAck && m.l.More(k) {
		m.more++
	}
}

func (m *moreCounter) Idle(Kind) { m.once.Do(func() { close(m.gate) }) }

// TestGarbageFrames: what the peer may not send ends the link with the place.
func TestGarbageFrames(t *testing.T) {
	frame := func(h wire.Header, body ...byte) []byte {
		b := make([]byte, wire.HeaderSize)
		wire.Encode(&h, b)
		return append(b, body...)
	}
	good := frame(wire.Header{Type: wire.TypeFlush})
	for _, c := range []struct {
		name  string
		kind  Kind
		bytes []byte
		want  string
	}{
		{"noise", Data, bytes.Repeat([]byte{0x5a}, 100), "frame 0 at byte 0: header checksum"},
		{"second", Data, append(bytes.Clone(good), bytes.Repeat([]byte{0x5a}, 100)...), "frame 1 at byte 48: header checksum"},
		{"wrong connection", Control, good, "does not belong here"},
		{"wrong connection", Data, frame(wire.Header{Type: wire.TypeAck}), "does not belong here"},
		{"too large", Data, frame(wire.Header{Type: wire.TypeWrite, Length: 2 << 20, Payload: 2 << 20}), "allowed are"},
		{"bad sum", Data, frame(wire.Header{Type: wire.TypeWrite, Length: 4, Payload: 4, Checksum: wire.ChecksumCRC32C, Sum: 1}, 1, 2, 3, 4), "checksum does not match"},
		{"bad body", Control, frame(wire.Header{Type: wire.TypeHello, Payload: 4, Checksum: wire.ChecksumCRC32C, Sum: 1}, 1, 2, 3, 4), "checksum does not match"},
		{"bad lz4", Data, frame(wire.Header{Type: wire.TypeWrite, Length: 64, Payload: 4, Compression: wire.CompressionLZ4}, 1, 2, 3, 4), "decompress"},
		{"cut header", Data, good[:20], "unexpected EOF"},
		{"cut payload", Data, frame(wire.Header{Type: wire.TypeWrite, Length: 100, Payload: 100}, 1, 2, 3), "frame 0 at byte 0: unexpected EOF"},
		{"end", Data, nil, "EOF"},
	} {
		a, b := links(t, config("a"), config("b"))
		rb := start(b, &recorder{})
		raw := a.send[c.kind-1].sock.conn
		if len(c.bytes) > 0 {
			raw.Writev([]unix.Iovec{{Base: &c.bytes[0], Len: uint64(len(c.bytes))}})
		}
		raw.CloseWrite()
		if err := rb.wait(t); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// TestCutAnywhere ends a connection at random bytes of a stream: Run ends on both sides, all tags come back.
func TestCutAnywhere(t *testing.T) {
	modes(t, func(t *testing.T, encrypt bool) {
		r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
		for range 20 {
			cut := r.IntN(600 << 10)
			ca, cb := config("a"), config("b")
			ca.Encrypt, cb.Encrypt = encrypt, encrypt
			pa, m1 := pairs(t, 1)
			m2, pb := pairs(t, 1)
			pa.Control, pb.Control = tcpPair(t)
			done := make(chan struct{}, 2)
			var kept [2][]byte
			go relay(m2.Data, m1.Data, 4096+cut, &kept[0], done)
			go relay(m1.Data, m2.Data, 1<<30, &kept[1], done)
			sa, sb := shakeBoth(ca, cb, pa, pb)
			if sa.err != nil || sb.err != nil {
				t.Fatal(sa.err, sb.err)
			}
			tt := newTagTable(4)
			ra, rb := start(sa.link, tt), start(sb.link, &recorder{})
			go func() {
				for i := 0; ; i++ {
					select {
					case tag := <-tt.free:
						tt.take(tag)
						n := []int{4096, 65536}[i%2]
						pattern(tt.bufs[tag][:n], uint64(i))
						if sa.link.Send(Data, writeFrame(0, n), tt.bufs[tag][:n], tag) != nil {
							tt.mu.Lock()
							delete(tt.out, tag)
							tt.mu.Unlock()
							return
						}
						sa.link.Flush(Data)
					case <-ra.done:
						return
					}
				}
			}()
			if ra.wait(t) == nil || rb.wait(t) == nil {
				t.Fatal("no error")
			}
			until(t, "the tags", func() bool { tt.mu.Lock(); defer tt.mu.Unlock(); return len(tt.out) == 0 })
			<-done
			<-done
		}
	})
}

// TestBothWaysFull: both ends send as fast as they can from inside their handlers; nobody may wait for the other's reader.
func TestBothWaysFull(t *testing.T) {
	modes(t, func(t *testing.T, encrypt bool) {
		ca, cb := config("a"), config("b")
		ca.Encrypt, cb.Encrypt = encrypt, encrypt
		a, b := links(t, ca, cb)
		pa, pb := newPingPong(a), newPingPong(b)
		ra, rb := start(a, pa), start(b, pb)
		for range 64 {
			pa.kick()
			pb.kick()
		}
		a.Flush(Data)
		b.Flush(Data)
		until(t, "traffic", func() bool { return a.Counters(Data).FramesIn > 500 && b.Counters(Data).FramesIn > 500 })
		stop(t, ra, rb)
	})
}

// pingPong answers each 256 KiB with as much.
type pingPong struct {
	recorder
	l    *Link
	out  []byte
	in   []byte
	todo int
}

func newPingPong(l *Link) *pingPong {
	p := &pingPong{l: l, out: make([]byte, 256<<10), in: make([]byte, 256<<10)}
	pattern(p.out, 3)
	return p
}
func (p *pingPong) kick()                            { _ = p.l.Send(Data, writeFrame(0, len(p.out)), p.out, 0) }
func (p *pingPong) Buffer(Kind, *wire.Header) []byte { return p.in }
func (p *pingPong) Frame(k Kind, h *wire.Header, _ []byte) {
	if k == Data {
		p.todo++
	}
}
func (p *pingPong) Idle(k Kind) {
	if k == Data {
		for ; p.todo > 0; p.todo-- {
			p.kick()
		}
		p.l.Flush(Data)
	}
}
func (p *pingPong) Sent(Kind, []uint32) {}

// TestOrder: many goroutines send; each one's frames keep their order.
func TestOrder(t *testing.T) {
	modes(t, func(t *testing.T, encrypt bool) {
		ca, cb := config("a"), config("b")
		ca.Encrypt, cb.Encrypt = encrypt, encrypt
		a, b := links(t, ca, cb)
		var rec recorder
		ra, rb := start(a, &recorder{}), start(b, &rec)
		var wg sync.WaitGroup
		p := bytes.Repeat([]byte{1}, 4096)
		for g := range 8 {
			wg.Go(func() {
				for i := range 100 {
					if err := a.Send(Data, &wire.Header{Type: wire.TypeWrite, Length: 4096, Seq: uint64(i), Aux: uint64(g)}, p, uint32(i)); err != nil {
						t.Error(err)
					}
					a.Flush(Data)
				}
			})
		}
		wg.Wait()
		until(t, "800 frames", func() bool { n, _ := rec.count(); return n == 800 })
		stop(t, ra, rb)
		var next [8]uint64
		for _, g := range rec.frames[:800] {
			if g.kind == Data && g.h.Seq != next[g.h.Aux] {
				t.Fatalf("sender %d: frame %d instead of %d", g.h.Aux, g.h.Seq, next[g.h.Aux])
			}
			next[g.h.Aux]++
		}
	})
}

func TestClose(t *testing.T) {
	t.Run("before Run", func(t *testing.T) {
		a, b := links(t, config("a"), config("b"))
		a.Close("changed my mind")
		if err := a.Run(context.Background(), &recorder{}); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
		if err := b.Run(context.Background(), &recorder{}); err == nil {
			t.Error("b")
		}
		if err := a.Send(Control, &wire.Header{Type: wire.TypeHello}, nil, 0); err == nil {
			t.Error("Send after the end")
		}
	})
	t.Run("peer does not read", func(t *testing.T) {
		a, _ := links(t, config("a"), config("b"))
		tt := newTagTable(8)
		ra := start(a, tt)
		for range 8 {
			tag := <-tt.free
			tt.take(tag)
			a.Send(Data, writeFrame(0, 1<<20), tt.bufs[tag], tag)
		}
		a.Flush(Data)
		begin := time.Now()
		a.Close("stop")
		a.Close("again")
		if err := ra.wait(t); !errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), "stop") || time.Since(begin) > 2*closeWait {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		if len(tt.free) != 8 {
			t.Errorf("%d of 8 tags came back", len(tt.free))
		}
	})
	t.Run("context", func(t *testing.T) {
		a, b := links(t, config("a"), config("b"))
		ctx, cancel := context.WithCancelCause(context.Background())
		rb := start(b, &recorder{})
		cause := errors.New("the worker stops")
		time.AfterFunc(20*time.Millisecond, func() { cancel(cause) })
		if err := a.Run(ctx, &recorder{}); !errors.Is(err, cause) {
			t.Error(err)
		}
		if err := rb.wait(t); !errors.Is(err, io.EOF) {
			t.Log(err) // a reset is as good
		}
	})
	t.Run("own bye", func(t *testing.T) {
		a, b := links(t, config("a"), config("b"))
		ra, rb := start(a, &recorder{}), start(b, &recorder{})
		a.Send(Control, &wire.Header{Type: wire.TypeBye, Aux: 7}, []byte("split brain"), 0)
		a.Close("local words")
		var bye *Bye
		if err := rb.wait(t); !errors.As(err, &bye) || bye.Text != "split brain" || bye.Code != 7 {
			t.Error(err)
		}
		ra.wait(t)
	})
}

func TestSendRefuses(t *testing.T) {
	for i, send := range []func(*Link) error{
		func(l *Link) error { return l.Send(Data, &wire.Header{Type: wire.TypeAck}, nil, 0) },
		func(l *Link) error { return l.Send(Control, writeFrame(0, 4096), make([]byte, 4096), 0) },
		func(l *Link) error { return l.Send(Data, writeFrame(0, 4096), make([]byte, 4095), 0) },
	} {
		a, b := links(t, config("a"), config("b"))
		ra, rb := start(a, &recorder{}), start(b, &recorder{})
		if err := send(a); err == nil || !errors.Is(ra.wait(t), err) {
			t.Errorf("case %d: %v", i, err)
		}
		rb.wait(t)
	}
}

// TestAssist: whoever assists takes frames in, in order and each once, in turns with the link's own reader; one that
// breaks its promise is noticed; and the end of the link is the end for it, too.
func TestAssist(t *testing.T) {
	modes(t, testAssist)
}

func testAssist(t *testing.T, encrypt bool) {
	ca, cb := config("a"), config("b")
	ca.Encrypt, cb.Encrypt, cb.Timeout = encrypt, encrypt, time.Second
	a, b := links(t, ca, cb)
	ra := start(a, &recorder{})
	got := &recorder{}
	rb := start(b, got)
	const n = 3000
	var wg sync.WaitGroup
	over := make(chan struct{})
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-over:
				return
			default:
			}
			b.Assist(Control)
			if i%50 == 49 {
				b.Rest(Control)
				time.Sleep(50 * time.Microsecond)
			}
		}
	})
	for i := range n {
		h := wire.Header{Type: wire.TypeAck, Seq: uint64(i)}
		if err := a.Send(Control, &h, nil, 0); err != nil {
			t.Fatal(err)
		}
		a.Flush(Control)
		if i%100 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
	until(t, "all frames", func() bool { k, _ := got.count(); return k == n })
	close(over)
	wg.Wait()
	got.mu.Lock()
	for i, f := range got.frames {
		if f.h.Seq != uint64(i) {
			t.Fatalf("frame %d came as number %d", f.h.Seq, i)
		}
	}
	got.mu.Unlock()
	b.Assist(Control) // and never again
	h := wire.Header{Type: wire.TypeAck, Seq: n}
	for range 2 { // the reader takes the first one in: it was in its last read
		a.Send(Control, &h, nil, 0)
		a.Flush(Control)
		time.Sleep(20 * time.Millisecond)
	}
	until(t, "frames that nobody assists with", func() bool { k, _ := got.count(); return k == n+2 })
	stop(t, ra, rb)
	if b.Assist(Control) {
		t.Error("a link that has ended brought frames")
	}
}

// TestRetune: compression, checksum and timeout change while frames are on their way; what was queued goes out as it was, and no frame is lost.
func TestRetune(t *testing.T) {
	modes(t, testRetune)
}

func testRetune(t *testing.T, encrypt bool) {
	ca, cb := config("a"), config("b")
	ca.Encrypt, cb.Encrypt = encrypt, encrypt
	a, b := links(t, ca, cb)
	sent, got := &recorder{}, &recorder{}
	ra, rb := start(a, sent), start(b, got)
	body := bytes.Repeat([]byte("what pays to be compressed. "), 4096/28+1)[:4096]
	const each = 300
	n := 0
	for _, tune := range []Tuning{
		{time.Second, wire.CompressionLZ4, wire.ChecksumXXHash},
		{300 * time.Millisecond, wire.CompressionNone, wire.ChecksumNone},
		{10 * time.Second, wire.CompressionLZ4, wire.ChecksumSHA256},
		{200 * time.Millisecond, wire.CompressionHole, wire.ChecksumCRC32C},
	} {
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := a.Retune(tune); err != nil {
				t.Error(err)
			}
		})
		for i := range each {
			h := writeFrame(i*4096, 4096)
			if err := a.Send(Data, h, body, uint32(n)); err != nil {
				t.Fatal(err)
			}
			a.Flush(Data)
			n++
		}
		wg.Wait()
		h := writeFrame(0, 4096) // the next frame after Retune is of its kind
		if err := a.Send(Data, h, body, uint32(n)); err != nil {
			t.Fatal(err)
		}
		a.Flush(Data)
		n++
		until(t, "the frames", func() bool { k, _ := got.count(); return k == n })
		got.mu.Lock()
		last := got.frames[n-1]
		got.mu.Unlock()
		lz4 := tune.Compression == wire.CompressionLZ4
		if last.h.Checksum != tune.Checksum || (last.h.Compression == wire.CompressionLZ4) != lz4 {
			t.Errorf("after %+v a frame came with compression %d and checksum %d", tune, last.h.Compression, last.h.Checksum)
		}
	}
	got.mu.Lock()
	for i, f := range got.frames {
		if !bytes.Equal(f.data, body) {
			t.Fatalf("frame %d came with other data", i)
		}
	}
	got.mu.Unlock()
	time.Sleep(time.Second) // five of a's timeouts, a tenth of what b keeps
	if err := a.failed(); err != nil {
		t.Errorf("ended: %v", err)
	}
	if err := a.Retune(Tuning{Timeout: time.Millisecond}); err == nil {
		t.Error("a timeout of a millisecond is taken")
	}
	until(t, "the tags", func() bool { _, k := sent.count(); return k == n })
	stop(t, ra, rb)
}

// TestRetuneTimeout: a shorter timeout that comes while the link lives is the one that counts.
func TestRetuneTimeout(t *testing.T) {
	ca, cb := config("a"), config("b")
	ca.Timeout, cb.Timeout = time.Minute, time.Minute
	a, b := links(t, ca, cb)
	mute := &recorder{stop: make(chan struct{})}
	ra, rb := start(a, &recorder{}), start(b, mute)
	a.Send(Control, &wire.Header{Type: wire.TypeHello}, nil, 0)
	a.Flush(Control)
	if err := a.Retune(Tuning{300 * time.Millisecond, wire.CompressionNone, wire.ChecksumCRC32C}); err != nil {
		t.Fatal(err)
	}
	if err := ra.wait(t); !errors.Is(err, ErrSilent) {
		t.Error(err)
	}
	close(mute.stop)
	rb.wait(t)
}

// TestByeAfterTheData: the data connection's end may be seen before the words that go with it.
func TestByeAfterTheData(t *testing.T) {
	a, b := links(t, config("a"), config("b"))
	ra, rb := start(a, &recorder{}), start(b, &recorder{})
	a.send[Data-1].sock.conn.CloseWrite()
	time.Sleep(30 * time.Millisecond)
	text := "why"
	if err := a.Send(Control, &wire.Header{Type: wire.TypeBye}, []byte(text), 0); err != nil {
		t.Fatal(err)
	}
	a.Flush(Control)
	var bye *Bye
	if err := rb.wait(t); !errors.As(err, &bye) || bye.Text != text {
		t.Errorf("the peer saw %v", err)
	}
	ra.wait(t)
}
