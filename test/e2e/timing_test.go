package e2e

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"hast/test/lab"
)

// delay is what the slow disk takes for everything; a quick answer takes less than half of it.
const delay = 200 * time.Millisecond

// median returns the middle duration of five calls of f, which must not fail.
func median(t *testing.T, what string, f func() error) time.Duration {
	t.Helper()
	var d []time.Duration
	for range 5 {
		d = append(d, took(t, what, f))
	}
	slices.Sort(d)
	return d[2]
}

// TestWhoIsWaitedFor slows one disk down and looks who waits for it: the table of modes, measured from the application.
func TestWhoIsWaitedFor(t *testing.T) {
	for _, c := range []struct {
		mode                   string
		writeWaits, flushWaits bool // for the peer's disk
	}{
		{"fullsync", true, true},
		{"memsync", false, false},
		{"async", false, false},
	} {
		t.Run(c.mode, func(t *testing.T) {
			l, a := faultyUp(t, lab.Options{Resource: fmt.Sprintf("replication = %q", c.mode)})
			a.fill(0, 8*mib, 1) // the extents are marked from here on: no map update is measured
			until(t, 10*time.Second, "connected", is(l.A, connected))
			const size = 4096
			block := int64(mib)
			write := func() error {
				block += size // a block is locked until both disks have it: the next write is another's
				return a.write(block, size, 2)
			}
			check := func(what string, waits bool, d time.Duration) {
				t.Helper()
				t.Logf("%s: %s %v", c.mode, what, d)
				if waits && d < delay || !waits && d >= delay/2 {
					t.Errorf("%s: %s took %v, with %v for a disk operation; it waits for that disk: %v expected", c.mode, what, d, delay, waits)
				}
			}
			check("a write, both quick", false, median(t, "write", write))
			check("a flush, both quick", false, median(t, "flush", a.flush))
			slow := func(n *lab.Node, op string, f func()) {
				t.Helper()
				fault(t, n, "delay %s ms=%d len=%d", op, delay.Milliseconds(), 8*mib) // not the metadata at the end
				f()
				fault(t, n, "clear")
				time.Sleep(3 * delay) // what was acknowledged before it was done is done
			}
			slow(l.B, "write", func() { check("a write, the peer's disk slow", c.writeWaits, median(t, "write", write)) })
			slow(l.A, "write", func() { check("a write, the own disk slow", true, median(t, "write", write)) })
			flush := func() error {
				if err := write(); err != nil {
					return err
				}
				return a.flush()
			}
			slow(l.B, "flush", func() { check("a write and a flush, the peer's flush slow", c.flushWaits, took(t, "flush", flush)) })
			slow(l.A, "flush", func() { check("a write and a flush, the own flush slow", true, took(t, "flush", flush)) })
			until(t, 10*time.Second, "connected", is(l.A, connected))
			a.f.Close()
			sameDisks(t, l)
		})
	}
}
