package e2e

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"hast/test/lab"
)

// answers checks that hastctl says something within seconds on each node, whatever is stuck (rule 14).
func answers(t *testing.T, what string, nodes ...*lab.Node) {
	t.Helper()
	for _, n := range nodes {
		for _, verb := range []string{"status", "list"} {
			d := took(t, n.Name+": "+verb, func() error { _, err := n.Ctl(verb, "data"); return exitOnly(err) })
			if d > 3*time.Second {
				t.Errorf("%s: hastctl %s took %v while %s", n.Name, verb, d, what)
			}
		}
	}
}

// exitOnly forgives that status has an exit code for a resource that is not well.
func exitOnly(err error) error {
	var x interface{ ExitCode() int }
	if errors.As(err, &x) && x.ExitCode() > 0 {
		return nil
	}
	return err
}

func hanging(t *testing.T, n *lab.Node) {
	t.Helper()
	until(t, 5*time.Second, "the hang", func() error {
		if s, err := n.FaultStat(); err != nil || s.Hanging == 0 {
			return errors.Join(errors.New("nothing hangs"), err)
		}
		return nil
	})
}

// TestSecondaryDiskHangs: everybody answers, and a disk that wakes up has what was acknowledged meanwhile.
func TestSecondaryDiskHangs(t *testing.T) {
	l, a := faultyUp(t, lab.Options{Resource: `timeout = "2s"`})
	a.fill(0, 16*mib, 1)
	until(t, 10*time.Second, "clean", is(l.A, connected))
	fault(t, l.B, "hang any")
	done := make(chan error, 1)
	go func() { _, err := a.f.WriteAt(pageAligned(8*mib, 65536, 2), 8*mib); done <- err }()
	hanging(t, l.B)
	answers(t, "the secondary's disk hangs", l.A, l.B)
	a.holds(4*mib, 65536, 1)
	// A role change can't end before the disk does; it must not take the daemon along.
	change := make(chan error, 1)
	go func() { _, err := l.B.Ctl("--timeout", "3s", "role", "init", "data"); change <- err }()
	select {
	case err := <-change:
		t.Logf("role init: %v", err)
	case <-time.After(8 * time.Second):
		t.Error("hastctl --timeout 3s role init gave no answer in 8 s")
	}
	answers(t, "a role change waits for the disk", l.A, l.B)
	fault(t, l.B, "clear")
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("the write that waited: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the write still waits after the disk woke up")
	}
	until(t, 20*time.Second, "a role again", func() error { _, err := l.B.Ctl("role", "secondary", "data"); return err })
	until(t, 20*time.Second, "in sync", is(l.A, connected))
	a.holds(8*mib, 65536, 2)
	if !bytes.Equal(onDisk(t, l.B, 8*mib, 65536), pattern(8*mib, 65536, 2)) {
		t.Error("the secondary's disk lacks what was written while it hung")
	}
	a.f.Close()
	sameDisks(t, l)
}

// TestPrimaryDiskHangs: the application waits, the daemon does not, and what waited is done when the disk wakes up.
func TestPrimaryDiskHangs(t *testing.T) {
	l, a := faultyUp(t, lab.Options{Resource: `timeout = "2s"`})
	a.fill(0, 16*mib, 1)
	until(t, 10*time.Second, "clean", is(l.A, connected))
	fault(t, l.A, "hang any")
	done := make(chan error, 1)
	go func() { _, err := a.f.WriteAt(pageAligned(8*mib, 65536, 2), 8*mib); done <- err }()
	hanging(t, l.A)
	answers(t, "the primary's disk hangs", l.A, l.B)
	time.Sleep(4 * time.Second) // longer than timeout
	change := took(t, "role", func() error { _, err := l.A.Ctl("--timeout", "3s", "role", "secondary", "data"); return exitOnly(err) })
	if change > 6*time.Second {
		t.Errorf("hastctl --timeout 3s role secondary took %v", change)
	}
	answers(t, "the primary's disk has hung for long", l.A, l.B)
	select {
	case err := <-done:
		t.Errorf("a write whose disk hangs was answered: %v", err)
	default:
	}
	r, err := status(l.A)
	t.Logf("%s, %s, why %q, %v", r.State, r.Status, r.Why, err)
	fault(t, l.A, "clear")
	select {
	case err := <-done:
		if err != nil {
			t.Fatalf("the write that waited: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the write still waits after the disk woke up")
	}
	a.holds(8*mib, 65536, 2)
	a.mustFlush()
	until(t, 20*time.Second, "in sync", is(l.A, connected))
	a.f.Close()
	sameDisks(t, l)
}
