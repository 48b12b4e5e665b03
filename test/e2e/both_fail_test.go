package e2e

import (
	"testing"
	"time"

	"hast/test/lab"
)

// TestBothWritesFail: no disk takes it, and the application must hear so.
func TestBothWritesFail(t *testing.T) {
	l, a := faultyUp(t, lab.Options{})
	a.fill(0, 16*mib, 1)
	ba, bb := stat(t, l.A), stat(t, l.B)
	for _, n := range []*lab.Node{l.A, l.B} {
		fault(t, n, "fail write from=%d len=%d", 8*mib, mib)
	}
	if err := a.write(8*mib, 65536, 2); err == nil || err == errWaits {
		t.Errorf("a write that both disks refused: %v", err)
	}
	met(t, l.A, ba)
	met(t, l.B, bb)
	r, err := status(l.A)
	t.Logf("%s, %s, why %q, local error %q, peer error %q, %d bytes dirty, %v", r.State, r.Status, r.Why, r.LocalError, r.PeerError, r.Dirty, err)
	a.f.Close()
}

// TestBothFlushesFail: no copy is known to hold it, and the application must hear so.
func TestBothFlushesFail(t *testing.T) {
	l, a := faultyUp(t, lab.Options{})
	a.fill(0, 8*mib, 1)
	until(t, 10*time.Second, "clean", is(l.A, connected))
	for _, n := range []*lab.Node{l.A, l.B} {
		fault(t, n, "volatile")
	}
	a.mustWrite(4*mib, 65536, 2)
	for _, n := range []*lab.Node{l.A, l.B} {
		fault(t, n, "fail flush times=1 lose=yes")
	}
	err := a.flush()
	t.Logf("flush: %v", err)
	if err == nil || err == errWaits {
		t.Error("a flush that failed on both disks was acknowledged")
	}
	for _, n := range []*lab.Node{l.A, l.B} {
		r, err := status(n)
		t.Logf("%s %s, %s, data %s, why %q, %d bytes dirty, %v", r.Role, r.State, r.Status, r.Data, r.Why, r.Dirty, err)
	}
	a.f.Close()

}
