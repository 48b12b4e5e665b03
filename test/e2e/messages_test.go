package e2e

import (
	"strings"
	"testing"

	"hast/test/lab"
)

// TestMessages: what an operator reads at the usual mistakes says what happened to what, once, and what to do.
func TestMessages(t *testing.T) {
	l := newLab(t, lab.Options{})
	if err := l.A.Start(); err != nil {
		t.Fatal(err)
	}
	says := func(what, out string, err error, want ...string) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: no error: %s", what, out)
		}
		for _, w := range want {
			if strings.Count(out, w) != 1 {
				t.Errorf("%s: %q is not there once:\n%s", what, w, out)
			}
		}
	}
	out, err := l.A.Ctl("role", "secondary", "data")
	says("no metadata", out, err, l.A.Disk, "no HAST metadata", "hastctl create")
	if strings.Contains(out, "received-") {
		t.Errorf("a descriptor has no name that people know: %s", out)
	}
	out, err = l.A.Ctl("dump", "data")
	says("dump without metadata", out, err, l.A.Disk, "no HAST metadata", "hastctl create")
	l.A.Kill(9)
	l.A.Clean()
	up(t, l)
	for _, n := range []*lab.Node{l.A, l.B} {
		out, err = n.Ctl("create", "--force", "data")
		says("create over hastd's device", out, err, "hastd uses "+n.Disk, "hastctl role init data")
		if out := run(t, n, "hastctl", "dump", "data"); strings.Contains(out, "never") {
			t.Errorf("%s does not know when its generation began:\n%s", n.Name, out)
		}
		if out := run(t, n, "hastctl", "config", "check"); !strings.Contains(out, " 1 resource,") {
			t.Errorf("config check: %s", out)
		}
	}
	if out := run(t, l.A, "hastctl", "role", "--help"); !strings.Contains(out, "init, secondary: take the device away although it is in use") {
		t.Errorf("role --help does not say what --force does with the other roles:\n%s", out)
	}
}
