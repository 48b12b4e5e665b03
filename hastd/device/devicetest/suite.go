package devicetest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"hast/hastd/device"
	"hast/proto"
)

// Device is a front-end as its user sees it. All methods may be called
// concurrently; offsets and lengths are bytes, aligned to the logical block.
type Device interface {
	Read(p []byte, off uint64) error
	Write(p []byte, off uint64, fua bool) error
	// Zero makes n bytes read as zeroes; keep: without giving up their space.
	Zero(off, n uint64, keep bool) error
	Trim(off, n uint64) error
	Flush() error
}

// Traits are what a front-end can't do as the sink was told.
type Traits struct {
	// NoFUA: a FUA write arrives as a write and a flush.
	NoFUA bool
	// MayBeEIO: an error may reach the user as EIO, because the kernel is in between.
	MayBeEIO bool
}

// suiteSize is the device's size: large enough for zero requests that are cut, and sparse.
const suiteSize = 256 << 20

// Run runs the suite. open presents the sink's device and arranges by t.Cleanup that it ends before the sink does.
func Run(t *testing.T, tr Traits, open func(t *testing.T, s *Sink) Device) {
	for _, c := range []struct {
		name string
		opt  Options
		test func(*testing.T, Traits, *Sink, Device)
	}{
		{"ReadBack", Options{}, readBack},
		{"ReadBack512", Options{Logical: 512, Workers: 2}, readBack},
		{"Twin", Options{Workers: 4}, twin},
		{"TwinInline", Options{}, twin},
		{"SmallTable", Options{Entries: 4, Workers: 2}, twin},
		{"FlushIsStable", Options{Volatile: true, Workers: 2}, flushIsStable},
		{"Zero", Options{Record: true}, zero},
		{"Errors", Options{Workers: 2}, failures},
		{"SlowDoesNotBlock", Options{Workers: 2}, slow},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.opt.Size = suiteSize
			s := New(t, c.opt)
			c.test(t, tr, s, open(t, s))
		})
	}
}

// pattern fills p with bytes that depend on the offset and on seed.
func pattern(p []byte, off uint64, seed uint64) {
	r := rand.NewPCG(off, seed)
	for i := 0; i+8 <= len(p); i += 8 {
		v := r.Uint64()
		for k := range 8 {
			p[i+k] = byte(v >> (8 * k))
		}
	}
}

func readBack(t *testing.T, _ Traits, s *Sink, d Device) {
	block := uint64(s.info.Logical)
	end := uint64(s.info.Size)
	for i, c := range []struct{ off, n uint64 }{
		{0, block}, {block, 3 * block}, {end - block, block}, {end - 1<<20, 1 << 20}, {7 * block, 128 << 10}, {1 << 20, 1<<20 - block}, {5<<20 + block, 4 << 20},
	} {
		w, r := make([]byte, c.n), make([]byte, c.n)
		pattern(w, c.off, uint64(i))
		if err := d.Write(w, c.off, false); err != nil {
			t.Fatalf("write %d+%d: %v", c.off, c.n, err)
		}
		if !bytes.Equal(s.Peek(int(c.off), int(c.n)), w) {
			t.Fatalf("write %d+%d: other data arrived", c.off, c.n)
		}
		pattern(w, c.off, 99+uint64(i))
		s.Poke(int(c.off), w)
		if err := d.Read(r, c.off); err != nil {
			t.Fatalf("read %d+%d: %v", c.off, c.n, err)
		}
		if !bytes.Equal(r, w) {
			t.Fatalf("read %d+%d: other data came", c.off, c.n)
		}
	}
}

// twin lets several users work at random, each on its own region, and compares
// with a copy that is kept the obvious way.
func twin(t *testing.T, _ Traits, s *Sink, d Device) {
	const users, region, steps = 8, 4 << 20, 60
	var wg sync.WaitGroup
	errs := make(chan error, users)
	for u := range users {
		wg.Go(func() {
			if err := user(d, uint64(u*region), region, steps, uint64(s.info.Logical)); err != nil {
				errs <- fmt.Errorf("user %d: %w", u, err)
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	if n := s.Counts(); n.Reads == 0 || n.Writes == 0 || n.Zeroes == 0 || n.Flushes == 0 {
		t.Errorf("the sink saw only %+v", n)
	}
}

func user(d Device, base uint64, size, steps int, block uint64) error {
	rng := rand.New(rand.NewPCG(base, 1))
	own := make([]byte, size)
	for step := range steps {
		n := (1 + rng.Uint64N(16)) * block
		if rng.IntN(10) == 0 {
			n = (1 + rng.Uint64N(300)) * 4096 // now and then more than one request
		}
		off := rng.Uint64N((uint64(size)-n)/block) * block
		part := own[off : off+n]
		var err error
		switch k := rng.IntN(20); {
		case k < 8 || step == 0:
			pattern(part, off, rng.Uint64())
			err = d.Write(part, base+off, k == 0)
		case k < 16:
			got := make([]byte, n)
			if err = d.Read(got, base+off); err == nil && !bytes.Equal(got, part) {
				err = fmt.Errorf("step %d: read %d+%d: other data came", step, off, n)
			}
		case k < 18:
			clear(part)
			err = d.Zero(base+off, n, k == 17)
		case k < 19:
			off, n = off&^4095, 4096 // what is smaller may be left alone by the kernel
			clear(own[off : off+n])
			if err = d.Trim(base+off, n); err == nil {
				err = d.Zero(base+off, n, false)
			}
		default:
			err = d.Flush()
		}
		if err != nil {
			return fmt.Errorf("step %d: %w", step, err)
		}
	}
	got := make([]byte, size)
	if err := d.Read(got, base); err != nil {
		return err
	}
	if !bytes.Equal(got, own) {
		return errors.New("the region differs at the end")
	}
	return nil
}

func flushIsStable(t *testing.T, tr Traits, s *Sink, d Device) {
	a, b, z := make([]byte, 8192), make([]byte, 8192), make([]byte, 8192)
	pattern(a, 0, 1)
	pattern(b, 0, 2)
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	do(d.Write(a, 0, false))
	do(d.Flush())
	do(d.Write(b, 1<<20, true))
	fua := s.Counts().FUAs
	if !tr.NoFUA && fua == 0 {
		t.Error("FUA did not arrive")
	}
	do(d.Write(b, 2<<20, false)) // not flushed: the power failure may have it
	s.Crash()
	if !bytes.Equal(s.Peek(0, len(a)), a) {
		t.Error("a flushed write is lost")
	}
	if !bytes.Equal(s.Peek(1<<20, len(b)), b) {
		t.Error("a FUA write is lost")
	}
	if !bytes.Equal(s.Peek(2<<20, len(z)), z) {
		t.Error("the sink's write cache does not work: this test proves nothing")
	}
}

func zero(t *testing.T, _ Traits, s *Sink, d Device) {
	const length = 200 << 20 // several pieces
	p := make([]byte, 1<<20)
	pattern(p, 0, 3)
	for _, c := range []struct {
		name string
		keep bool
		do   func() error
	}{
		{"zero", false, func() error { return d.Zero(1<<20, length, false) }},
		{"zero, keep", true, func() error { return d.Zero(1<<20, length, true) }},
		{"trim", false, func() error { return d.Trim(1<<20, length) }},
	} {
		s.Poke(0, p)
		s.Poke(1<<20, p)
		s.Poke(200<<20, p)
		s.Poke(201<<20, p)
		before := len(s.Records())
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		var covered []Record
		for _, r := range s.Records()[before:] {
			if r.Op == proto.OpZero {
				covered = append(covered, r)
				if r.NoUnmap != c.keep {
					t.Errorf("%s: NoUnmap is %v", c.name, r.NoUnmap)
				}
			}
		}
		slices.SortFunc(covered, func(a, b Record) int { return int(int64(a.Off) - int64(b.Off)) })
		at := proto.Offset(1 << 20)
		for _, r := range covered {
			if r.Off != at {
				t.Fatalf("%s: a piece at %d, want one at %d", c.name, r.Off, at)
			}
			at += proto.Offset(r.Len)
		}
		if at != 1<<20+length {
			t.Errorf("%s: ends at %d", c.name, at)
		}
		if !bytes.Equal(s.Peek(0, 1<<20), p) || !bytes.Equal(s.Peek(201<<20, 1<<20), p) {
			t.Errorf("%s: too much is zero", c.name)
		}
		if !bytes.Equal(s.Peek(200<<20, 1<<20), make([]byte, 1<<20)) {
			t.Errorf("%s: not all is zero", c.name)
		}
	}
}

func failures(t *testing.T, tr Traits, s *Sink, d Device) {
	p := make([]byte, 4096)
	large := make([]byte, 3<<20)
	for _, c := range []struct {
		op    proto.Op
		errno proto.Errno
		do    func() error
	}{
		{proto.OpRead, proto.EIO, func() error { return d.Read(p, 8192) }},
		{proto.OpWrite, proto.EIO, func() error { return d.Write(p, 8192, false) }},
		{proto.OpWrite, proto.ENOSPC, func() error { return d.Write(p, 8192, false) }},
		{proto.OpWrite, proto.EIO, func() error { return d.Write(large, 8192, false) }},
		{proto.OpFlush, proto.EIO, func() error {
			if err := d.Write(p, 8192, false); err != nil { // or there may be nothing to flush
				t.Errorf("write: %v", err)
			}
			return d.Flush()
		}},
		{proto.OpZero, proto.EIO, func() error { return d.Zero(0, 128<<20, true) }},
	} {
		s.SetFail(func(r *device.Request) proto.Errno {
			if r.Op == c.op && (r.Op == proto.OpFlush || r.Off <= 8192 && 8192 < r.Off+proto.Offset(r.Len)) {
				return c.errno
			}
			return proto.OK
		})
		err := c.do()
		if err == nil || !sameErrno(err, c.errno) && !(tr.MayBeEIO && sameErrno(err, proto.EIO)) {
			t.Errorf("%s that fails with %v: %v", c.op, c.errno, err)
		}
		s.SetFail(nil)
		if err := d.Write(p, 8192, false); err != nil {
			t.Fatalf("after a failed %s: write: %v", c.op, err)
		}
		if err := d.Read(p, 8192); err != nil {
			t.Fatalf("after a failed %s: read: %v", c.op, err)
		}
	}
}

// sameErrno compares by number: a client may use its own type of error.
func sameErrno(err error, want proto.Errno) bool {
	var p proto.Errno
	if errors.As(err, &p) {
		return p == want
	}
	var k syscall.Errno
	return errors.As(err, &k) && uint32(k) == uint32(want)
}

// slow: while one request takes long, others are served.
func slow(t *testing.T, _ Traits, s *Sink, d Device) {
	const pause = 500 * time.Millisecond
	s.SetDelay(func(r *device.Request) time.Duration {
		if r.Off == 1<<20 {
			return pause
		}
		return 0
	})
	defer s.SetDelay(nil)
	began := time.Now()
	done := make(chan error, 1)
	go func() { done <- d.Write(make([]byte, 4096), 1<<20, false) }()
	p := make([]byte, 4096)
	for i := range 20 {
		if err := d.Write(p, uint64(8192*i), false); err != nil {
			t.Fatal(err)
		}
		if err := d.Read(p, uint64(8192*i)); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(began); took > pause*4/5 {
		t.Errorf("others waited %v for a slow request", took)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took < pause {
		t.Errorf("the slow request was answered after %v", took)
	}
}
