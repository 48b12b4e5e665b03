package e2e

import (
	"syscall"
	"testing"
	"time"

	"hast/test/lab"
)

// TestResyncOverASlowLink: a resync of random data takes what the link gives, and leaves the application its turn.
func TestResyncOverASlowLink(t *testing.T) {
	const (
		changed = 64 * mib
		link    = 200e6 / 8 // bytes/s
	)
	l := newLab(t, lab.Options{DiskSize: 128 * mib})
	up(t, l)
	a := open(t, l.A)
	a.fill(0, 80*mib, 1)
	until(t, 30*time.Second, "clean", is(l.A, connected))
	time.Sleep(6 * time.Second) // the own flush of the last epoch
	l.B.Kill(syscall.SIGKILL)
	until(t, 30*time.Second, "the loss of the peer", is(l.A, func(r resource) bool { return r.State != "connected" }))
	a.fill(0, changed, 2)
	for _, n := range []*lab.Node{l.A, l.B} {
		run(t, n, "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "200mbit", "burst", "256kb", "latency", "50ms")
	}
	before, _, err := l.A.LinkBytes()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.B.Start(); err != nil {
		t.Fatal(err)
	}
	run(t, l.B, "hastctl", "role", "secondary", "data")
	until(t, 10*time.Second, "the sync", is(l.A, func(r resource) bool { return r.State == "syncing" }))
	began := time.Now()
	// The application, meanwhile: a write with a flush and a read of what has perhaps not been synced yet, twenty times a second.
	var longest time.Duration
	writes := 0
	for end := began.Add(20 * time.Second); ; writes++ {
		longest = max(longest, took(t, "write and flush", func() error {
			if err := a.write(65*mib+int64(writes%256)*4096, 4096, 3); err != nil {
				return err
			}
			return a.flush()
		}))
		a.holds(int64(63-writes%64)*mib, 4096, 2)
		if r, err := status(l.A); err == nil && r.State == "connected" {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the resync has not ended in 20 s")
		}
		time.Sleep(20 * time.Millisecond)
	}
	whole := time.Since(began)
	after, _, err := l.A.LinkBytes()
	if err != nil {
		t.Fatal(err)
	}
	rate, moved := changed/whole.Seconds(), float64(after-before)
	t.Logf("%d MiB in %v: %.0f %% of the link; %.3f bytes on the interface for one that changed; %d writes with flush meanwhile, the longest took %v",
		changed/mib, whole, 100*rate/link, moved/changed, writes, longest)
	if rate < 0.8*link {
		t.Errorf("the resync ran at %.0f %% of the link's rate", 100*rate/link)
	}
	if rate > 1.05*link {
		t.Errorf("the link is not slowed down: %.0f bytes/s", rate)
	}
	if mine := float64(changed + writes*4096); moved < changed || moved > 1.05*mine {
		t.Errorf("%.0f bytes on the interface for %.0f that changed", moved, mine)
	}
	if writes < 5 || longest > time.Second {
		t.Errorf("the application got %d writes done, the longest took %v", writes, longest)
	}
	for _, n := range []*lab.Node{l.A, l.B} {
		run(t, n, "tc", "qdisc", "del", "dev", "eth0", "root")
	}
	until(t, 10*time.Second, "connected", is(l.A, connected))
	a.f.Close()
	sameDisks(t, l)
}
