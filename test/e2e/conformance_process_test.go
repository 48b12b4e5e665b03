package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hast/test/lab"
)

// hook lets the node's hook program write its arguments to /run/hooks, after the lines of more.
func hook(t *testing.T, n *lab.Node, more string) {
	t.Helper()
	script := "#!/bin/sh\n" + more + "\necho \"$HAST_EVENT_ID $*\" >> /run/hooks\n"
	if err := os.WriteFile(n.Dir+"/hook", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	sh(t, n, "cp "+n.Dir+"/hook /etc/hast/hook; chmod 755 /etc/hast/hook; touch /run/hooks")
}

const hooked = "exec = \"/etc/hast/hook\"\n"

// hooksOf returns what the node's hook was called with, in order, without the event's number.
func hooksOf(t *testing.T, n *lab.Node) (calls []string) {
	t.Helper()
	for line := range strings.Lines(run(t, n, "cat", "/run/hooks")) {
		_, call, _ := strings.Cut(strings.TrimSpace(line), " ")
		calls = append(calls, call)
	}
	return calls
}

func count(list []string, what string) (n int) {
	for _, s := range list {
		if s == what {
			n++
		}
	}
	return n
}

// TestWorkerThatGivesUp: a successor that can't work leads to role init, and the hook hears of it.
func TestWorkerThatGivesUp(t *testing.T) {
	l := newLab(t, lab.Options{Resource: hooked})
	hook(t, l.A, "")
	up(t, l)
	r, err := status(l.A)
	if err != nil {
		t.Fatal(err)
	}
	syscall.Kill(r.Worker, syscall.SIGSTOP)
	f, err := os.OpenFile(l.A.Disk, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	st, err := f.Stat()
	if err == nil {
		_, err = f.WriteAt(make([]byte, st.Size()-r.Size), r.Size) // the metadata
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	syscall.Kill(r.Worker, syscall.SIGKILL)
	until(t, 10*time.Second, "role init, with the reason", is(l.A, func(r resource) bool {
		return r.Role == "init" && strings.Contains(r.Why, "no HAST metadata")
	}))
	until(t, 5*time.Second, "the hook", func() error {
		if calls := hooksOf(t, l.A); count(calls, "role data primary init") != 1 {
			return fmt.Errorf("%q", calls)
		}
		return nil
	})
	if _, err := l.A.Run("test", "-e", "/dev/hast/data"); err == nil {
		t.Error("the device is still there")
	}
}

// TestWorkersRights: what the worker behind a block device has open, and that nothing of root is left to it.
func TestWorkersRights(t *testing.T) {
	l := newLab(t, lab.Options{})
	up(t, l)
	a := open(t, l.A)
	a.fill(0, mib, 1)
	known := regexp.MustCompile(`^(/dev/null|/dev/fuse|socket:\[\d+\]|pipe:\[\d+\]|anon_inode:\[event(fd|poll)\]|/sys/fs/cgroup/.*)$`)
	for _, n := range []*lab.Node{l.A, l.B} {
		r, err := status(n)
		if err != nil {
			t.Fatal(err)
		}
		proc := fmt.Sprintf("/proc/%d/", r.Worker)
		fds, _ := os.ReadDir(proc + "fd")
		if len(fds) < 6 {
			t.Errorf("%s's worker has %d descriptors: the test looks at the wrong process", n.Name, len(fds))
		}
		fuse := 0
		for _, fd := range fds {
			what, err := os.Readlink(proc + "fd/" + fd.Name())
			if err == nil && !known.MatchString(what) && what != n.Disk {
				t.Errorf("%s's worker has descriptor %s: %s", n.Name, fd.Name(), what)
			}
			if what == "/dev/fuse" {
				fuse++
			}
		}
		if want := map[string]int{"primary": 1, "secondary": 0}[r.Role]; (fuse > 0) != (want > 0) {
			t.Errorf("the %s's worker has %d descriptors of /dev/fuse", r.Role, fuse)
		}
		tasks, _ := filepath.Glob(proc + "task/*/status")
		for _, task := range tasks {
			b, err := os.ReadFile(task)
			if err != nil {
				continue // a thread that has ended
			}
			for _, bad := range []string{"\nUid:\t0\t", "\nGid:\t0\t", "\nNoNewPrivs:\t0\n"} {
				if strings.Contains(string(b), bad) {
					t.Errorf("%s has %q", task, bad)
				}
			}
			for line := range strings.Lines(string(b)) {
				if name, set, _ := strings.Cut(strings.TrimSpace(line), ":\t"); (name == "CapEff" || name == "CapPrm" || name == "CapInh" || name == "CapAmb") && strings.Trim(set, "0") != "" {
					t.Errorf("%s: %s", task, line)
				}
			}
		}
		if root, _ := os.ReadDir(proc + "root/"); len(root) != 0 {
			t.Errorf("%s's worker sees %d files", n.Name, len(root))
		}
	}
	a.f.Close()
}

// TestRightsThatStay: a worker that can't give its rights up does not run, and says so.
func TestRightsThatStay(t *testing.T) {
	l := newLab(t, lab.Options{})
	ready(t, l)
	sh(t, l.B, "mkdir -p /run/hast/empty; touch /run/hast/empty/file")
	out, err := l.B.Ctl("role", "secondary", "data")
	if err == nil || !strings.Contains(out, "privileges can't be dropped") || !strings.Contains(out, `remove "file"`) {
		t.Errorf("%v: %s", err, out)
	}
	if r, err := status(l.B); err != nil || r.Role != "init" || r.Worker != 0 || !strings.Contains(r.Why, "privileges") {
		t.Errorf("%+v, %v", r, err)
	}
	if left := l.B.Titles("hastd: data"); len(left) != 0 {
		t.Errorf("workers that kept their rights: %v", left)
	}
	sh(t, l.B, "rm /run/hast/empty/file")
	run(t, l.B, "hastctl", "role", "secondary", "data")
}

// TestNobodyIsKeptWaiting: silent callers on both sockets, a hook that never ends, and a peer that has stopped hold up neither
// control requests nor other resources.
func TestNobodyIsKeptWaiting(t *testing.T) {
	l := newLab(t, lab.Options{Resource: hooked + `timeout = "2s"`})
	second := "[resource.other]\nlocal = \"" + l.A.Dir + "/other\"\nremote = \"none\"\n"
	edit(t, l.A, "[node.hb1]\n", second+"[node.hb1]\n")
	sh(t, l.A, "truncate -s 64M "+l.A.Dir+"/other; hastctl create other")
	up(t, l)
	// From here on every event of data starts a program that does not end; the second one waits behind the first.
	hook(t, l.A, "exec sleep 300")
	quiet := l.A.Command("sleep", "600")
	quiet.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := quiet.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { quiet.Process.Kill(); quiet.Wait() }()
	peer := keeper(t, l.B)
	for range 80 { // more than are looked at at once
		c, err := call(peer, l.B.Addr, fmt.Sprintf("%s:%d", l.A.Addr, hastPort))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	for range 20 {
		c, err := net.Dial("unix", fmt.Sprintf("/proc/%d/root/run/hast/hastctl.sock", quiet.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	l.B.Kill(syscall.SIGSTOP)
	defer l.B.Kill(syscall.SIGCONT)
	a := open(t, l.A)
	a.mustWrite(0, 65536, 1) // waits for the peer's timeout
	until(t, 10*time.Second, "the loss", is(l.A, func(r resource) bool { return r.State == "degraded" }))
	until(t, 5*time.Second, "a hook that runs", func() error {
		out, err := l.A.Ctl("status", "--json", "data")
		if err == nil && !strings.Contains(out, `"hook"`) {
			err = fmt.Errorf("no hook in %s", out)
		}
		return err
	})
	for _, command := range []string{"status", "list data other", "role primary other", "role init other", "role secondary other", "role init other", "reload", "status"} {
		if d := took(t, command, func() error { _, err := l.A.Ctl(strings.Fields(command)...); return err }); d > 2*time.Second {
			t.Errorf("hastctl %s took %v", command, d)
		}
	}
	a.f.Close()
	if d := took(t, "role", func() error { _, err := l.A.Ctl("role", "init", "data"); return err }); d > 5*time.Second {
		t.Errorf("role init took %v beside a hook that hangs and a peer that has stopped", d)
	}
}

// TestHooksKeepTheirOrder: each event's program begins when the one before it has ended, in the order in which things happened; but
// of the connection over which a promotion was agreed it hears after the role.
func TestHooksKeepTheirOrder(t *testing.T) {
	l := newLab(t, lab.Options{Resource: hooked})
	hook(t, l.A, "case \"$3$1\" in *init*|*connect) sleep 0.3;; esac") // the longer ones first
	up(t, l)
	for range 3 {
		run(t, l.A, "hastctl", "role", "secondary", "data")
		run(t, l.A, "hastctl", "role", "primary", "data")
		until(t, 10*time.Second, "connected", is(l.A, func(r resource) bool { return r.State == "connected" }))
	}
	run(t, l.A, "hastctl", "role", "init", "data")
	until(t, 20*time.Second, "the last hook", func() error {
		if calls := hooksOf(t, l.A); len(calls) == 0 || calls[len(calls)-1] != "role data primary init" {
			return fmt.Errorf("%q", calls)
		}
		return nil
	})
	var last uint64
	role := "init"
	for line := range strings.Lines(run(t, l.A, "cat", "/run/hooks")) {
		var id uint64
		var what, name, from, to string
		fmt.Sscan(line, &id, &what, &name, &from, &to)
		switch {
		case what == "connect" && role != "primary":
			t.Errorf("connected in role %s: %s", role, line)
		case what != "connect" && id <= last:
			t.Errorf("event %d ran after event %d: %s", id, last, line)
		case what == "role" && from != role:
			t.Errorf("a change from role %s in role %s", from, role)
		case what == "role":
			role = to
		}
		last = max(last, id)
	}
}

// TestBackgroundAndSyslog: a configuration file that was named relative to where hastd was started is found again by a reload, and
// in the background the log goes to syslog, with facility, severity and process id.
func TestBackgroundAndSyslog(t *testing.T) {
	l := newLab(t, lab.Options{})
	n := l.A
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: n.Dir + "/syslog", Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var mu sync.Mutex
	var lines []string
	go func() {
		b := make([]byte, 64<<10)
		for {
			n, _, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			mu.Lock()
			lines = append(lines, strings.TrimSpace(string(b[:n])))
			mu.Unlock()
		}
	}()
	// The node's own /run, and /dev/log only where the machine has one.
	sh(t, n, "p=/dev/log; [ -e $p ] || { p=/run/syslog; touch $p; }; mount --bind "+n.Dir+"/syslog $p")
	edit(t, n, `log = "stderr"`, `log = "syslog"`)
	run(t, n, "hastctl", "create", "data")
	sh(t, n, "cd /etc/hast && exec hastd -d -c hast.toml")
	pid := sh(t, n, "cat /run/hast/hastd.pid")
	told := func(pattern string) {
		t.Helper()
		want := regexp.MustCompile(pattern)
		until(t, 5*time.Second, pattern, func() error {
			mu.Lock()
			defer mu.Unlock()
			for _, s := range lines {
				if want.MatchString(s) {
					return nil
				}
			}
			return fmt.Errorf("not in\n%s", strings.Join(lines, "\n"))
		})
	}
	const daemon = 3 << 3 // the facility
	from := `.* hastd\[` + pid + `\]: `
	told(fmt.Sprintf("^<%d>%sstarted ", daemon|6, from))
	edit(t, n, "[resource.data]\n", "[resource.data]\nreplication = \"async\"\n")
	syscall.Kill(atoi(t, pid), syscall.SIGHUP)
	until(t, 5*time.Second, "the new mode", is(n, func(r resource) bool { return r.Mode == "async" }))
	edit(t, n, `"async"`, `"sometimes"`)
	syscall.Kill(atoi(t, pid), syscall.SIGHUP)
	told(fmt.Sprintf("^<%d>%sreload failed .*nothing was changed.*hast.toml:", daemon|3, from))
	if r, err := status(n); err != nil || r.Mode != "async" {
		t.Errorf("a file with a mistake changed something: %+v, %v", r, err)
	}
	run(t, n, "hastctl", "role", "secondary", "data")
	told(fmt.Sprintf(`^<%d>%s\[data\] role changed old=init new=secondary`, daemon|6, from))
	told(fmt.Sprintf(`^<%d>%s\[data\] worker is ready`, daemon|7, from))
	syscall.Kill(atoi(t, pid), syscall.SIGTERM)
	told(fmt.Sprintf("^<%d>%sended", daemon|6, from))
	until(t, 10*time.Second, "the end", func() error {
		if left := n.Pids("hastd"); len(left) > 0 {
			return fmt.Errorf("%v", left)
		}
		return nil
	})
}

func atoi(t *testing.T, s string) (n int) {
	t.Helper()
	if _, err := fmt.Sscan(s, &n); err != nil || n < 2 {
		t.Fatalf("%q is no process id", s)
	}
	return n
}
