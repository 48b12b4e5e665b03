package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"hast/test/lab"
)

// TestReloadKeepsTheDevice: every setting that HAST changes in a running worker is changed in one here, under an open device, and is
// in force on the next connection as well.
func TestReloadKeepsTheDevice(t *testing.T) {
	l, a := faultyUp(t, lab.Options{Resource: "replication = \"fullsync\"\nchecksum = \"crc32c\"\ncompression = \"hole\"\ntimeout = \"8s\"\nmetaflush = true\nidle_clean = \"60s\"\n"})
	hook(t, l.A, "")
	a.fill(0, 8*mib, 1)
	until(t, 10*time.Second, "clean", is(l.A, connected))
	begun, err := status(l.A)
	if err != nil {
		t.Fatal(err)
	}
	const lost = "connection to the peer lost"
	for i, c := range []struct{ old, new string }{
		{`replication = "fullsync"`, `replication = "async"`},
		{`metaflush = true`, `metaflush = false`},
		{`idle_clean = "60s"`, "idle_clean = \"50s\"\nexec = \"/etc/hast/hook\""},
		{`checksum = "crc32c"`, `checksum = "sha256"`},
		{`compression = "hole"`, `compression = "lz4"`},
		{`timeout = "8s"`, `timeout = "1s"`}, // less than the peer is silent by itself
	} {
		before := logged(t, l.A, lost)
		edit(t, l.A, c.old, c.new)
		run(t, l.A, "hastctl", "reload")
		a.mustWrite(int64(i)*mib, 65536, 2)
		until(t, 10*time.Second, "connected", is(l.A, connected))
		a.holds(int64(i)*mib, 65536, 2)
		if r, err := status(l.A); err != nil || r.Worker != begun.Worker || r.Role != "primary" {
			t.Errorf("%s: %+v, %v", c.new, r, err)
		}
		if logged(t, l.A, lost) > before {
			t.Errorf("%s took a new connection", c.new)
		}
	}
	before := logged(t, l.A, lost)
	time.Sleep(3 * time.Second) // idle: three of the new timeouts
	if logged(t, l.A, lost) > before {
		t.Error("the new timeout ended an idle connection to a peer that has the old one")
	}
	apart(t, l)
	hasCalls(t, l.A, "disconnect data", 1)
	if err := l.Heal(); err != nil {
		t.Fatal(err)
	}
	until(t, 20*time.Second, "connected", is(l.A, connected))
	hasCalls(t, l.A, "connect data", 1)
	// What was reloaded is what the worker does, and not only what status says.
	flushes := stat(t, l.A).Flushes
	fault(t, l.B, "delay write ms=1000 len=%d", 32*mib)
	if d := took(t, "write", func() error { return a.write(20*mib, 65536, 3) }); d > 500*time.Millisecond {
		t.Errorf("an async write waited for the peer's disk: %v", d)
	}
	if got := stat(t, l.A).Flushes; got != flushes {
		t.Errorf("%d flushes of metadata although metaflush is off", got-flushes)
	}
	fault(t, l.B, "clear")
	until(t, 20*time.Second, "connected", is(l.A, connected))
	a.f.Close()
	sameDisks(t, l)
}

// TestReloadReconnects: another remote or source address costs a connection and not the device; another name costs the device, and is
// refused while that is in use.
func TestReloadReconnects(t *testing.T) {
	const second = "10.99.7.9"
	l := newLab(t, lab.Options{Resource: `timeout = "2s"`})
	run(t, l.A, "ip", "addr", "add", second+"/24", "dev", "eth0")
	up(t, l)
	a := open(t, l.A)
	a.fill(0, 4*mib, 1)
	until(t, 10*time.Second, "clean", is(l.A, connected))
	begun, err := status(l.A)
	if err != nil {
		t.Fatal(err)
	}
	same := func(when string) {
		t.Helper()
		if r, err := status(l.A); err != nil || r.Worker != begun.Worker || r.Role != "primary" {
			t.Errorf("%s: %+v, %v", when, r, err)
		}
		a.holds(0, mib, 1)
	}
	reload := func(n *lab.Node, old, new string) {
		t.Helper()
		edit(t, n, old, new)
		run(t, n, "hastctl", "reload")
	}
	reload(l.A, onNode(l.A), onNode(l.A)+"remote = \"none\"\n")
	until(t, 10*time.Second, "alone", is(l.A, func(r resource) bool { return r.State == "degraded" }))
	same("remote = none")
	a.mustWrite(2*mib, 65536, 2)
	reload(l.A, "remote = \"none\"\n", "")
	until(t, 20*time.Second, "connected", is(l.A, connected))
	same("remote back")
	reload(l.B, onNode(l.B), onNode(l.B)+"remote = \""+second+"\"\n")
	reload(l.A, onNode(l.A), onNode(l.A)+"source = \""+second+"\"\n")
	until(t, 20*time.Second, "a connection from the new address", func() error {
		out := sh(t, l.B, "ss -Htn state established sport = :8457 || true")
		if r, err := status(l.A); err != nil || !connected(r) || !strings.Contains(out, second+":") || strings.Contains(out, l.A.Addr+":") {
			return fmt.Errorf("%+v, %v, %s", r, err, out)
		}
		return nil
	})
	same("source")
	// The name is the device's.
	edit(t, l.A, onNode(l.A), onNode(l.A)+"name = \"other\"\n")
	if out, err := l.A.Ctl("reload"); err == nil || !strings.Contains(out, "in use") {
		t.Errorf("a device in use was renamed, or it is not said why not: %v, %s", err, out)
	}
	same("a name that was refused")
	a.f.Close()
	run(t, l.A, "hastctl", "role", "secondary", "data")
	run(t, l.A, "hastctl", "reload")
	run(t, l.A, "hastctl", "role", "primary", "data")
	until(t, 10*time.Second, "the device's new name", func() error { _, err := l.A.Run("test", "-b", "/dev/hast/other"); return err })
	if _, err := l.A.Run("test", "-e", "/dev/hast/data"); err == nil {
		t.Error("the old name is still there")
	}
	reload(l.A, "name = \"other\"\n", "") // under a device that nobody uses
	device(t, l.A)
	if r, err := status(l.A); err != nil || r.Role != "primary" {
		t.Errorf("after a restart by reload: %+v, %v", r, err)
	}
	until(t, 10*time.Second, "connected", is(l.A, connected))
	sameDisks(t, l)
}

// TestReloadOfWhatIsInUse: a resource in use does not leave with its section, nor is there a second one of it when the section
// is back; and a change that it refused is made by the next reload.
func TestReloadOfWhatIsInUse(t *testing.T) {
	l := newLab(t, lab.Options{Resource: `timeout = "2s"`})
	up(t, l)
	a := open(t, l.A)
	a.fill(0, 4*mib, 1)
	begun, err := status(l.A)
	if err != nil {
		t.Fatal(err)
	}
	full := run(t, l.A, "cat", "/etc/hast/hast.toml")
	section := full[strings.Index(full, "[resource.data]"):]
	edit(t, l.A, section, "# no resource")
	if out, err := l.A.Ctl("reload"); err == nil || !strings.Contains(out, "in use") {
		t.Errorf("a resource in use was removed: %v, %s", err, out)
	}
	a.mustWrite(mib, 65536, 2)
	edit(t, l.A, "# no resource", section)
	run(t, l.A, "hastctl", "reload")
	if r, err := status(l.A); err != nil || r.Worker != begun.Worker || r.Role != "primary" || r.State != "connected" {
		t.Errorf("back in the file: %+v, %v", r, err)
	}
	a.mustWrite(2*mib, 65536, 2)
	// Refused, and then the file is as before: nothing is left to do.
	edit(t, l.A, onNode(l.A), onNode(l.A)+"name = \"other\"\n")
	if out, err := l.A.Ctl("reload"); err == nil || !strings.Contains(out, "in use") {
		t.Errorf("a device in use was renamed: %v, %s", err, out)
	}
	edit(t, l.A, "name = \"other\"\n", "")
	run(t, l.A, "hastctl", "reload")
	if r, err := status(l.A); err != nil || r.Worker != begun.Worker {
		t.Errorf("as before: %+v, %v", r, err)
	}
	// Removed, refused, and removed when it is not in use any more.
	edit(t, l.A, section, "")
	if out, err := l.A.Ctl("reload"); err == nil {
		t.Errorf("a resource in use was removed: %s", out)
	}
	a.f.Close()
	run(t, l.A, "hastctl", "reload")
	if out, err := l.A.Ctl("status", "data"); err == nil || !strings.Contains(out, "configured") {
		t.Errorf("still there: %v, %s", err, out)
	}
	if _, err := l.A.Run("test", "-e", "/dev/hast/data"); err == nil {
		t.Error("its device is still there")
	}
}
