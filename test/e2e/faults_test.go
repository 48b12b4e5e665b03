package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hast/test/lab"
)

const mib = 1 << 20

// app is an application: it uses the device directly, past every cache, and remembers what it was told.
type app struct {
	t   *testing.T
	f   *os.File
	buf []byte
}

// open opens the node's device. Loop devices are the machine's, so the test can do so itself, and measure.
func open(t *testing.T, n *lab.Node) *app {
	t.Helper()
	f, err := os.OpenFile(run(t, n, "readlink", "-f", "/dev/hast/data"), os.O_RDWR|unix.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &app{t, f, pages(mib)}
}

// pages returns n bytes at a page's beginning, as direct I/O wants them.
func pages(n int) []byte {
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		panic(err)
	}
	return b
}

// pageAligned is pattern in a buffer of its own, for a request beside those of app.
func pageAligned(off int64, n int, seed uint64) []byte {
	b := pages(n)
	copy(b, pattern(off, n, seed))
	return b
}

// pattern is n bytes that no compression makes smaller; seed tells one writing from another.
func pattern(off int64, n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(off), byte(off >> 8), byte(off >> 16), byte(off >> 24), byte(off >> 32)})
	r.Read(b)
	return b
}

// write writes n bytes, at most a MiB, in one request.
func (a *app) write(off int64, n int, seed uint64) error {
	copy(a.buf, pattern(off, n, seed))
	return a.within(func() error { _, err := a.f.WriteAt(a.buf[:n], off); return err })
}

// within gives an operation ten seconds: what waits for ever must not take the test along. Nothing may follow it then.
func (a *app) within(f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(10 * time.Second):
		return errWaits
	}
}

var errWaits = errors.New("no answer within 10 s")

func (a *app) mustWrite(off int64, n int, seed uint64) {
	a.t.Helper()
	if err := a.write(off, n, seed); err != nil {
		a.t.Fatalf("write of %d bytes at %d: %v", n, off, err)
	}
}

// fill writes [off, off+n) in pieces of 1 MiB and flushes.
func (a *app) fill(off int64, n int, seed uint64) {
	a.t.Helper()
	for end := off + int64(n); off < end; off += mib {
		a.mustWrite(off, mib, seed)
	}
	a.mustFlush()
}

func (a *app) flush() error {
	return a.within(func() error { return unix.Fdatasync(int(a.f.Fd())) })
}

func (a *app) mustFlush() {
	a.t.Helper()
	if err := a.flush(); err != nil {
		a.t.Fatalf("flush: %v", err)
	}
}

// holds checks that [off, off+n) is what write with this seed wrote.
func (a *app) holds(off int64, n int, seed uint64) {
	a.t.Helper()
	if err := a.within(func() error { _, err := a.f.ReadAt(a.buf[:n], off); return err }); err != nil {
		a.t.Fatalf("read of %d bytes at %d: %v", n, off, err)
	}
	if !bytes.Equal(a.buf[:n], pattern(off, n, seed)) {
		a.t.Fatalf("%d bytes at %d are not what was acknowledged (writing %d)", n, off, seed)
	}
}

// took returns how long f took; it must not fail.
func took(t *testing.T, what string, f func() error) time.Duration {
	t.Helper()
	began := time.Now()
	if err := f(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	return time.Since(began)
}

// fault gives a command to the node's disk.
func fault(t *testing.T, n *lab.Node, format string, args ...any) {
	t.Helper()
	if _, err := n.Fault(format, args...); err != nil {
		t.Fatal(err)
	}
}

// met checks that the node's disk has really made an error since before.
func met(t *testing.T, n *lab.Node, before lab.FaultStat) {
	t.Helper()
	until(t, 5*time.Second, n.Name+"'s disk being asked for what it should fail", func() error { // in async and memsync after the answer
		s, err := n.FaultStat()
		if err == nil && s.Failed <= before.Failed {
			err = fmt.Errorf("%+v", s)
		}
		return err
	})
}

func stat(t *testing.T, n *lab.Node) lab.FaultStat {
	t.Helper()
	s, err := n.FaultStat()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// faultyUp makes two nodes whose disks fail on command, the first one primary, and an application on it.
func faultyUp(t *testing.T, o lab.Options) (*lab.Lab, *app) {
	t.Helper()
	o.Faulty = true
	l := newLab(t, o)
	up(t, l)
	return l, open(t, l.A)
}

// onDisk reads the node's real file, which is what its disk has.
func onDisk(t *testing.T, n *lab.Node, off int64, size int) []byte {
	t.Helper()
	f, err := os.Open(n.Disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, size)
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestLocalWriteFails: the primary's disk refuses a write, the peer's takes it.
func TestLocalWriteFails(t *testing.T) {
	l, a := faultyUp(t, lab.Options{})
	a.fill(0, 16*mib, 1)
	before := stat(t, l.A)
	fault(t, l.A, "fail write from=%d len=%d", 8*mib, mib)
	a.mustWrite(8*mib+4096, 65536, 2)
	met(t, l.A, before)
	a.holds(8*mib+4096, 65536, 2)
	a.mustWrite(2*mib, 65536, 3)
	a.mustFlush()
	a.holds(2*mib, 65536, 3)
	a.holds(9*mib, mib, 1)
	until(t, 10*time.Second, "the status", is(l.A, func(r resource) bool {
		return r.Role == "primary" && r.LocalLost && r.Data == "inconsistent" && r.Counters.LocalWriteErrors > 0 &&
			strings.Contains(r.LocalError, "a write at") && r.LocalErrorUnix > 0
	}))
	r, _ := status(l.A)
	t.Logf("%s, %s, data %s, why %q, %d bytes dirty", r.State, r.Status, r.Data, r.Why, r.Dirty)
	a.f.Close()
	// The copy stays out over a restart of the role, and nobody promotes it.
	fault(t, l.A, "clear")
	run(t, l.A, "hastctl", "role", "secondary", "data")
	run(t, l.B, "hastctl", "role", "primary", "data")
	device(t, l.B)
	b := open(t, l.B)
	b.holds(8*mib+4096, 65536, 2)
	b.holds(2*mib, 65536, 3)
	b.f.Close()
	until(t, 20*time.Second, "the repaired disk in sync", is(l.B, connected))
	if !bytes.Equal(onDisk(t, l.A, 8*mib+4096, 65536), pattern(8*mib+4096, 65536, 2)) {
		t.Error("the repaired disk lacks the write that it had failed")
	}
	sameDisks(t, l)
}

// TestRemoteWriteFails: the secondary's disk refuses a write.
func TestRemoteWriteFails(t *testing.T) {
	for _, mode := range []string{"fullsync", "memsync", "async"} {
		t.Run(mode, func(t *testing.T) {
			l, a := faultyUp(t, lab.Options{Resource: fmt.Sprintf("replication = %q", mode)})
			a.fill(0, 16*mib, 1)
			until(t, 10*time.Second, "clean", is(l.A, connected))
			before := stat(t, l.B)
			fault(t, l.B, "fail write from=%d len=%d", 8*mib, mib)
			a.mustWrite(8*mib+4096, 65536, 2)
			a.mustWrite(4*mib, 65536, 3)
			a.mustFlush()
			met(t, l.B, before)
			until(t, 10*time.Second, "the status", is(l.A, func(r resource) bool {
				return r.Role == "primary" && r.State != "connected" && r.Dirty >= 65536 && r.PeerError != "" && r.PeerData == "inconsistent" && r.Counters.RemoteWriteErrors > 0
			}))
			r, _ := status(l.A)
			t.Logf("%s, %s, why %q, peer error %q, %d bytes dirty", r.State, r.Status, r.Why, r.PeerError, r.Dirty)
			if b, _ := status(l.B); !strings.Contains(b.LocalError, "a write at") || b.LocalErrorUnix == 0 || r.PeerErrorUnix == 0 {
				t.Errorf("the secondary says of its disk %q, at %d; the primary heard of it at %d", b.LocalError, b.LocalErrorUnix, r.PeerErrorUnix)
			}
			a.mustWrite(6*mib, 65536, 4)
			a.holds(8*mib+4096, 65536, 2)
			if bytes.Equal(onDisk(t, l.B, 8*mib+4096, 65536), pattern(8*mib+4096, 65536, 2)) {
				t.Error("the secondary's disk took what it was to refuse")
			}
			// Its copy is nobody's to promote.
			if out, err := l.B.Ctl("role", "primary", "--force", "data"); err == nil {
				t.Errorf("a copy that failed a write was promoted: %s", out)
			}
			fault(t, l.B, "clear")
			run(t, l.B, "hastctl", "role", "init", "data")
			run(t, l.B, "hastctl", "role", "secondary", "data")
			until(t, 20*time.Second, "the repaired disk in sync", is(l.A, func(r resource) bool {
				return connected(r) && r.PeerError == "" && r.PeerData == "uptodate"
			}))
			until(t, 5*time.Second, "the secondary's view", is(l.B, func(r resource) bool { return r.LocalError == "" && r.PeerData == "uptodate" }))
			a.f.Close()
			sameDisks(t, l)
		})
	}
}

// TestWriteFailsWithoutPeer: nobody has it, and the application must hear so, in every mode.
func TestWriteFailsWithoutPeer(t *testing.T) {
	for _, mode := range []string{"fullsync", "memsync", "async"} {
		t.Run(mode, func(t *testing.T) {
			l, a := faultyUp(t, lab.Options{Resource: fmt.Sprintf("replication = %q", mode)})
			a.fill(0, 8*mib, 1)
			l.B.Kill(syscall.SIGKILL)
			until(t, 20*time.Second, "the loss of the peer", is(l.A, func(r resource) bool { return r.State != "connected" }))
			a.mustWrite(4*mib, 65536, 2)
			before := stat(t, l.A)
			fault(t, l.A, "fail write from=%d len=%d", 2*mib, mib)
			if err := a.write(2*mib, 65536, 3); !errors.Is(err, unix.EIO) {
				t.Errorf("a write that no disk took: %v", err)
			}
			met(t, l.A, before)
			a.holds(4*mib, 65536, 2)
			a.f.Close()
		})
	}
}

// TestLocalReadFails: the peer has the block, and the local one is repaired from it.
func TestLocalReadFails(t *testing.T) {
	l, a := faultyUp(t, lab.Options{})
	a.fill(0, 16*mib, 1)
	before := stat(t, l.A)
	fault(t, l.A, "fail read from=%d len=%d times=1", 8*mib, mib)
	a.holds(8*mib, 65536, 1)
	met(t, l.A, before)
	until(t, 10*time.Second, "the repair", is(l.A, func(r resource) bool {
		return r.Counters.LocalReadErrors > 0 && r.Counters.RemoteReads > 0 && r.Counters.ReadRepairs > 0
	}))
	// It is read here again, and the copy is still one.
	until(t, 10*time.Second, "connected", is(l.A, func(r resource) bool { return connected(r) && !r.LocalLost && r.Data == "uptodate" }))
	reads := stat(t, l.A).Reads
	a.holds(8*mib, 65536, 1)
	if s := stat(t, l.A); s.Reads == reads {
		t.Error("a block that was repaired is still read from the peer")
	}
	// Without a peer, a block that can't be read is an error, and only that block.
	l.B.Kill(syscall.SIGKILL)
	until(t, 20*time.Second, "the loss of the peer", is(l.A, func(r resource) bool { return r.State != "connected" }))
	fault(t, l.A, "fail read from=%d len=%d", 4*mib, mib)
	if err := a.within(func() error { _, err := a.f.ReadAt(a.buf[:65536], 4*mib); return err }); !errors.Is(err, unix.EIO) {
		t.Errorf("a read that nobody can answer: %v", err)
	}
	a.holds(2*mib, mib, 1)
	a.f.Close()
}

// TestLocalFlushFails: what the disk lost with it comes back from the peer, and a restart does not make the copy good (rule 11).
func TestLocalFlushFails(t *testing.T) {
	l, a := faultyUp(t, lab.Options{})
	a.fill(0, 16*mib, 1)
	until(t, 10*time.Second, "clean", is(l.A, connected))
	fault(t, l.A, "volatile")
	a.mustWrite(8*mib, 65536, 2)
	before := stat(t, l.A)
	fault(t, l.A, "fail flush times=1 lose=yes")
	a.mustFlush()
	met(t, l.A, before)
	if bytes.Equal(onDisk(t, l.A, 8*mib, 65536), pattern(8*mib, 65536, 2)) {
		t.Fatal("the disk has not lost what was written")
	}
	a.holds(8*mib, 65536, 2)
	until(t, 10*time.Second, "the status", is(l.A, func(r resource) bool {
		return r.LocalLost && r.Data == "inconsistent" && r.Counters.LocalFlushErrors > 0 && r.Dirty >= 65536
	}))
	a.mustWrite(4*mib, 65536, 3)
	a.mustFlush()
	a.f.Close()
	// The peer is away while the node starts again: its copy must not be served, by nobody's word.
	l.B.Kill(syscall.SIGKILL)
	l.A.Kill(syscall.SIGKILL)
	until(t, 10*time.Second, "the end of hastd", func() error {
		if p := append(l.A.Pids("hastd"), l.B.Pids("hastd")...); len(p) > 0 {
			return fmt.Errorf("%v are left", p)
		}
		return nil
	})
	l.A.Clean()
	if err := l.A.Start(); err != nil {
		t.Fatal(err)
	}
	if out, err := l.A.Ctl("role", "primary", "--force", "data"); err == nil {
		t.Errorf("a copy that failed a flush was promoted after a restart: %s", out)
	}
	run(t, l.A, "hastctl", "role", "secondary", "data")
	if err := l.B.Start(); err != nil {
		t.Fatal(err)
	}
	promote(t, l.B)
	b := open(t, l.B)
	b.holds(8*mib, 65536, 2)
	b.holds(4*mib, 65536, 3)
	b.f.Close()
	until(t, 20*time.Second, "in sync", is(l.B, connected))
	if !bytes.Equal(onDisk(t, l.A, 8*mib, 65536), pattern(8*mib, 65536, 2)) {
		t.Error("what the failed flush lost was not brought back")
	}
	sameDisks(t, l)
}

// TestRemoteFlushFails: fullsync's flush is answered once the secondary's copy is out of it; what its disk lost is sent again.
func TestRemoteFlushFails(t *testing.T) {
	for _, mode := range []string{"fullsync", "memsync", "async"} {
		t.Run(mode, func(t *testing.T) {
			l, a := faultyUp(t, lab.Options{Resource: fmt.Sprintf("replication = %q", mode)})
			a.fill(0, 16*mib, 1)
			until(t, 10*time.Second, "clean", is(l.A, connected))
			fault(t, l.B, "volatile")
			a.mustWrite(8*mib, 65536, 2)
			until(t, 10*time.Second, "the write on the secondary's disk", func() error {
				if !bytes.Equal(onDisk(t, l.B, 8*mib, 65536), pattern(8*mib, 65536, 2)) {
					return errors.New("not there")
				}
				return nil
			})
			fault(t, l.B, "fail flush times=1 lose=yes")
			a.mustFlush()
			until(t, 10*time.Second, "the status", is(l.A, func(r resource) bool { return r.PeerError != "" && r.Counters.RemoteFlushErrors > 0 }))
			a.f.Close()
			// Its process dies before anything was repaired, or after: either way it knows.
			l.B.Kill(syscall.SIGKILL)
			until(t, 20*time.Second, "the loss of the peer", is(l.A, func(r resource) bool { return r.State != "connected" }))
			if err := l.B.Start(); err != nil {
				t.Fatal(err)
			}
			run(t, l.B, "hastctl", "role", "secondary", "data")
			until(t, 20*time.Second, "in sync", is(l.A, connected))
			if !bytes.Equal(onDisk(t, l.B, 8*mib, 65536), pattern(8*mib, 65536, 2)) {
				t.Error("what the failed flush lost was not sent again")
			}
			sameDisks(t, l)
		})
	}
}

// TestFlushFailsWithoutPeer: a failed flush is final (rule 11). No later flush makes good what the disk dropped, nor does a restart.
func TestFlushFailsWithoutPeer(t *testing.T) {
	l, a := faultyUp(t, lab.Options{Resource: `timeout = "2s"`})
	a.fill(0, 8*mib, 1)
	l.B.Kill(syscall.SIGKILL)
	until(t, 20*time.Second, "the loss of the peer", is(l.A, func(r resource) bool { return r.State != "connected" }))
	fault(t, l.A, "volatile")
	a.mustWrite(4*mib, 65536, 2)
	before := stat(t, l.A)
	fault(t, l.A, "fail flush times=1 lose=yes")
	if err := a.flush(); !errors.Is(err, unix.EIO) {
		t.Errorf("a flush that failed: %v", err)
	}
	met(t, l.A, before)
	if err := a.flush(); !errors.Is(err, unix.EIO) {
		t.Errorf("the flush after the one that failed: %v", err)
	}
	if err := a.write(2*mib, 65536, 3); !errors.Is(err, unix.EIO) {
		t.Errorf("a write after the flush that failed: %v", err)
	}
	answers(t, "a flush has failed", l.A)
	until(t, 10*time.Second, "the status", is(l.A, func(r resource) bool {
		return r.Counters.LocalFlushErrors == 1 && r.Dirty >= 65536 && strings.Contains(r.LocalError, "a flush failed") && r.LocalErrorUnix > 0 && strings.Contains(r.Why, "writes are refused")
	}))
	out := run(t, l.A, "hastctl", "status", "data")
	for _, want := range []string{"writes are refused", "hastctl role secondary data", "local disk: a flush failed"} {
		if !strings.Contains(out, want) {
			t.Errorf("status does not say %q:\n%s", want, out)
		}
	}
	a.f.Close()
	l.A.Kill(syscall.SIGKILL)
	until(t, 10*time.Second, "the end of hastd", func() error {
		if p := l.A.Pids("hastd"); len(p) > 0 {
			return fmt.Errorf("%v are left", p)
		}
		return nil
	})
	l.A.Clean()
	if err := l.A.Start(); err != nil {
		t.Fatal(err)
	}
	if out, err := l.A.Ctl("role", "primary", "data"); err == nil {
		t.Errorf("promoted without its peer and without --force: %s", out)
	}
	promote(t, l.A)
	again := open(t, l.A)
	if err := again.write(2*mib, 65536, 4); !errors.Is(err, unix.EIO) {
		t.Errorf("a write after a restart, on the copy whose flush had failed: %v", err)
	}
	if err := again.flush(); !errors.Is(err, unix.EIO) {
		t.Errorf("a flush after a restart, on the copy whose flush had failed: %v", err)
	}
	// A sync rewrites what is in doubt, and ends it.
	if err := l.B.Start(); err != nil {
		t.Fatal(err)
	}
	run(t, l.B, "hastctl", "role", "secondary", "data")
	until(t, 20*time.Second, "in sync", is(l.A, connected))
	until(t, 5*time.Second, "nothing to say", is(l.A, func(r resource) bool { return r.Why == "" && r.LocalError == "" }))
	again.mustWrite(2*mib, 65536, 5)
	again.mustFlush()
	again.holds(2*mib, 65536, 5)
	again.f.Close()
	sameDisks(t, l)
}
