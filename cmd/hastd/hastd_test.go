package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hast/proto"
	"hast/proto/ctl"
)

// The real binaries, two nodes on loopback addresses, with NBD front-ends: what
// the worker's process is allowed to, and what happens to it and to its parent.

var bin string // directory of the binaries

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "hastd-test-")
	if err == nil {
		bin = dir
		for _, name := range []string{"hastd", "hastctl"} {
			cmd := exec.Command("go", "build", "-o", filepath.Join(dir, name), "hast/cmd/"+name)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			cmd.Stderr = os.Stderr
			if err = cmd.Run(); err != nil {
				break
			}
		}
	}
	code := 1
	if err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, err)
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// pair is two configured nodes, a and b, of one resource.
type pair struct {
	t    *testing.T
	dir  string
	conf string
}

const pairConfig = `
key = "DIR/key"
timeout = "3s"
user = "nobody"
log = "stderr"
[node.a]
address = "127.0.0.1:PORTA"
run_dir = "DIR/a"
listen = ["127.0.0.1:PORTA"]
[node.b]
address = "127.0.0.1:PORTB"
run_dir = "DIR/b"
listen = ["127.0.0.1:PORTB"]
[resource.r]
device = "nbd-server"
[resource.r.on.a]
local = "DIR/a.img"
[resource.r.on.b]
local = "DIR/b.img"
`

func newPair(t *testing.T) *pair {
	t.Helper()
	if os.Getuid() != 0 && os.Getenv("CI") != "" {
		t.Fatal("this test needs root, and CI has to run it")
	}
	dir := t.TempDir()
	os.Chmod(dir, 0o755)
	p := &pair{t: t, dir: dir, conf: dir + "/hast.toml"}
	var ports [2]string
	for i := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		_, ports[i], _ = net.SplitHostPort(l.Addr().String())
	}
	text := strings.NewReplacer("DIR", dir, "PORTA", ports[0], "PORTB", ports[1]).Replace(pairConfig)
	if err := os.WriteFile(p.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	os.WriteFile(dir+"/key", []byte(strings.Repeat("5a", 32)+"\n"), 0o600)
	for _, n := range []string{"a", "b"} {
		if err := os.WriteFile(dir+"/"+n+".img", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		os.Truncate(dir+"/"+n+".img", 16<<20)
		p.ctl(n, 0, "create", "r")
	}
	t.Cleanup(func() {
		for _, n := range []string{"a", "b"} {
			if pid := p.parent(n); pid > 0 {
				syscall.Kill(pid, syscall.SIGCONT)
				syscall.Kill(pid, syscall.SIGTERM)
				p.wait("the end of "+n, func() bool { return !alive(pid) })
			}
		}
	})
	return p
}

// start runs both daemons in the background.
func (p *pair) start() {
	p.t.Helper()
	for _, n := range []string{"a", "b"} {
		if out, err := exec.Command(bin+"/hastd", "-c", p.conf, "--node", n).CombinedOutput(); err != nil {
			p.t.Fatalf("hastd on %s: %v: %s", n, err, out)
		}
	}
}

// ctl runs hastctl and checks its exit status.
func (p *pair) ctl(node string, want int, args ...string) string {
	p.t.Helper()
	cmd := exec.Command(bin+"/hastctl", append([]string{"-c", p.conf, "--node", node}, args...)...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		p.t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		p.t.Fatalf("hastctl %s on %s: exit %d, want %d: %s", strings.Join(args, " "), node, got, want, out)
	}
	return string(out)
}

func (p *pair) status(node string) ctl.ResourceStatus {
	p.t.Helper()
	out, err := exec.Command(bin+"/hastctl", "-c", p.conf, "--node", node, "status", "--json").Output()
	var reply ctl.StatusReply
	if err != nil || json.Unmarshal(out, &reply) != nil || len(reply.Resources) != 1 {
		p.t.Fatalf("status of %s: %v: %s", node, err, out)
	}
	return reply.Resources[0]
}

func (p *pair) parent(node string) int {
	b, _ := os.ReadFile(p.dir + "/" + node + "/hastd.pid")
	var pid int
	fmt.Sscan(string(b), &pid)
	return pid
}

func (p *pair) wait(what string, cond func() bool) {
	p.t.Helper()
	for end := time.Now().Add(15 * time.Second); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			p.t.Fatalf("not within 15 s: %s", what)
		}
	}
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(b, []byte(") Z "))
}

// io runs qemu-io's command on the primary's socket and returns its output and whether it ended within limit.
func (p *pair) io(node, command string, limit time.Duration) (string, bool) {
	p.t.Helper()
	cmd := exec.Command("qemu-io", "-f", "raw", "-c", command, "nbd+unix:///?socket="+p.dir+"/"+node+"/r.nbd")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			p.t.Fatalf("qemu-io %s: %v: %s", command, err, out.String())
		}
		return out.String(), true
	case <-time.After(limit):
		p.t.Cleanup(func() { cmd.Process.Kill(); <-done })
		return "", false
	}
}

// connected brings up b as secondary and a as primary.
func (p *pair) connected() {
	p.t.Helper()
	p.start()
	p.ctl("b", 0, "role", "secondary", "r")
	p.ctl("a", 0, "role", "primary", "r")
	for _, n := range []string{"a", "b"} {
		p.wait("connected", func() bool { return p.status(n).State == ctl.StateConnected })
	}
}

func TestWorkerHasNoRights(t *testing.T) {
	p := newPair(t)
	p.connected()
	for _, n := range []string{"a", "b"} {
		pid := p.status(n).WorkerPID
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		if len(tasks) < 3 {
			t.Fatalf("worker of %s: %d threads", n, len(tasks))
		}
		for _, task := range tasks {
			b, _ := os.ReadFile(task)
			for _, want := range []string{"\nUid:\t65534\t65534\t65534\t65534\n", "\nGroups:\t \n", "\nNoNewPrivs:\t1\n",
				"\nCapEff:\t0000000000000000\n", "\nCapPrm:\t0000000000000000\n"} {
				if len(b) > 0 && !strings.Contains(string(b), want) {
					t.Errorf("%s lacks %q", task, want)
				}
			}
		}
		if root, _ := os.Readlink(fmt.Sprintf("/proc/%d/root", pid)); root != p.dir+"/"+n+"/empty" {
			t.Errorf("root of the worker of %s is %s", n, root)
		}
		for _, secret := range []string{"cmdline", "environ"} {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, secret))
			if bytes.Contains(b, []byte("5a5a")) || bytes.Contains(b, []byte("ZZZZ")) {
				t.Errorf("the key is in %s of the worker", secret)
			}
		}
		fds, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		for _, fd := range fds {
			what, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name()))
			switch {
			case what == os.DevNull, strings.HasPrefix(what, "socket:"), strings.HasPrefix(what, "pipe:"),
				strings.HasPrefix(what, "anon_inode:[event"), strings.HasPrefix(what, "/sys/fs/cgroup/"),
				what == p.dir+"/"+n+".img":
			default:
				t.Errorf("worker of %s has descriptor %s: %s", n, fd.Name(), what)
			}
		}
	}
}

func TestStoppedParentFreezesItsWorker(t *testing.T) {
	p := newPair(t)
	p.connected()
	parent := p.parent("a")
	syscall.Kill(parent, syscall.SIGSTOP)
	time.Sleep(3500 * time.Millisecond) // the lease is for three seconds
	if out, ended := p.io("a", "write 0 4k", 500*time.Millisecond); ended {
		t.Fatalf("a write was answered without a lease: %s", out)
	}
	syscall.Kill(parent, syscall.SIGCONT)
	if _, ended := p.io("a", "write 4k 4k", 5*time.Second); !ended {
		t.Fatal("I/O does not go on with the lease")
	}
}

func TestWorkersDeathAndParentsDeath(t *testing.T) {
	p := newPair(t)
	p.connected()
	p.io("a", "write -P 0x11 0 1M", 10*time.Second)
	for _, n := range []string{"a", "b"} {
		old := p.status(n).WorkerPID
		syscall.Kill(old, syscall.SIGKILL)
		p.wait("a successor that is connected", func() bool {
			st := p.status(n)
			return st.WorkerPID != old && st.WorkerPID != 0 && st.State == ctl.StateConnected
		})
	}
	if out, ended := p.io("a", "read -P 0x11 0 1M", 10*time.Second); !ended || strings.Contains(out, "failed") {
		t.Fatalf("what was acknowledged is gone: %s", out)
	}
	worker := p.status("a").WorkerPID
	syscall.Kill(p.parent("a"), syscall.SIGKILL)
	p.wait("the orphan's end", func() bool { return !alive(worker) })
	if out, err := exec.Command(bin+"/hastd", "-c", p.conf, "--node", "a").CombinedOutput(); err != nil {
		t.Fatalf("start after a crash: %v: %s", err, out)
	}
	if st := p.status("a"); st.Role != proto.RoleInit {
		t.Errorf("role %s after a crash without a surviving device", st.Role)
	}
	p.ctl("a", 0, "role", "primary", "r")
	if out, _ := p.io("a", "read -P 0x11 0 1M", 10*time.Second); strings.Contains(out, "failed") {
		t.Fatalf("what was acknowledged is gone: %s", out)
	}
}

func TestPromotionNextToAPrimaryIsRefusedAndHarmless(t *testing.T) {
	p := newPair(t)
	p.connected()
	worker := p.status("b").WorkerPID
	out := p.ctl("b", proto.ExitRefused, "role", "primary", "r")
	if !strings.Contains(out, "primary") {
		t.Errorf("it says %s", out)
	}
	if st := p.status("b"); st.WorkerPID != worker || st.Role != proto.RoleSecondary || st.State != ctl.StateConnected {
		t.Errorf("the refusal disturbed the secondary: %+v", st)
	}
	p.ctl("a", 0, "role", "secondary", "r")
	p.ctl("b", 0, "role", "primary", "r")
	p.wait("connected the other way round", func() bool { return p.status("a").State == ctl.StateConnected })
}

func TestStopIsOrderly(t *testing.T) {
	p := newPair(t)
	p.connected()
	p.io("a", "write -P 0x22 8k 64k", 10*time.Second)
	var workers, parents []int
	for _, n := range []string{"a", "b"} {
		workers, parents = append(workers, p.status(n).WorkerPID), append(parents, p.parent(n))
	}
	for _, n := range []string{"a", "b"} {
		p.ctl(n, 0, "stop")
	}
	for _, pid := range append(workers, parents...) {
		p.wait("the end", func() bool { return !alive(pid) })
	}
	for _, n := range []string{"a", "b"} {
		left, _ := os.ReadDir(p.dir + "/" + n)
		for _, e := range left {
			if e.Name() != "empty" {
				t.Errorf("node %s left %s", n, e.Name())
			}
		}
	}
	x, _ := os.ReadFile(p.dir + "/a.img")
	y, _ := os.ReadFile(p.dir + "/b.img")
	if !bytes.Equal(x[:8<<20], y[:8<<20]) || x[8<<10] != 0x22 {
		t.Error("the copies differ")
	}
	if out := p.ctl("a", 0, "dump", "r"); !strings.Contains(out, "clean") {
		t.Errorf("no clean stop on disk:\n%s", out)
	}
}
