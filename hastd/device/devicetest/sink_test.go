package devicetest

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"hast/hastd/device"
	"hast/proto"
)

// owner keeps what was completed.
type owner struct{ got chan *device.Request }

func (o *owner) Complete(batch []*device.Request) {
	for _, r := range batch {
		o.got <- r
	}
}

func make1(t *testing.T, opt Options) (*Sink, *owner) {
	t.Helper()
	opt.Size = 1 << 20
	s, err := Make(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); s.Unmap() })
	return s, &owner{make(chan *device.Request, 16)}
}

// do runs one request to its end and puts it back.
func do(s *Sink, o *owner, op proto.Op, off proto.Offset, n proto.Length, fua bool, fill byte) (proto.Errno, []byte) {
	size := n
	if op == proto.OpZero || op == proto.OpFlush {
		size = 0
	}
	r := s.Get(size)
	r.Op, r.Off, r.Len, r.FUA, r.Owner = op, off, n, fua, o
	if op == proto.OpWrite {
		copy(r.Buf, bytes.Repeat([]byte{fill}, int(n)))
	}
	s.Submit([]*device.Request{r})
	<-o.got
	errno, data := r.Errno, bytes.Clone(r.Buf)
	s.Put(r)
	return errno, data
}

// TestBreaches: the sink sees a front-end that breaks the contract.
func TestBreaches(t *testing.T) {
	for name, breach := range map[string]func(s *Sink, o *owner){
		"unaligned":   func(s *Sink, o *owner) { do(s, o, proto.OpRead, 1, 4096, false, 0) },
		"of a device": func(s *Sink, o *owner) { do(s, o, proto.OpFlush, 0, 0, false, 0); s.Submit(bad(s, o, 1<<20, 4096)) },
		"with a buffer": func(s *Sink, o *owner) {
			r := s.Get(4096)
			r.Op, r.Owner = proto.OpFlush, o
			s.Submit([]*device.Request{r})
		},
		"operation":        func(s *Sink, o *owner) { r := s.Get(0); r.Len, r.Owner = 4096, o; s.Submit([]*device.Request{r}) },
		"empty batch":      func(s *Sink, o *owner) { s.Submit(nil) },
		"more than":        func(s *Sink, o *owner) { s.Get(proto.MaxRequest + 1) },
		"never put back":   func(s *Sink, o *owner) { s.Get(0) },
		"Put of a request": func(s *Sink, o *owner) { r := s.Get(0); s.Put(r); s.Put(r) },
	} {
		t.Run(name, func(t *testing.T) {
			s, o := make1(t, Options{})
			s.SetFail(func(*device.Request) proto.Errno { return proto.EIO }) // so that nothing is touched
			breach(s, o)
			var r recorder
			s.Check(&r)
			want := name
			if want == "unaligned" {
				want = "is not aligned"
			}
			if !strings.Contains(r.all, want) {
				t.Errorf("saw %q, want %q", r.all, want)
			}
		})
	}
}

func bad(s *Sink, o *owner, off proto.Offset, n proto.Length) []*device.Request {
	r := s.Get(n)
	r.Op, r.Off, r.Owner = proto.OpRead, off, o
	return []*device.Request{r}
}

// recorder is a testing.TB that remembers errors.
type recorder struct {
	testing.TB
	all string
}

func (r *recorder) Helper()                           {}
func (r *recorder) Errorf(format string, args ...any) { r.all += fmt.Sprintf(format, args...) }

func TestCrash(t *testing.T) {
	s, o := make1(t, Options{Volatile: true})
	do(s, o, proto.OpWrite, 0, 4096, false, 1)
	do(s, o, proto.OpFlush, 0, 0, false, 0)
	do(s, o, proto.OpWrite, 0, 4096, false, 2)
	do(s, o, proto.OpWrite, 8192, 4096, true, 3)
	do(s, o, proto.OpZero, 0, 4096, false, 0)
	s.Crash()
	if a, b := s.Peek(0, 1)[0], s.Peek(8192, 1)[0]; a != 1 || b != 3 {
		t.Errorf("found %d and %d, want 1 and 3", a, b)
	}
}

func TestWaitAndDelay(t *testing.T) {
	s, o := make1(t, Options{Entries: 1, Workers: 1})
	s.SetDelay(func(*device.Request) time.Duration { return 20 * time.Millisecond })
	r := s.Get(0)
	r.Op, r.Owner = proto.OpFlush, o
	if s.TryGet(0) != nil {
		t.Error("two of one")
	}
	began := time.Now()
	s.Submit([]*device.Request{r})
	<-o.got
	if time.Since(began) < 20*time.Millisecond {
		t.Error("no delay")
	}
	waited := make(chan *device.Request)
	go func() { waited <- s.Get(0) }()
	s.Put(r)
	r = <-waited
	go func() { waited <- s.Get(0) }()
	go s.Close()
	if <-waited != nil {
		t.Error("a closed sink gives out requests")
	}
	s.Put(r)
}
