package e2e

import (
	"strings"
	"testing"
	"time"

	"hast/test/lab"
)

// TestFreezeAndAPeerInInit: who asks for a device that would only wait is told so, at once, and what to do.
func TestFreezeAndAPeerInInit(t *testing.T) {
	l := newLab(t, lab.Options{Resource: "timeout = \"5s\"\non_peer_loss = \"freeze\""})
	for _, n := range []*lab.Node{l.B, l.A} {
		run(t, n, "hastctl", "create", "data")
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	began := time.Now()
	out, err := l.A.Ctl("role", "primary", "data")
	if err == nil || !strings.Contains(out, "freeze") || !strings.Contains(out, "hastctl role secondary data") {
		t.Errorf("the peer's role is init: %s", out)
	}
	if d := time.Since(began); d > 4*time.Second {
		t.Errorf("it took %v to say so", d)
	}
	if r, err := status(l.A); err != nil || r.Role != "init" {
		t.Errorf("after the refusal: %+v, %v", r, err)
	}
	run(t, l.B, "hastctl", "role", "secondary", "data")
	run(t, l.A, "hastctl", "role", "primary", "data")
	device(t, l.A)
	a := open(t, l.A)
	a.fill(0, 2*mib, 1)
	// The device lives on, frozen, when the peer goes, and says for what.
	run(t, l.B, "hastctl", "role", "init", "data")
	until(t, 10*time.Second, "frozen", is(l.A, func(r resource) bool {
		return r.State == "frozen" && strings.Contains(r.Why, "on_peer_loss is freeze") && strings.Contains(r.Why, "role init")
	}))
	done := make(chan error, 1)
	go func() { _, err := a.f.WriteAt(pageAligned(3*mib, 65536, 2), 3*mib); done <- err }()
	select {
	case err := <-done:
		t.Errorf("a write while frozen: %v", err)
	case <-time.After(time.Second):
	}
	run(t, l.B, "hastctl", "role", "secondary", "data")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	until(t, 20*time.Second, "in sync", is(l.A, connected))
	a.holds(3*mib, 65536, 2)
	a.f.Close()
	sameDisks(t, l)
	// Force is a person's word that it is wanted nevertheless.
	run(t, l.A, "hastctl", "role", "primary", "--force", "data")
	device(t, l.A)
	b := open(t, l.A)
	b.holds(3*mib, 65536, 2)
	b.mustWrite(4*mib, 65536, 3)
	b.f.Close()
}
