package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hast/test/lab"
)

var bin string

func TestMain(m *testing.M) {
	if miss := lab.Missing(); miss != "" {
		fmt.Println("the end-to-end tests need", miss)
		os.Exit(1)
	}
	dir, err := os.MkdirTemp("", "hast-e2e-bin-")
	if err != nil {
		panic(err)
	}
	for _, p := range []string{"cmd/hastd", "cmd/hastctl", "test/faultdisk"} {
		c := exec.Command("go", "build", "-o", filepath.Join(dir, filepath.Base(p)), "hast/"+p)
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := c.CombinedOutput(); err != nil {
			fmt.Printf("building %s: %v\n%s", p, err, out)
			os.Exit(1)
		}
	}
	os.Chmod(dir, 0o755)
	bin = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// newLab makes two nodes that end with the test; a failing test prints both logs.
func newLab(t *testing.T, o lab.Options) *lab.Lab {
	t.Helper()
	o.Bin = bin
	if o.DiskSize == 0 {
		o.DiskSize = 96 << 20
	}
	l, err := lab.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, n := range []*lab.Node{l.A, l.B} {
				b, _ := os.ReadFile(n.Log())
				if len(b) > 20000 {
					b = b[len(b)-20000:]
				}
				t.Logf("--- log of %s\n%s", n.Name, b)
			}
		}
		l.Close()
	})
	return l
}

func run(t *testing.T, n *lab.Node, name string, args ...string) string {
	t.Helper()
	out, err := n.Run(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func sh(t *testing.T, n *lab.Node, line string) string {
	t.Helper()
	return run(t, n, "sh", "-c", line)
}

func until(t *testing.T, d time.Duration, what string, f func() error) {
	t.Helper()
	if err := lab.Until(d, f); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// resource is what the tests look at of hastctl status --json.
type resource struct {
	Name     string `json:"name"`
	Role     string `json:"role"`
	State    string `json:"state"`
	Status   string `json:"status"`
	Why      string `json:"why"`
	Data     string `json:"data"`
	PeerData string `json:"peer_data"`
	Mode     string `json:"mode"`
	Dirty    uint64 `json:"dirty_bytes"`
	Forced   bool   `json:"forced"`
	Device   string `json:"device"`
	Worker   int    `json:"worker_pid"`
	Current  string `json:"generation_current"`
	Size     int64  `json:"data_size_bytes"`
	Stale    bool   `json:"stale"`
	// LocalLost: the own copy is out. The errors say why a copy is.
	LocalLost      bool   `json:"local_lost"`
	LocalError     string `json:"local_error"`
	LocalErrorUnix int64  `json:"local_error_unix"`
	PeerError      string `json:"peer_error"`
	PeerErrorUnix  int64  `json:"peer_error_unix"`
	// How long the oldest request has waited for the local disk, and the application for the peer.
	DiskWait float64 `json:"disk_wait_seconds"`
	PeerWait float64 `json:"peer_wait_seconds"`
	Counters struct {
		SyncBytes         uint64 `json:"sync_bytes"`
		LocalReadErrors   uint64 `json:"local_read_errors"`
		LocalWriteErrors  uint64 `json:"local_write_errors"`
		LocalFlushErrors  uint64 `json:"local_flush_errors"`
		RemoteWriteErrors uint64 `json:"remote_write_errors"`
		RemoteFlushErrors uint64 `json:"remote_flush_errors"`
		RemoteReads       uint64 `json:"remote_reads"`
		ReadRepairs       uint64 `json:"read_repairs"`
	} `json:"counters"`
}

func status(n *lab.Node) (r resource, err error) {
	out, err := n.Run("sh", "-c", "hastctl status --json data 2>/dev/null")
	if err != nil {
		return r, err
	}
	var s struct {
		Resources []resource `json:"resources"`
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		return r, fmt.Errorf("%w in %s", err, out)
	}
	if len(s.Resources) != 1 {
		return r, fmt.Errorf("%d resources in %s", len(s.Resources), out)
	}
	return s.Resources[0], nil
}

func is(n *lab.Node, want func(resource) bool) func() error {
	return func() error {
		r, err := status(n)
		if err == nil && !want(r) {
			err = fmt.Errorf("%s: %+v", n.Name, r)
		}
		return err
	}
}

func connected(r resource) bool { return r.State == "connected" && r.Dirty == 0 }

// up creates the resource on both nodes, starts them, and makes A primary.
func up(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, n := range []*lab.Node{l.B, l.A} {
		run(t, n, "hastctl", "create", "data")
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	run(t, l.B, "hastctl", "role", "secondary", "data")
	run(t, l.A, "hastctl", "role", "primary", "data")
	device(t, l.A)
	until(t, 10*time.Second, "connected", is(l.A, func(r resource) bool { return r.State == "connected" }))
}

func device(t *testing.T, n *lab.Node) {
	t.Helper()
	until(t, 10*time.Second, "the device", func() error { _, err := n.Run("test", "-b", "/dev/hast/data"); return err })
}

func mkfs(t *testing.T, n *lab.Node) {
	t.Helper()
	run(t, n, "mkfs.ext4", "-q", "/dev/hast/data")
	mount(t, n)
}

func mount(t *testing.T, n *lab.Node) {
	t.Helper()
	sh(t, n, "mkdir -p /srv/m && mount /dev/hast/data /srv/m")
}

// promote takes over on n after the other node's death, as an operator would.
func promote(t *testing.T, n *lab.Node) {
	t.Helper()
	run(t, n, "hastctl", "role", "primary", "--force", "data")
	device(t, n)
}

func fsck(t *testing.T, n *lab.Node) {
	t.Helper()
	sh(t, n, "e2fsck -fy /dev/hast/data > /run/fsck.out 2>&1; r=$?; test $r -le 1 || { cat /run/fsck.out; exit $r; }")
}

// sameDisks stops both nodes' roles and compares the data areas.
func sameDisks(t *testing.T, l *lab.Lab) {
	t.Helper()
	r, err := status(l.A)
	if err != nil {
		t.Fatal(err)
	}
	until(t, 30*time.Second, "in sync", func() error {
		ra, ea := status(l.A)
		rb, eb := status(l.B)
		if ea != nil || eb != nil {
			return fmt.Errorf("%v %v", ea, eb)
		}
		for _, x := range []resource{ra, rb} {
			if x.Role == "primary" && !connected(x) {
				return fmt.Errorf("%+v", x)
			}
		}
		return nil
	})
	for _, n := range []*lab.Node{l.A, l.B} {
		if s, _ := status(n); s.Role == "primary" {
			run(t, n, "hastctl", "role", "init", "data")
		}
	}
	for _, n := range []*lab.Node{l.A, l.B} {
		run(t, n, "hastctl", "role", "init", "data")
	}
	if out, err := exec.Command("cmp", "-n", fmt.Sprint(r.Size), l.A.Disk, l.B.Disk).CombinedOutput(); err != nil {
		t.Fatalf("the disks differ: %s", strings.TrimSpace(string(out)))
	}
}
