package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"hast/test/lab"
)

// TestForceBesideAPrimary: a primary that answers is alive. Forcing the other node is refused, with and without a link
// between the workers, and its users notice nothing (rule 5).
func TestForceBesideAPrimary(t *testing.T) {
	l, a := faultyUp(t, lab.Options{})
	a.fill(0, 4*mib, 1)
	until(t, 10*time.Second, "connected", is(l.A, connected))
	try := func(when string) {
		t.Helper()
		out, err := l.B.Ctl("role", "primary", "--force", "data")
		if err == nil || !strings.Contains(out+err.Error(), "is primary of data") {
			t.Fatalf("%s: role primary --force beside a primary: %q %v", when, out, err)
		}
		if err := a.write(0, 4096, 2); err != nil {
			t.Fatalf("%s: a write on the primary afterwards: %v", when, err)
		}
		if _, err := l.B.Ctl("role", "secondary", "data"); err != nil {
			t.Fatal(err)
		}
		until(t, 20*time.Second, "connected again", is(l.A, connected))
	}
	try("connected")
	if out, err := l.B.Ctl("role", "init", "data"); err != nil {
		t.Fatalf("%q %v", out, err)
	}
	try("from role init")
}

// TestNoSuccessorOfALostCopy: a worker that dies while its copy is out has no successor that could serve from it (rules 6, 8).
func TestNoSuccessorOfALostCopy(t *testing.T) {
	l, a := faultyUp(t, lab.Options{})
	a.fill(0, 8*mib, 1)
	until(t, 10*time.Second, "connected", is(l.A, connected))
	fault(t, l.A, "fail write from=%d len=%d", 4*mib, mib)
	if err := a.write(4*mib, 65536, 2); err != nil {
		t.Fatal(err)
	}
	until(t, 10*time.Second, "the local copy out", func() error {
		r, err := status(l.A)
		if err == nil && !r.LocalLost {
			err = errWaits
		}
		return err
	})
	a.f.Close()
	for _, pid := range l.A.Titles("hastd: data (primary)") {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	until(t, 10*time.Second, "role init", func() error {
		r, err := status(l.A)
		if err == nil && (r.Role != "init" || !strings.Contains(r.Why, "only node hb2 has a whole one")) {
			err = errWaits
		}
		return err
	})
	if out, err := l.B.Ctl("role", "primary", "data"); err != nil {
		t.Fatalf("the node with the whole copy: %q %v", out, err)
	}
}
