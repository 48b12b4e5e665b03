package e2e

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"hast/test/lab"
)

// TestStallsAreSaid: the link lives, but a disk does not answer and writes wait. Both nodes say which disk, once in the log and as an event.
func TestStallsAreSaid(t *testing.T) {
	l, a := faultyUp(t, lab.Options{})
	a.fill(0, 4*mib, 1)
	until(t, 10*time.Second, "clean", is(l.A, connected))
	const peer, local = "has not answered a request for more than 10s", "the local disk has had a request for more than 10s"
	says := func(n *lab.Node, text string) func() error {
		return is(n, func(r resource) bool { return strings.Contains(r.Why, text) && r.State == "connected" })
	}
	quiet := func(n *lab.Node) func() error {
		return is(n, func(r resource) bool { return r.Why == "" && r.PeerWait == 0 && r.State == "connected" })
	}
	stall := func(n *lab.Node, off int64) (end func()) {
		t.Helper()
		fault(t, n, "hang any")
		done := make(chan error, 1)
		go func() { _, err := a.f.WriteAt(pageAligned(off, 65536, 2), off); done <- err }()
		time.Sleep(2 * time.Second)
		for _, n := range []*lab.Node{l.A, l.B} {
			if r, _ := status(n); r.Why != "" {
				t.Errorf("%s complains after 2 s: %q", n.Name, r.Why)
			}
		}
		return func() {
			t.Helper()
			select {
			case err := <-done:
				t.Fatalf("a write past a disk that hangs was answered: %v", err)
			default:
			}
			time.Sleep(300 * time.Millisecond) // a worker looks for what to log every 50 ms
			fault(t, n, "clear")
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			until(t, 5*time.Second, "nothing to say", quiet(l.A))
			until(t, 5*time.Second, "nothing to say", quiet(l.B))
		}
	}
	end := stall(l.B, 2*mib)
	until(t, 15*time.Second, "the primary's reason", says(l.A, peer))
	until(t, 15*time.Second, "the secondary's reason", says(l.B, local))
	if r, _ := status(l.A); r.PeerWait < 10 {
		t.Errorf("waited for the peer for %.1f s", r.PeerWait)
	}
	if out := run(t, l.A, "hastctl", "status"); !strings.Contains(out, "hb2 is connected, but "+peer) {
		t.Errorf("status says nothing of it: %s", out)
	}
	end()
	end = stall(l.A, 3*mib)
	until(t, 15*time.Second, "the primary's reason", says(l.A, local))
	if r, _ := status(l.A); r.DiskWait < 10 {
		t.Errorf("waited for the disk for %.1f s", r.DiskWait)
	}
	end()
	for _, c := range []struct {
		n    *lab.Node
		text string
	}{{l.A, peer}, {l.A, "nothing waits for the peer any more"}, {l.B, local}, {l.B, "the local disk answers again"}, {l.A, local}, {l.A, "the local disk answers again"}} {
		until(t, 2*time.Second, "the log", func() error {
			if n := logged(t, c.n, c.text); n != 1 {
				return fmt.Errorf("%s says %d times: %s", c.n.Name, n, c.text)
			}
			return nil
		})
	}
	// The same as events, for programs; how long it lasted is the only thing that differs from run to run.
	seconds := regexp.MustCompile(`seconds=1[0-9]\b`)
	for n, want := range map[*lab.Node][]string{
		l.A: {"stall disk=peer", "stall-end disk=peer seconds=N", "stall disk=local", "stall-end disk=local seconds=N"},
		l.B: {"stall disk=local", "stall-end disk=local seconds=N"},
	} {
		got := events(t, n, "stall", "stall-end")
		for i := range got {
			got[i] = seconds.ReplaceAllString(got[i], "seconds=N")
		}
		if !slices.Equal(got, want) {
			t.Errorf("events of %s: %q, want %q", n.Name, got, want)
		}
	}
	a.holds(2*mib, 65536, 2)
	a.holds(3*mib, 65536, 2)
	a.f.Close()
	sameDisks(t, l)
}
