package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hast/test/lab"
)

func TestNBDClients(t *testing.T) {
	l := newLab(t, lab.Options{Resource: "device = \"nbd-server\""})
	for _, n := range []*lab.Node{l.B, l.A} {
		run(t, n, "hastctl", "create", "data")
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	run(t, l.B, "hastctl", "role", "secondary", "data")
	run(t, l.A, "hastctl", "role", "primary", "data")
	until(t, 10*time.Second, "the socket", func() error { _, err := l.A.Run("test", "-S", "/run/hast/data.nbd"); return err })
	uri := "nbd+unix:///?socket=/run/hast/data.nbd"
	if out := run(t, l.A, "nbdinfo", uri); !strings.Contains(out, "can_flush: true") || !strings.Contains(out, "can_fua: true") {
		t.Errorf("nbdinfo: %s", out)
	}
	sh(t, l.A, "dd if=/dev/urandom of=/run/image bs=1M count=16 status=none && nbdcopy --flush /run/image '"+uri+"' && nbdcopy '"+uri+"' /run/back && cmp -n 16777216 /run/image /run/back")
	sh(t, l.A, "qemu-io -f raw -c 'write -P 7 0 64k' -c flush -c 'read -P 7 0 64k' -c 'discard 64k 1M' -c 'write -z 2M 1M' -c 'read -P 0 2M 1M' '"+uri+"' | tee /run/qemu.out; ! grep -i 'fail\\|error' /run/qemu.out")
	sh(t, l.A, "fio --name=v --ioengine=nbd '--uri="+uri+"' --rw=randwrite --bs=4k --iodepth=16 --size=32m --verify=crc32c --verify_fatal=1")
	until(t, 30*time.Second, "clean", is(l.A, connected))
	sameDisks(t, l)
}

func TestReload(t *testing.T) {
	l := newLab(t, lab.Options{})
	up(t, l)
	before, err := status(l.A)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(l.Config())
	if err != nil {
		t.Fatal(err)
	}
	change := func(s string) {
		if err := os.WriteFile(filepath.Join(l.Dir, "new.toml"), []byte(s), 0o644); err != nil {
			t.Fatal(err)
		}
		run(t, l.A, "cp", filepath.Join(l.Dir, "new.toml"), "/etc/hast/hast.toml")
	}
	change(strings.Replace(string(text), "[resource.data]\n", "[resource.data]\nreplication = \"async\"\n", 1))
	run(t, l.A, "hastctl", "reload")
	until(t, 5*time.Second, "the new mode", is(l.A, func(r resource) bool { return r.Mode == "async" }))
	after, _ := status(l.A)
	if after.Worker != before.Worker || after.State != "connected" {
		t.Errorf("a change of mode restarted something: %+v", after)
	}
	change(strings.Replace(string(text), "[resource.data]\n", "[resource.data]\nreplication = \"sometimes\"\n", 1))
	if out, err := l.A.Ctl("reload"); err == nil || !strings.Contains(out, "replication") {
		t.Errorf("an invalid file was taken, or not explained: %s", out)
	}
	if r, _ := status(l.A); r.Mode != "async" {
		t.Errorf("an invalid file changed the mode to %s", r.Mode)
	}
}

func TestCreateRefuses(t *testing.T) {
	l := newLab(t, lab.Options{})
	up(t, l)
	if out, err := l.A.Ctl("create", "--force", "data"); err == nil {
		t.Errorf("created over a device in use: %s", out)
	}
	run(t, l.A, "hastctl", "role", "init", "data")
	if out, err := l.A.Ctl("create", "data"); err == nil || !strings.Contains(out, "--force") {
		t.Errorf("created over existing metadata: %s", out)
	}
	run(t, l.A, "hastctl", "create", "--force", "data")
	if out, err := l.A.Ctl("role", "primary", "nonsense"); err == nil {
		t.Errorf("an unknown resource: %s", out)
	}
	if out, err := l.A.Run("hastctl", "dump", "data"); err != nil || !strings.Contains(out, "data") {
		t.Errorf("dump: %s %v", out, err)
	}
}

func TestGarbageOnThePort(t *testing.T) {
	l := newLab(t, lab.Options{})
	up(t, l)
	sh(t, l.B, `for i in 1 2 3 4 5 6 7 8; do head -c 100000 /dev/urandom | timeout 2 sh -c 'cat > /dev/tcp/10.99.7.1/8457' 2>/dev/null || head -c 100000 /dev/urandom | timeout 2 bash -c 'cat > /dev/tcp/10.99.7.1/8457' 2>/dev/null; done; true`)
	r, err := status(l.A)
	if err != nil || r.State != "connected" {
		t.Fatalf("after garbage: %+v %v", r, err)
	}
}

func TestWrongKeyIsRefused(t *testing.T) {
	l := newLab(t, lab.Options{Resource: "timeout = \"3s\""})
	for _, n := range []*lab.Node{l.B, l.A} {
		run(t, n, "hastctl", "create", "data")
	}
	sh(t, l.B, "rm /etc/hast/key && hastctl key new /etc/hast/key")
	for _, n := range []*lab.Node{l.B, l.A} {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	run(t, l.B, "hastctl", "role", "secondary", "data")
	if out, err := l.A.Ctl("role", "primary", "data"); err == nil {
		t.Fatalf("a peer with another key was believed: %s", out)
	}
	if b, _ := os.ReadFile(l.A.Log()); !strings.Contains(string(b), "key") {
		t.Error("the log does not name the key")
	}
}

func TestHooks(t *testing.T) {
	l := newLab(t, lab.Options{Resource: "exec = \"/etc/hast/hook\""})
	for _, n := range []*lab.Node{l.A, l.B} {
		sh(t, n, `printf '#!/bin/sh\necho "$@" role=$HAST_ROLE >> /run/hooks\n' > /etc/hast/hook && chmod 755 /etc/hast/hook`)
	}
	up(t, l)
	run(t, l.A, "dd", "if=/dev/urandom", "of=/dev/hast/data", "bs=1M", "count=4", "oflag=direct", "status=none")
	l.B.Kill(syscall.SIGKILL)
	run(t, l.A, "dd", "if=/dev/urandom", "of=/dev/hast/data", "bs=1M", "count=4", "oflag=direct", "status=none")
	if err := l.B.Start(); err != nil {
		t.Fatal(err)
	}
	run(t, l.B, "hastctl", "role", "secondary", "data")
	until(t, 30*time.Second, "in sync", is(l.A, connected))
	until(t, 10*time.Second, "the hooks", func() error {
		out, err := l.A.Run("cat", "/run/hooks")
		at := 0
		for _, want := range []string{"role data init primary", "connect data", "disconnect data", "connect data", "syncstart data", "syncdone data"} {
			i := strings.Index(out[at:], want)
			if i < 0 {
				return &missing{want, out, err}
			}
			at += i + len(want)
		}
		return nil
	})
}

type missing struct {
	want, got string
	err       error
}

func (m *missing) Error() string { return "no " + m.want + " in its place in:\n" + m.got }

func TestStopCleansUp(t *testing.T) {
	l := newLab(t, lab.Options{})
	up(t, l)
	run(t, l.A, "dd", "if=/dev/urandom", "of=/dev/hast/data", "bs=1M", "count=4", "oflag=direct", "status=none")
	run(t, l.A, "hastctl", "stop")
	until(t, 15*time.Second, "the end of all processes", func() error {
		if p := l.A.Pids("hastd"); len(p) > 0 {
			return &missing{"end", l.A.Name, nil}
		}
		return nil
	})
	if out := sh(t, l.A, "ls /dev/hast /run/hast; grep hast /proc/self/mounts | grep -v tmpfs; true"); strings.Contains(out, "data") || strings.Contains(out, "hastctl.sock") {
		t.Errorf("left behind: %s", out)
	}
	out := run(t, l.A, "hastctl", "dump", "data")
	if !strings.Contains(out, "clean") {
		t.Errorf("the map is not clean after an orderly stop:\n%s", out)
	}
}
