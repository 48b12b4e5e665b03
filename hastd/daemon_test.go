package hastd

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hast/proto"
	"hast/proto/ctl"
)

// asDaemon runs this test binary as hastd with the arguments of its command line.
func asDaemon(args []string) int {
	o := Options{Version: "test"}
	for _, a := range args {
		key, value, _ := strings.Cut(a, "=")
		switch key {
		case "--config":
			o.Config = value
		case "--node":
			o.Node = value
		case "--pidfile":
			o.PIDFile = value
		case "--ready-fd":
			fd, _ := strconv.Atoi(value)
			o.Ready = os.NewFile(uintptr(fd), "ready")
		case "-d":
			o.Debug++
		case "-F":
			o.Foreground = true
		}
	}
	return Main(o)
}

// node is a configured daemon, as a process of its own.
type node struct {
	t    *testing.T
	dir  string
	conf string
}

// freePort returns a TCP port that nobody listens on at the moment.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

const nodeConfig = `
key      = "DIR/key"
run_dir  = "DIR/run"
device_dir = "DIR/dev"
listen   = ["127.0.0.1:PORT"]
log      = "stderr"
user     = "nobody"
timeout  = "2s"
[node.hb1]
address = "127.0.0.1:PORT"
[node.hb2]
address = "127.0.0.1:1"
[resource.data]
local  = "DIR/data.img"
device = "nbd-server"
remote = "none"
`

func newNode(t *testing.T) *node {
	t.Helper()
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("this test needs root, and CI has to run it")
		}
	}
	n := &node{t: t, dir: t.TempDir()}
	n.conf = filepath.Join(n.dir, "hast.toml")
	port := strconv.Itoa(freePort(t))
	n.write(strings.NewReplacer("DIR", n.dir, "PORT", port).Replace(nodeConfig))
	os.WriteFile(n.dir+"/key", []byte(strings.Repeat("ab", 32)+"\n"), 0o600)
	os.WriteFile(n.dir+"/data.img", make([]byte, 1<<20), 0o600)
	os.WriteFile(n.dir+"/more.img", make([]byte, 1<<20), 0o600)
	t.Cleanup(func() {
		if pid := n.pid(); pid > 0 {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return n
}

func (n *node) write(text string) {
	if err := os.WriteFile(n.conf, []byte(text), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) read() string {
	b, _ := os.ReadFile(n.conf)
	return string(b)
}

// start runs hastd in the background; it returns the first process's exit code and output.
func (n *node) start(more ...string) (int, string) {
	n.t.Helper()
	cmd := exec.Command("/proc/self/exe", append([]string{"--config=" + n.conf, "--node=hb1"}, more...)...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		n.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), string(out)
}

func (n *node) mustStart() {
	n.t.Helper()
	if code, out := n.start(); code != 0 {
		n.t.Fatalf("exit %d: %s", code, out)
	}
}

func (n *node) pid() int {
	b, err := os.ReadFile(n.dir + "/run/hastd.pid")
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	return pid
}

// call speaks to the control socket.
func (n *node) call(method, path string, body, reply any) error {
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", n.dir+"/run/hastctl.sock")
		}}}
	b, _ := json.Marshal(body)
	req, _ := http.NewRequest(method, "http://hastd"+path, bytes.NewReader(b))
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, _ := io.ReadAll(resp.Body)
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s: %s", resp.Status, raw)
	}
	return json.Unmarshal(raw, reply)
}

func (n *node) status() map[string]ctl.ResourceStatus {
	n.t.Helper()
	var reply ctl.StatusReply
	if err := n.call("GET", ctl.PathStatus, nil, &reply); err != nil {
		n.t.Fatal(err)
	}
	m := make(map[string]ctl.ResourceStatus)
	for _, r := range reply.Resources {
		m[r.Name] = r
	}
	return m
}

func (n *node) role(name string, role proto.Role) {
	n.t.Helper()
	var reply ctl.OperationsReply
	if err := n.call("POST", ctl.PathRole, ctl.RoleRequest{Names: []string{name}, Role: role}, &reply); err != nil {
		n.t.Fatal(err)
	}
	eventually(n.t, "role "+role.String(), 10*time.Second, func() bool { return n.status()[name].Role == role })
}

// alive reports whether pid exists and is no zombie.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(b, []byte(") Z "))
}

func TestDaemonStartsServesAndCleansUp(t *testing.T) {
	n := newNode(t)
	n.mustStart()
	pid := n.pid()
	if !alive(pid) {
		t.Fatal("success was reported, but there is no daemon")
	}
	if code, out := n.start(); code != proto.ExitTemp || !strings.Contains(out, strconv.Itoa(pid)) {
		t.Errorf("a second daemon: exit %d, %s", code, out)
	}
	n.role("data", proto.RolePrimary)
	st := n.status()["data"]
	if st.WorkerPID == 0 || !alive(st.WorkerPID) {
		t.Fatalf("%+v", st)
	}
	title, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", st.WorkerPID))
	if !bytes.HasPrefix(title, []byte("hastd: data (primary)\x00")) {
		t.Errorf("process title %q", title)
	}
	syscall.Kill(pid, syscall.SIGTERM)
	eventually(t, "the end", 10*time.Second, func() bool { return !alive(pid) })
	for _, path := range []string{"run/hastd.pid", "run/hastctl.sock", "run/data.nbd"} {
		if _, err := os.Stat(filepath.Join(n.dir, path)); err == nil {
			t.Error("left behind:", path)
		}
	}
	if alive(st.WorkerPID) {
		t.Error("the worker is still there")
	}
}

func TestStartFailuresReachTheCaller(t *testing.T) {
	n := newNode(t)
	good := n.read()
	n.write(good + "\nbogus = 1\n")
	if code, out := n.start(); code != proto.ExitConfig || !strings.Contains(out, "bogus") {
		t.Errorf("bad configuration: exit %d, %s", code, out)
	}
	n.write(good)
	os.Rename(n.conf, n.conf+".away")
	if code, _ := n.start(); code != proto.ExitOSFile {
		t.Errorf("no configuration: exit %d", code)
	}
	os.Rename(n.conf+".away", n.conf)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	used := "listen = [\"" + l.Addr().String() + "\"]"
	n.write(strings.Replace(good, "listen ", used+" #", 1))
	if code, out := n.start(); code != proto.ExitOS || !strings.Contains(out, "cannot listen") {
		t.Errorf("used address: exit %d, %s", code, out)
	}
	if _, err := os.Stat(n.dir + "/run/hastd.pid"); err == nil {
		t.Error("a failed start left its pidfile")
	}
}

func TestReloadBySignal(t *testing.T) {
	n := newNode(t)
	n.mustStart()
	n.role("data", proto.RolePrimary)
	worker := n.status()["data"].WorkerPID
	good := n.read()
	n.write(good + "[resource.more]\n") // lacks local
	syscall.Kill(n.pid(), syscall.SIGHUP)
	time.Sleep(200 * time.Millisecond)
	if st := n.status(); len(st) != 1 || st["data"].WorkerPID != worker {
		t.Fatalf("a mistake changed something: %+v", st)
	}
	n.write(strings.Replace(good, "timeout  = \"2s\"", "timeout  = \"3s\"\nreplication = \"async\"", 1) +
		"[resource.more]\nlocal = \"" + n.dir + "/more.img\"\nremote = \"none\"\ndevice = \"nbd-server\"\n")
	syscall.Kill(n.pid(), syscall.SIGHUP)
	eventually(t, "the new resource", 5*time.Second, func() bool { _, ok := n.status()["more"]; return ok })
	eventually(t, "the new mode", 5*time.Second, func() bool { return n.status()["data"].Mode == proto.ModeAsync })
	if n.status()["data"].WorkerPID != worker {
		t.Error("a live change replaced the worker")
	}
	n.role("more", proto.RoleSecondary)
	n.write(good)
	syscall.Kill(n.pid(), syscall.SIGHUP)
	eventually(t, "the removal", 5*time.Second, func() bool { _, ok := n.status()["more"]; return !ok })
}

func TestParentsDeathEndsIdleWorkers(t *testing.T) {
	n := newNode(t)
	n.mustStart()
	n.role("data", proto.RoleSecondary)
	worker := n.status()["data"].WorkerPID
	syscall.Kill(n.pid(), syscall.SIGKILL)
	eventually(t, "the worker's end", 5*time.Second, func() bool { return !alive(worker) })
	n.mustStart() // over what the dead one left
	n.role("data", proto.RolePrimary)
}
