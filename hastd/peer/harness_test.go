package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"hast/proto"
	"hast/proto/wire"
)

var testKey = bytes.Repeat([]byte{7}, KeySize)

// config is node "a"'s or "b"'s end of resource "data".
func config(node string) Config {
	peer := "b"
	if node == "b" {
		peer = "a"
	}
	return Config{Key: testKey, Timeout: 5 * time.Second, Resource: "data", Node: node, Peer: peer,
		Compression: wire.CompressionHole, Checksum: wire.ChecksumCRC32C}
}

// tcpPair returns the two ends of a loopback connection.
func tcpPair(t testing.TB) (dialled, accepted *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dialled, err = Dial(context.Background(), "tcp", l.Addr().String(), "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	accepted = c.(*net.TCPConn)
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	return dialled, accepted
}

// preambles returns what the parents would have exchanged.
func preambles(t testing.TB, token byte) [][]byte {
	t.Helper()
	var out [][]byte
	for _, k := range []Kind{Data, Control} {
		p := &Preamble{Low: 1, High: 1, Kind: k, Token: [16]byte{token}, Resource: "data", From: "a", To: "b"}
		b, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, b, (&Reply{Version: 1, Code: CodeOK, Text: "welcome"}).Encode())
	}
	return out
}

// pairs returns both ends of a pair of connections; a dialled.
func pairs(t testing.TB, token byte) (a, b Pair) {
	t.Helper()
	da, db := tcpPair(t)
	ca, cb := tcpPair(t)
	a = Pair{Data: da, Control: ca, Initiator: true, Token: [16]byte{token}, Preambles: preambles(t, token)}
	b = Pair{Data: db, Control: cb, Token: [16]byte{token}, Preambles: preambles(t, token)}
	return a, b
}

type result struct {
	link *Link
	err  error
}

// shakeBoth runs both ends' handshakes.
func shakeBoth(ca, cb Config, a, b Pair) (ra, rb result) {
	done := make(chan struct{})
	go func() { rb.link, rb.err = Handshake(context.Background(), cb, b); close(done) }()
	ra.link, ra.err = Handshake(context.Background(), ca, a)
	<-done
	return ra, rb
}

// links returns two ends that trust each other.
func links(t testing.TB, ca, cb Config) (a, b *Link) {
	t.Helper()
	pa, pb := pairs(t, 1)
	ra, rb := shakeBoth(ca, cb, pa, pb)
	if ra.err != nil || rb.err != nil {
		t.Fatalf("handshake: %v, %v", ra.err, rb.err)
	}
	return ra.link, rb.link
}

// runner runs a link with a handler and keeps the result.
type runner struct {
	l    *Link
	err  error
	done chan struct{}
}

func start(l *Link, h Handler) *runner {
	r := &runner{l: l, done: make(chan struct{})}
	go func() { r.err = l.Run(context.Background(), h); close(r.done) }()
	for !l.started.Load() {
		time.Sleep(10 * time.Microsecond)
	}
	return r
}

// wait returns Run's error.
func (r *runner) wait(t testing.TB) error {
	t.Helper()
	select {
	case <-r.done:
		return r.err
	case <-time.After(10 * time.Second):
		panic("Run does not return")
	}
}

// recorder is a Handler that keeps what it gets.
type recorder struct {
	mu     sync.Mutex
	frames []got
	sent   []uint32
	idles  int
	stop   chan struct{} // if set, Frame waits for it
}

type got struct {
	kind Kind
	h    wire.Header
	data []byte
}

func (r *recorder) Buffer(_ Kind, h *wire.Header) []byte { return make([]byte, h.DataSize()) }

func (r *recorder) Frame(k Kind, h *wire.Header, p []byte) {
	if r.stop != nil {
		<-r.stop
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frames = append(r.frames, got{k, *h, bytes.Clone(p)})
}

func (r *recorder) Idle(Kind) { r.mu.Lock(); r.idles++; r.mu.Unlock() }

func (r *recorder) Sent(_ Kind, tags []uint32) {
	r.mu.Lock()
	r.sent = append(r.sent, tags...)
	r.mu.Unlock()
}

func (r *recorder) count() (frames, sent int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.frames), len(r.sent)
}

// until waits for a condition that another goroutine will make true.
func until(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// modes runs f plain and encrypted.
func modes(t *testing.T, f func(t *testing.T, encrypt bool)) {
	for _, e := range []bool{false, true} {
		t.Run(fmt.Sprintf("encrypt=%v", e), func(t *testing.T) { t.Parallel(); f(t, e) })
	}
}

func writeFrame(off, n int) *wire.Header {
	return &wire.Header{Type: wire.TypeWrite, Offset: proto.Offset(off), Length: proto.Length(n)}
}

// stop closes both ends and checks that they end in an orderly way.
func stop(t testing.TB, a, b *runner) {
	t.Helper()
	a.l.Close("test over")
	var bye *Bye
	if err := b.wait(t); !errors.As(err, &bye) || bye.Text != "test over" {
		t.Errorf("the peer saw %v", err)
	}
	if err := a.wait(t); !errors.Is(err, ErrClosed) {
		t.Errorf("Run: %v", err)
	}
}
