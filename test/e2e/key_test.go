package e2e

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"hast/test/lab"
)

// noKey is what status says when authentication fails.
const noKey = "does not have the same key"

func saysNoKey(r resource) bool { return strings.Contains(r.Why, noKey) }

// logged counts the lines of the node's log that have text in them.
func logged(t *testing.T, n *lab.Node, text string) (count int) {
	t.Helper()
	b, err := os.ReadFile(n.Log())
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, text) {
			count++
		}
	}
	return count
}

// TestDifferentKeys: both nodes say what it is, in status, in the log and to whoever promotes, and nobody is told to use force.
func TestDifferentKeys(t *testing.T) {
	for _, encrypt := range []bool{true, false} {
		t.Run(fmt.Sprintf("encrypt=%v", encrypt), func(t *testing.T) {
			l := newLab(t, lab.Options{Resource: fmt.Sprintf("timeout = \"3s\"\nencrypt = %v", encrypt)})
			for _, n := range []*lab.Node{l.B, l.A} {
				run(t, n, "hastctl", "create", "data")
			}
			sh(t, l.B, "rm /etc/hast/key && hastctl key new /etc/hast/key")
			for _, n := range []*lab.Node{l.B, l.A} {
				if err := n.Start(); err != nil {
					t.Fatal(err)
				}
			}
			if out, err := l.A.Ctl("role", "primary", "data"); err == nil || !strings.Contains(out, "key") || strings.Contains(out, "--force") {
				t.Errorf("the answer of a peer in role init, with another key: %s", out)
			}
			run(t, l.B, "hastctl", "role", "secondary", "data")
			out, err := l.A.Ctl("role", "primary", "data")
			if err == nil || !strings.Contains(out, noKey) || strings.Contains(out, "--force") {
				t.Errorf("promoted, or not explained: %s", out)
			}
			t.Log(out)
			// Where nobody asks, it is said as well: on a node that waits, and on one that was promoted by force.
			until(t, 5*time.Second, "the secondary's reason", is(l.B, saysNoKey))
			promote(t, l.A)
			for _, n := range []*lab.Node{l.A, l.B} {
				until(t, 15*time.Second, "the reason", is(n, saysNoKey))
				if out := run(t, n, "hastctl", "status"); !strings.Contains(out, noKey) || strings.Contains(out, "EOF") {
					t.Errorf("%s: %s", n.Name, out)
				}
			}
			time.Sleep(3 * time.Second) // several attempts
			if n := logged(t, l.B, noKey); n != 1 {
				t.Errorf("the secondary's log says it %d times", n)
			}
			if n := logged(t, l.A, noKey); n < 1 || n > 5 { // a line of each worker's, and of each promotion that was refused
				t.Errorf("the primary's log says it %d times", n)
			}
			for _, n := range []*lab.Node{l.A, l.B} {
				got := events(t, n, "auth-failed")
				if len(got) == 0 || len(got) > 5 || n == l.B && len(got) != 1 { // as often as the log says it
					t.Errorf("%s: events %q", n.Name, got)
				}
				for _, e := range got {
					if !regexp.MustCompile(`^auth-failed reason=key remote=10\.[0-9.]+:[0-9]+$`).MatchString(e) {
						t.Errorf("%s: event %q", n.Name, e)
					}
				}
			}
			// The reason goes with its cause.
			sh(t, l.B, "cp "+l.Dir+"/key /etc/hast/key && chmod 600 /etc/hast/key && hastctl reload")
			until(t, 20*time.Second, "in sync", is(l.A, connected))
			for _, n := range []*lab.Node{l.A, l.B} {
				until(t, 5*time.Second, "nothing to say", is(n, func(r resource) bool { return r.Why == "" }))
			}
			before := len(events(t, l.B, "auth-failed"))
			time.Sleep(time.Second)
			if n := len(events(t, l.B, "auth-failed")); n != before {
				t.Errorf("%d events of it, %d before", n, before)
			}
		})
	}
}

// TestKeyChange: running workers take a new key with a reload. Connections that live stay, new ones need it on both nodes.
func TestKeyChange(t *testing.T) {
	for _, encrypt := range []bool{true, false} {
		t.Run(fmt.Sprintf("encrypt=%v", encrypt), func(t *testing.T) {
			l := newLab(t, lab.Options{Resource: fmt.Sprintf("timeout = \"2s\"\nencrypt = %v", encrypt)})
			up(t, l)
			a := open(t, l.A)
			a.fill(0, 4*mib, 1)
			ra, _ := status(l.A)
			rb, _ := status(l.B)
			run(t, l.A, "hastctl", "key", "new", l.Dir+"/key2")
			change := "cp " + l.Dir + "/key2 /etc/hast/key && chmod 600 /etc/hast/key"
			sh(t, l.A, change+" && hastctl reload")
			a.mustWrite(4*mib, mib, 2)
			if r, err := status(l.A); err != nil || r.State != "connected" || logged(t, l.A, "connection to the peer lost") != 0 {
				t.Fatalf("a connection that lives did not stay: %+v, %v", r, err)
			}
			// Cut off, the nodes don't come together with the key changed on one of them.
			cut := func() {
				t.Helper()
				if err := l.Cut(); err != nil {
					t.Fatal(err)
				}
				until(t, 20*time.Second, "the loss", is(l.A, func(r resource) bool { return r.State == "degraded" }))
				until(t, 20*time.Second, "the loss", is(l.B, func(r resource) bool { return r.State == "waiting" }))
				if err := l.Heal(); err != nil {
					t.Fatal(err)
				}
			}
			cut()
			a.mustWrite(5*mib, mib, 3)
			for _, n := range []*lab.Node{l.A, l.B} {
				until(t, 20*time.Second, "the reason", is(n, func(r resource) bool { return r.State != "connected" && saysNoKey(r) }))
			}
			sh(t, l.B, change+" && kill -HUP $(cat /run/hast/hastd.pid)")
			until(t, 20*time.Second, "in sync with the new key", is(l.A, connected))
			cut()
			until(t, 20*time.Second, "in sync again", is(l.A, connected))
			if r, _ := status(l.A); r.Worker != ra.Worker {
				t.Errorf("the primary's worker was %d and is %d", ra.Worker, r.Worker)
			}
			if r, _ := status(l.B); r.Worker != rb.Worker {
				t.Errorf("the secondary's worker was %d and is %d", rb.Worker, r.Worker)
			}
			a.holds(5*mib, mib, 3)
			a.f.Close()
			sameDisks(t, l)
		})
	}
}
