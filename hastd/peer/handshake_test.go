package peer

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// resum mends the checksum at the end of b.
func resum(b []byte, at int) {
	binary.LittleEndian.PutUint32(b[at:], crc32.Checksum(b[:at], castagnoli))
}

func TestHandshake(t *testing.T) {
	modes(t, func(t *testing.T, encrypt bool) {
		ca, cb := config("a"), config("b")
		ca.Encrypt, cb.Encrypt = encrypt, encrypt
		a, b := links(t, ca, cb)
		if encrypt != strings.HasPrefix(a.Cipher(), "TLS_") || a.Cipher() != b.Cipher() {
			t.Errorf("cipher %q, %q", a.Cipher(), b.Cipher())
		}
		stop(t, start(a, &recorder{}), start(b, &recorder{}))
	})
}

// refused expects both ends to fail, at least one of them with want.
func refused(t *testing.T, ra, rb result, want error) {
	t.Helper()
	if ra.err == nil || rb.err == nil {
		t.Fatalf("accepted: %v, %v", ra.err, rb.err)
	}
	if want != nil && !errors.Is(ra.err, want) && !errors.Is(rb.err, want) {
		t.Errorf("%v / %v, want %v", ra.err, rb.err, want)
	}
}

func TestWrongKey(t *testing.T) {
	modes(t, func(t *testing.T, encrypt bool) {
		ca, cb := config("a"), config("b")
		ca.Encrypt, cb.Encrypt = encrypt, encrypt
		cb.Key = append([]byte(nil), testKey...)
		cb.Key[31] ^= 1
		pa, pb := pairs(t, 1)
		ra, rb := shakeBoth(ca, cb, pa, pb)
		if !errors.Is(ra.err, ErrKeys) || !errors.Is(rb.err, ErrKeys) {
			t.Errorf("%v / %v: both logs should say that the keys differ", ra.err, rb.err)
		}
		if _, err := pa.Data.Write([]byte{1}); !errors.Is(err, net.ErrClosed) {
			t.Error("the connections are left open")
		}
	})
}

func TestOneEncrypts(t *testing.T) {
	modes(t, func(t *testing.T, encrypt bool) {
		ca, cb := config("a"), config("b")
		ca.Encrypt, cb.Encrypt = encrypt, !encrypt
		pa, pb := pairs(t, 1)
		ra, rb := shakeBoth(ca, cb, pa, pb)
		refused(t, ra, rb, ErrEncrypt)
	})
}

// TestTamperedPreamble: whoever changes a preamble on its way, such as the
// versions spoken, is noticed by the proofs.
func TestTamperedPreamble(t *testing.T) {
	modes(t, func(t *testing.T, encrypt bool) {
		ca, cb := config("a"), config("b")
		ca.Encrypt, cb.Encrypt = encrypt, encrypt
		for i := range 4 {
			pa, pb := pairs(t, 1)
			if b := pb.Preambles[i]; i%2 == 0 {
				b[6]++ // highest version
				resum(b, 156)
			} else {
				b[8]++ // text
				resum(b, 124)
			}
			ra, rb := shakeBoth(ca, cb, pa, pb)
			refused(t, ra, rb, ErrKeys)
		}
	})
}

// TestSwappedPairs: the data connection of one pair with the control connection of another.
func TestSwappedPairs(t *testing.T) {
	modes(t, func(t *testing.T, encrypt bool) {
		ca, cb := config("a"), config("b")
		ca.Encrypt, cb.Encrypt = encrypt, encrypt
		ca.Timeout, cb.Timeout = time.Second, time.Second
		a1, b1 := pairs(t, 1)
		a2, b2 := pairs(t, 1) // the same token, so that only the proof can tell
		b1.Control, b2.Control = b2.Control, b1.Control
		done := make(chan struct{})
		go func() {
			defer close(done)
			ra, rb := shakeBoth(ca, cb, a2, b2)
			refused(t, ra, rb, nil)
		}()
		ra, rb := shakeBoth(ca, cb, a1, b1)
		<-done
		refused(t, ra, rb, nil)
	})
}

func TestPreamblesOfAnotherLink(t *testing.T) {
	ca, cb := config("a"), config("b")
	for name, change := range map[string]func(*Config, *Pair){
		"resource": func(c *Config, _ *Pair) { c.Resource = "other" },
		"node":     func(c *Config, _ *Pair) { c.Peer = "c" },
		"token":    func(_ *Config, p *Pair) { p.Token[3]++ },
		"missing":  func(_ *Config, p *Pair) { p.Preambles = p.Preambles[:3] },
		"swapped":  func(_ *Config, p *Pair) { p.Preambles = append(p.Preambles[2:4:4], p.Preambles[:2]...) },
		"key":      func(c *Config, _ *Pair) { c.Key = c.Key[:31] },
		"timeout":  func(c *Config, _ *Pair) { c.Timeout = 0 },
	} {
		cx := cb
		pa, pb := pairs(t, 1)
		change(&cx, &pb)
		ra, rb := shakeBoth(ca, cx, pa, pb)
		if ra.err == nil || rb.err == nil {
			t.Errorf("%s: %v, %v", name, ra.err, rb.err)
		}
	}
}

// TestReflected sends each byte back to its sender.
func TestReflected(t *testing.T) {
	modes(t, func(t *testing.T, encrypt bool) {
		for _, initiator := range []bool{true, false} {
			ca := config("a")
			if !initiator {
				ca = config("b")
			}
			ca.Encrypt = encrypt
			pa, pb := pairs(t, 1)
			pa.Initiator = initiator
			go io.Copy(pb.Data, pb.Data)
			go io.Copy(pb.Control, pb.Control)
			if _, err := Handshake(context.Background(), ca, pa); !errors.Is(err, ErrReflected) {
				t.Errorf("initiator=%v: %v", initiator, err)
			}
		}
	})
}

// TestReflectedWithOtherOpening: an attacker makes up an opening, and answers our proof with itself.
func TestReflectedWithOtherOpening(t *testing.T) {
	pa, pb := pairs(t, 1)
	for _, c := range []*net.TCPConn{pb.Data, pb.Control} {
		go func() {
			var b [openingSize]byte
			io.ReadFull(c, b[:])
			b[5] = 2
			b[20] ^= 1
			c.Write(b[:])
			io.Copy(c, c)
		}()
	}
	if _, err := Handshake(context.Background(), config("a"), pa); !errors.Is(err, ErrKeys) {
		t.Error(err)
	}
}

// TestTLSPin: TLS itself refuses another key, before any proof.
func TestTLSPin(t *testing.T) {
	ca, cb := config("a"), config("b")
	cb.Key = make([]byte, KeySize)
	x, y := tcpPair(t)
	done := make(chan error)
	go func() {
		c := &channel{kind: Data, raw: y}
		err := c.secure(context.Background(), &cb, false)
		if err == nil { // the server learns of the client's refusal with its first read
			_, err = c.tls.Read(make([]byte, 1))
		}
		done <- err
	}()
	if err := (&channel{kind: Data, raw: x}).secure(context.Background(), &ca, true); !errors.Is(err, ErrKeys) {
		t.Errorf("client: %v", err)
	}
	if err := <-done; err == nil {
		t.Error("the server accepts")
	}
	// The other direction: a client that does not look at the server's key.
	x, y = tcpPair(t)
	go func() {
		cert, _ := certificate(identity(cb.Key, true))
		c := tls.Client(x, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}, NextProtos: []string{"hast/1"}})
		c.Handshake()
		c.Read(make([]byte, 1))
	}()
	if err := (&channel{kind: Data, raw: y}).secure(context.Background(), &ca, false); !errors.Is(err, ErrKeys) {
		t.Errorf("server: %v", err)
	}
}

// TestTranscript: everything that the proofs have to cover changes them.
func TestTranscript(t *testing.T) {
	make1 := func(change func(*Config, *Pair, []*channel)) string {
		cfg, p := config("a"), Pair{Preambles: preambles(t, 1)}
		chans := []*channel{{kind: Data}, {kind: Control}}
		change(&cfg, &p, chans)
		return string(summary(&cfg, &p, chans))
	}
	seen := map[string]string{}
	for name, change := range map[string]func(*Config, *Pair, []*channel){
		"nothing":         func(*Config, *Pair, []*channel) {},
		"preamble":        func(_ *Config, p *Pair, _ []*channel) { p.Preambles[0][20]++ },
		"reply":           func(_ *Config, p *Pair, _ []*channel) { p.Preambles[3][20]++ },
		"token":           func(_ *Config, p *Pair, _ []*channel) { p.Token[0]++ },
		"resource":        func(c *Config, _ *Pair, _ []*channel) { c.Resource = "other" },
		"encryption":      func(c *Config, _ *Pair, _ []*channel) { c.Encrypt = true },
		"initiator":       func(_ *Config, _ *Pair, c []*channel) { c[0].initiator[5]++ },
		"responder":       func(_ *Config, _ *Pair, c []*channel) { c[0].responder[5]++ },
		"exported":        func(_ *Config, _ *Pair, c []*channel) { c[0].exported[5]++ },
		"control nonce":   func(_ *Config, _ *Pair, c []*channel) { c[1].responder[5]++ },
		"control session": func(_ *Config, _ *Pair, c []*channel) { c[1].exported[5]++ },
	} {
		sum := make1(change)
		if other := seen[sum]; other != "" {
			t.Errorf("%s and %s have the same transcript", name, other)
		}
		seen[sum] = name
	}
}

// relay carries bytes between two connections and keeps those of each direction; after cut bytes from src it closes both.
func relay(dst, src *net.TCPConn, cut int, kept *[]byte, done chan<- struct{}) {
	buf := make([]byte, 4096)
	for total := 0; ; {
		n, err := src.Read(buf[:min(len(buf), max(cut-total, 1))])
		if total+n > cut {
			break
		}
		total += n
		*kept = append(*kept, buf[:n]...)
		dst.Write(buf[:n])
		if err != nil {
			break
		}
		if total == cut {
			break
		}
	}
	dst.Close()
	src.Close()
	done <- struct{}{}
}

// throughRelay shakes hands across a relay that cuts the initiator's or the
// responder's data stream after some bytes; it returns what each side sent on the data connection.
func throughRelay(t *testing.T, encrypt bool, cutA, cutB int) (ra, rb result, fromA, fromB []byte) {
	ca, cb := config("a"), config("b")
	ca.Encrypt, cb.Encrypt = encrypt, encrypt
	pa, m1 := pairs(t, 1)
	m2, pb := pairs(t, 1)
	pa.Control.Close()
	m1.Control.Close() // the control connection goes direct
	pa.Control, pb.Control = tcpPair(t)
	done := make(chan struct{}, 2)
	go relay(m2.Data, m1.Data, cutA, &fromA, done)
	go relay(m1.Data, m2.Data, cutB, &fromB, done)
	ra, rb = shakeBoth(ca, cb, pa, pb)
	for _, r := range []result{ra, rb} {
		if r.link != nil {
			r.link.shut() // the connections are its own
		}
	}
	pa.Data.Close()
	pb.Data.Close()
	<-done
	<-done
	return ra, rb, fromA, fromB
}

// TestCutHandshake cuts the handshake after every byte (in TLS: at a spread of places, and around each end).
func TestCutHandshake(t *testing.T) {
	const never = 1 << 30
	modes(t, func(t *testing.T, encrypt bool) {
		ra, rb, fromA, fromB := throughRelay(t, encrypt, never, never)
		if ra.err != nil || rb.err != nil {
			t.Fatal(ra.err, rb.err)
		}
		step := 1
		if encrypt {
			step = 61
		}
		const lanes = 8 // each attempt mostly waits
		for lane := range lanes {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for n := lane * step; n < len(fromA)-8; n += lanes * step {
					if ra, rb, _, _ := throughRelay(t, encrypt, n, never); rb.err == nil || ra.err == nil {
						t.Fatalf("accepted after %d of the initiator's %d bytes: %v, %v", n, len(fromA), ra.err, rb.err)
					}
				}
				for n := lane * step; n < len(fromB)-8; n += lanes * step {
					if ra, _, _, _ := throughRelay(t, encrypt, never, n); ra.err == nil {
						t.Fatalf("the initiator accepts after %d of the responder's %d bytes", n, len(fromB))
					}
				}
			})
		}
	})
}

// TestReplayed plays what an initiator said once to a responder.
func TestReplayed(t *testing.T) {
	modes(t, func(t *testing.T, encrypt bool) {
		cb := config("b")
		cb.Encrypt = encrypt
		cb.Timeout = time.Second
		ra, rb, fromA, _ := throughRelay(t, encrypt, 1<<30, 1<<30)
		if ra.err != nil || rb.err != nil {
			t.Fatal(ra.err, rb.err)
		}
		pa, pb := pairs(t, 1)
		go func() {
			pa.Data.Write(fromA)
			pa.Control.Write(fromA)
			go io.Copy(io.Discard, pa.Data)
			io.Copy(io.Discard, pa.Control)
		}()
		if _, err := Handshake(context.Background(), cb, pb); err == nil {
			t.Error("a recording was accepted")
		} else if !encrypt && !errors.Is(err, ErrKeys) {
			t.Error(err)
		}
	})
}

func TestGarbageHandshake(t *testing.T) {
	modes(t, func(t *testing.T, encrypt bool) {
		for _, garbage := range []string{"GET / HTTP/1.1\r\nHost: example\r\n\r\n........................................",
			strings.Repeat("\x00", 200), strings.Repeat("\xff", 200), openingMagic + "\x01\x01\x00\x00" + strings.Repeat("x", 400),
			openingMagic + "\x02\x01\x00\x00" + strings.Repeat("\x16\x03\x03\x40\x00", 4000)} {
			cb := config("b")
			cb.Encrypt = encrypt
			pa, pb := pairs(t, 1)
			go func() {
				pa.Data.Write([]byte(garbage))
				pa.Control.Write([]byte(garbage))
				pa.Data.CloseWrite()
				pa.Control.CloseWrite()
			}()
			if _, err := Handshake(context.Background(), cb, pb); err == nil {
				t.Errorf("%q accepted", garbage[:20])
			}
		}
	})
}

func TestHandshakeEndsInTime(t *testing.T) {
	modes(t, func(t *testing.T, encrypt bool) {
		cb := config("b")
		cb.Encrypt, cb.Timeout = encrypt, 150*time.Millisecond
		_, pb := pairs(t, 1)
		begin := time.Now()
		if _, err := Handshake(context.Background(), cb, pb); err == nil || !strings.Contains(err.Error(), "does not answer") {
			t.Error(err)
		}
		cb.Timeout = time.Minute
		_, pb = pairs(t, 1)
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		if _, err := Handshake(ctx, cb, pb); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("took %v", d)
		}
	})
}
