package e2e

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"hast/test/lab"
)

// hasCalls waits until the node's hook has been called with what, so often.
func hasCalls(t *testing.T, n *lab.Node, what string, times int) {
	t.Helper()
	until(t, 10*time.Second, what, func() error {
		if calls := hooksOf(t, n); count(calls, what) != times {
			return fmt.Errorf("%q", calls)
		}
		return nil
	})
}

// apart cuts the link and waits until both nodes have noticed.
func apart(t *testing.T, l *lab.Lab) {
	t.Helper()
	if err := l.Cut(); err != nil {
		t.Fatal(err)
	}
	until(t, 20*time.Second, "the loss", is(l.A, func(r resource) bool { return r.State == "degraded" }))
	until(t, 20*time.Second, "the loss", is(l.B, func(r resource) bool { return r.State == "waiting" }))
}

// back starts the second node's daemon after its death, as secondary.
func back(t *testing.T, l *lab.Lab) {
	t.Helper()
	if err := l.B.Start(); err != nil {
		t.Fatal(err)
	}
	run(t, l.B, "hastctl", "role", "secondary", "data")
}

// gone kills the second node's processes and waits until the first one has noticed.
func gone(t *testing.T, l *lab.Lab) {
	t.Helper()
	l.B.Kill(syscall.SIGKILL)
	until(t, 20*time.Second, "the loss of the peer", is(l.A, func(r resource) bool { return r.State == "degraded" }))
}

// TestPromotionWithoutWrites: a term in which nothing was written is no branch of its own; nothing of the other node's is given up.
func TestPromotionWithoutWrites(t *testing.T) {
	l := newLab(t, lab.Options{Resource: `timeout = "2s"`})
	up(t, l)
	a := open(t, l.A)
	a.fill(0, 8*mib, 1)
	until(t, 10*time.Second, "clean", is(l.A, connected))
	a.f.Close()
	run(t, l.A, "hastctl", "role", "secondary", "data")
	if err := l.Cut(); err != nil {
		t.Fatal(err)
	}
	// Both serve apart, one after the other; only one of them writes.
	promote(t, l.A)
	a = open(t, l.A)
	a.fill(2*mib, 2*mib, 2)
	a.f.Close()
	run(t, l.A, "hastctl", "role", "secondary", "data")
	promote(t, l.B)
	b := open(t, l.B)
	b.holds(2*mib, mib, 1) // its copy is the older one, and it reads
	b.f.Close()
	run(t, l.B, "hastctl", "role", "secondary", "data")
	if err := l.Heal(); err != nil {
		t.Fatal(err)
	}
	run(t, l.A, "hastctl", "role", "primary", "data")
	device(t, l.A)
	until(t, 20*time.Second, "in sync", is(l.A, connected))
	a = open(t, l.A)
	a.holds(0, mib, 1)
	a.holds(2*mib, mib, 2)
	a.f.Close()
	for _, n := range []*lab.Node{l.A, l.B} {
		if logged(t, n, "split brain") != 0 {
			t.Errorf("%s speaks of a split brain", n.Name)
		}
	}
	sameDisks(t, l)
}

// TestSplitBrainIsToldOnce: hook and log hear of it once on each node, however often the nodes meet.
func TestSplitBrainIsToldOnce(t *testing.T) {
	l := newLab(t, lab.Options{Resource: hooked + `timeout = "2s"`})
	hook(t, l.A, "")
	hook(t, l.B, "")
	up(t, l)
	a := open(t, l.A)
	a.fill(0, 4*mib, 1)
	apart(t, l)
	a.fill(0, mib, 2)
	promote(t, l.B)
	b := open(t, l.B)
	b.fill(0, mib, 3)
	if err := l.Heal(); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*lab.Node{l.A, l.B} {
		until(t, 30*time.Second, "split brain seen", is(n, func(r resource) bool { return r.State == "split-brain" }))
	}
	_, before, err := l.B.LinkBytes()
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(15 * time.Second) // the back-off ends at 10 s
	if _, after, err := l.B.LinkBytes(); err != nil || after-before < 1000 {
		t.Errorf("the nodes have not met again: %d bytes in 15 s, %v", after-before, err)
	}
	for _, n := range []*lab.Node{l.A, l.B} {
		if calls := hooksOf(t, n); count(calls, "split-brain data") != 1 {
			t.Errorf("hooks of %s: %q", n.Name, calls)
		}
		if k := logged(t, n, "split brain ("); k != 1 {
			t.Errorf("%s logs it %d times", n.Name, k)
		}
	}
	a.holds(0, mib, 2)
	b.holds(0, mib, 3)
	a.f.Close()
	b.f.Close()
}

// TestDiscardForAnAbsentPeer: what was discarded while the peer was away is discarded there, too, when it returns.
func TestDiscardForAnAbsentPeer(t *testing.T) {
	l := newLab(t, lab.Options{})
	up(t, l)
	a := open(t, l.A)
	a.fill(0, 24*mib, 1)
	gone(t, l)
	run(t, l.A, "blkdiscard", "-o", fmt.Sprint(4*mib), "-l", fmt.Sprint(4*mib+4096), "/dev/hast/data")
	run(t, l.A, "blkdiscard", "-z", "-o", fmt.Sprint(16*mib), "-l", fmt.Sprint(2*mib), "/dev/hast/data")
	r, err := status(l.A)
	if err != nil || r.Dirty < 6*mib {
		t.Errorf("%d bytes dirty after 6 MiB were discarded, %v", r.Dirty, err)
	}
	back(t, l)
	until(t, 20*time.Second, "in sync", is(l.A, connected))
	for _, at := range []int64{4 * mib, 8*mib - 4096, 8 * mib, 16 * mib, 18*mib - 4096} {
		if !bytes.Equal(onDisk(t, l.B, at, 4096), make([]byte, 4096)) {
			t.Errorf("the block at %d is not discarded on the node that was away", at)
		}
	}
	if !bytes.Equal(onDisk(t, l.B, 3*mib, mib), pattern(3*mib, mib, 1)) {
		t.Error("a block beside what was discarded has changed")
	}
	a.f.Close()
	sameDisks(t, l)
}

// TestReadsWhileThePrimaryIsTheTarget: a primary whose copy is old reads what differs from the peer, and only that; what is
// written meanwhile stays.
func TestReadsWhileThePrimaryIsTheTarget(t *testing.T) {
	l, a := faultyUp(t, lab.Options{Resource: "timeout = \"3s\"\nsync_rate = \"1M\""})
	a.fill(0, 32*mib, 1)
	until(t, 10*time.Second, "clean", is(l.A, connected))
	a.f.Close()
	run(t, l.A, "hastctl", "role", "secondary", "data")
	if err := l.Cut(); err != nil {
		t.Fatal(err)
	}
	promote(t, l.B)
	b := open(t, l.B)
	b.fill(8*mib, 16*mib, 2)
	b.f.Close()
	run(t, l.B, "hastctl", "role", "secondary", "data")
	if err := l.Heal(); err != nil {
		t.Fatal(err)
	}
	run(t, l.A, "hastctl", "role", "primary", "data")
	device(t, l.A)
	a = open(t, l.A)
	for off := int64(8 * mib); off < 24*mib; off += mib {
		a.holds(off, 65536, 2)
	}
	r, err := status(l.A)
	if err != nil || r.State != "syncing" || r.Data != "inconsistent" {
		t.Fatalf("the sync is over, so this test tests nothing: %+v, %v", r, err)
	}
	if r.Counters.RemoteReads == 0 {
		t.Error("nothing was read from the peer")
	}
	// A write into what is stale, and reads of what is not.
	a.mustWrite(20*mib+4096, 8192, 3)
	a.holds(20*mib+4096, 8192, 3)
	remote, _ := status(l.A)
	for off := int64(25 * mib); off < 31*mib; off += mib {
		a.holds(off, 65536, 1)
	}
	if r, _ := status(l.A); r.Counters.RemoteReads != remote.Counters.RemoteReads {
		t.Errorf("%d reads of what does not differ went to the peer", r.Counters.RemoteReads-remote.Counters.RemoteReads)
	}
	edit(t, l.A, `sync_rate = "1M"`, `sync_rate = 0`)
	run(t, l.A, "hastctl", "reload")
	until(t, 30*time.Second, "in sync", is(l.A, connected))
	a.holds(20*mib+4096, 8192, 3)
	a.f.Close()
	sameDisks(t, l)
}

// TestInterruptedSync: the hook hears of it, and the next connection goes on where the last one stopped.
func TestInterruptedSync(t *testing.T) {
	const changed = 40 * mib
	l := newLab(t, lab.Options{Resource: hooked + "timeout = \"3s\"\ncompression = \"none\"\nsync_rate = \"4M\""})
	hook(t, l.A, "")
	hook(t, l.B, "")
	up(t, l)
	a := open(t, l.A)
	a.fill(0, 48*mib, 1)
	until(t, 10*time.Second, "clean", is(l.A, connected))
	gone(t, l)
	a.fill(0, changed, 2)
	back(t, l)
	start, _ := status(l.A)
	// What has been moved counts once both disks have been flushed, every five seconds at least.
	until(t, 20*time.Second, "the larger part", is(l.A, func(r resource) bool { return r.Counters.SyncBytes-start.Counters.SyncBytes > changed*3/4 }))
	gone(t, l)
	hasCalls(t, l.A, "syncintr data", 1)
	half, err := status(l.A)
	if err != nil || half.Dirty > changed*3/4 {
		t.Errorf("%d of %d bytes are dirty after three quarters of the sync, %v", half.Dirty, changed, err)
	}
	before, _, err := l.A.LinkBytes()
	if err != nil {
		t.Fatal(err)
	}
	back(t, l)
	until(t, 30*time.Second, "in sync", is(l.A, connected))
	after, _, err := l.A.LinkBytes()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes changed, %d were left, %d sent after the interruption", changed, half.Dirty, after-before)
	if after-before > changed*3/4 {
		t.Errorf("%d bytes were sent for %d that were left", after-before, half.Dirty)
	}
	hasCalls(t, l.A, "syncstart data", 2)
	hasCalls(t, l.A, "syncdone data", 1)
	a.f.Close()
	sameDisks(t, l)
}

// spoiltSync lets a sync of 8 MiB meet a disk that fails by rule, with its %d at 10 MiB, and returns what status says of the primary a while after
// that. Nobody has called the sync done.
func spoiltSync(t *testing.T, of func(*lab.Lab) *lab.Node, rule string) (*lab.Lab, *app, resource) {
	t.Helper()
	l, a := faultyUp(t, lab.Options{Resource: hooked + `timeout = "3s"`})
	hook(t, l.A, "")
	hook(t, l.B, "")
	a.fill(0, 32*mib, 1)
	until(t, 10*time.Second, "clean", is(l.A, connected))
	gone(t, l)
	a.fill(8*mib, 8*mib, 2)
	before := stat(t, of(l))
	fault(t, of(l), rule, 10*mib)
	back(t, l)
	met(t, of(l), before)
	time.Sleep(3 * time.Second)
	r, err := status(l.A)
	if err != nil {
		t.Fatal(err)
	}
	if calls := hooksOf(t, l.A); count(calls, "syncdone data") != 0 {
		t.Errorf("hooks: %q", calls)
	}
	return l, a, r
}

// TestSyncPieceFails: what could not be stored stays marked, and nobody calls the copies equal.
func TestSyncPieceFails(t *testing.T) {
	l, a, r := spoiltSync(t, func(l *lab.Lab) *lab.Node { return l.B }, "fail write from=%d len=65536")
	if r.State == "connected" || r.Dirty < 65536 || r.PeerData != "inconsistent" {
		t.Errorf("after a piece that failed: %+v", r)
	}
	if b, _ := status(l.B); b.Data != "inconsistent" {
		t.Errorf("the target says that it is %s", b.Data)
	}
	fault(t, l.B, "clear")
	run(t, l.B, "hastctl", "role", "init", "data")
	run(t, l.B, "hastctl", "role", "secondary", "data")
	until(t, 30*time.Second, "in sync", is(l.A, connected))
	hasCalls(t, l.A, "syncdone data", 1)
	if !bytes.Equal(onDisk(t, l.B, 10*mib, 65536), pattern(10*mib, 65536, 2)) {
		t.Error("the piece that failed was not sent again")
	}
	a.f.Close()
	sameDisks(t, l)
}

// TestSyncReadFails: the same for a block that the source can't read.
func TestSyncReadFails(t *testing.T) {
	l, a, r := spoiltSync(t, func(l *lab.Lab) *lab.Node { return l.A }, "fail read from=%d len=4096")
	if r.Dirty < 4096 || connected(r) {
		t.Errorf("after a block that can't be read: %+v", r)
	}
	t.Logf("%s, %d bytes dirty, %q", r.State, r.Dirty, r.Why)
	fault(t, l.A, "clear")
	until(t, 30*time.Second, "in sync", is(l.A, connected))
	a.holds(10*mib, 65536, 2)
	a.f.Close()
	sameDisks(t, l)
}

// TestRecreatedPrimary: a node that was created anew and promoted beside its peer's data serves that data, from the first read.
func TestRecreatedPrimary(t *testing.T) {
	l := newLab(t, lab.Options{Resource: `timeout = "3s"`})
	up(t, l)
	a := open(t, l.A)
	a.fill(0, 16*mib, 1)
	a.f.Close()
	run(t, l.A, "hastctl", "role", "init", "data")
	run(t, l.A, "hastctl", "create", "--force", "data")
	sh(t, l.A, "dd if=/dev/zero of="+l.A.Disk+" bs=1M count=16 conv=notrunc status=none") // a new disk
	run(t, l.A, "hastctl", "role", "primary", "data")
	device(t, l.A)
	a = open(t, l.A)
	for off := int64(0); off < 16*mib; off += mib {
		a.holds(off, 65536, 1)
	}
	until(t, 30*time.Second, "in sync", is(l.A, connected))
	a.f.Close()
	sameDisks(t, l)
	// One that was used on its own is another resource: nothing moves, and people are told what to do.
	run(t, l.A, "hastctl", "create", "--force", "data")
	promote(t, l.A)
	a = open(t, l.A)
	a.fill(0, mib, 2)
	run(t, l.B, "hastctl", "role", "secondary", "data")
	until(t, 10*time.Second, "the refusal", is(l.A, func(r resource) bool { return strings.Contains(r.Why, "create --force") }))
	until(t, 10*time.Second, "the refusal", is(l.B, func(r resource) bool { return strings.Contains(r.Why, "create --force") }))
	a.holds(0, mib, 2)
	if !bytes.Equal(onDisk(t, l.B, 0, mib), pattern(0, mib, 1)) {
		t.Error("the peer's data was overwritten")
	}
	a.f.Close()
}

// TestSyncRate: a sync keeps to its rate, and the application is not held to it.
func TestSyncRate(t *testing.T) {
	const changed, rate = 16 * mib, 4e6
	l := newLab(t, lab.Options{Resource: "compression = \"none\"\nsync_rate = \"4M\""})
	up(t, l)
	a := open(t, l.A)
	a.fill(0, 32*mib, 1)
	until(t, 10*time.Second, "clean", is(l.A, connected))
	gone(t, l)
	a.fill(0, changed, 2)
	back(t, l)
	until(t, 10*time.Second, "the sync", is(l.A, func(r resource) bool { return r.State == "syncing" }))
	began := time.Now()
	var longest time.Duration
	for i := 0; ; i++ {
		longest = max(longest, took(t, "write", func() error { return a.write(24*mib+int64(i%64)*65536, 65536, 3) }))
		if r, err := status(l.A); err == nil && r.State == "connected" {
			break
		}
		if time.Since(began) > 20*time.Second {
			t.Fatal("the sync has not ended in 20 s")
		}
	}
	got := changed / time.Since(began).Seconds()
	t.Logf("%.1f MB/s with a rate of %.1f; the longest write took %v", got/1e6, rate/1e6, longest)
	if got > 1.4*rate || got < 0.5*rate {
		t.Errorf("a sync with a rate of %.0f bytes/s ran at %.0f", rate, got)
	}
	if longest > time.Second {
		t.Errorf("a write took %v", longest)
	}
	a.f.Close()
	sameDisks(t, l)
}

// TestSyncOverALongLink: over a link with 50 ms there and back a sync is many times quicker than one piece at a time could be.
func TestSyncOverALongLink(t *testing.T) {
	const (
		changed = 48 * mib
		trip    = 50 * time.Millisecond
		piece   = 256 << 10 // the largest there is
	)
	l, p := proxied(t, lab.Options{Resource: `compression = "none"`})
	a := open(t, l.A)
	a.fill(0, changed, 1)
	until(t, 10*time.Second, "clean", is(l.A, connected))
	gone(t, l)
	a.fill(0, changed, 2)
	p.mu.Lock()
	p.lag = trip / 2
	p.mu.Unlock()
	back(t, l)
	until(t, 20*time.Second, "the sync", is(l.A, func(r resource) bool { return r.State == "syncing" }))
	began := time.Now()
	until(t, 60*time.Second, "in sync", is(l.A, connected))
	rate, single := changed/time.Since(began).Seconds(), piece/trip.Seconds()
	t.Logf("%.0f MB/s; one piece for each round trip would be %.0f", rate/1e6, single/1e6)
	if rate < 3*single {
		t.Errorf("a sync at %.0f bytes/s: one piece for each round trip would be %.0f", rate, single)
	}
	a.f.Close()
	sameDisks(t, l)
}
