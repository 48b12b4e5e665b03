package e2e

import (
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"hast/test/lab"
)

// TestServiceManager plays the part of systemd towards a daemon of Type=notify with a watchdog (etc/hastd.service): it
// hears that hastd is ready only when hastctl works, is petted as long as the daemon works and no longer, hears of a
// reload, and of the end.
func TestServiceManager(t *testing.T) {
	l := newLab(t, lab.Options{})
	path := l.A.Dir + "/notify"
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// hear returns the next word that is none of skip; silent: none came within the time.
	hear := func(within time.Duration, skip ...string) (word string, silent bool) {
		t.Helper()
		c.SetReadDeadline(time.Now().Add(within))
		b := make([]byte, 4096)
	next:
		for {
			n, err := c.Read(b)
			if err != nil {
				return "", true
			}
			word = strings.TrimSpace(string(b[:n]))
			for _, s := range skip {
				if word == s {
					continue next
				}
			}
			return word, false
		}
	}
	const pet = "WATCHDOG=1"
	run(t, l.A, "hastctl", "create", "data")
	d := l.A.Command("hastd", "-F")
	d.Env = append(d.Env, "NOTIFY_SOCKET="+path, "WATCHDOG_USEC=2000000")
	d.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	if w, silent := hear(10*time.Second, pet); silent || w != "READY=1" {
		t.Fatalf("%q", w)
	}
	run(t, l.A, "hastctl", "status")
	for range 3 {
		if w, silent := hear(2 * time.Second); silent || w != pet {
			t.Fatalf("not petted within the watchdog's time, but told %q", w)
		}
	}
	// A daemon that hangs is not petted.
	pids := l.A.Pids("hastd", "-F")
	if len(pids) != 1 {
		t.Fatalf("daemons: %v", pids)
	}
	syscall.Kill(pids[0], syscall.SIGSTOP)
	hear(100 * time.Millisecond) // what was on its way
	if w, silent := hear(3 * time.Second); !silent {
		t.Errorf("a stopped daemon says %q", w)
	}
	syscall.Kill(pids[0], syscall.SIGCONT)
	if w, silent := hear(2 * time.Second); silent || w != pet {
		t.Errorf("a daemon that works again says %q", w)
	}
	run(t, l.A, "hastctl", "reload")
	if w, _ := hear(5*time.Second, pet); w != "RELOADING=1" {
		t.Errorf("at the beginning of a reload: %q", w)
	}
	if w, _ := hear(5*time.Second, pet); w != "READY=1" {
		t.Errorf("at the end of a reload: %q", w)
	}
	syscall.Kill(pids[0], syscall.SIGTERM)
	if w, _ := hear(10*time.Second, pet); w != "STOPPING=1" {
		t.Errorf("at the end: %q", w)
	}
	if err := d.Wait(); err != nil {
		t.Errorf("hastd: %v", err)
	}
}
