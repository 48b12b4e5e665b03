package sandbox

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// nobody is an id that owns nothing on this system.
const nobody = 65534

func TestMain(m *testing.M) {
	if len(os.Args) >= 3 && os.Args[1] == "sandboxed" {
		os.Exit(sandboxed(os.Args[2], len(os.Args) > 3))
	}
	os.Exit(m.Run())
}

// sandboxed is the process that locks itself in; it reports on stdout and waits for stdin to end.
func sandboxed(root string, cleaned bool) int {
	fail := func(err error) int { fmt.Println("error:", err); return 1 }
	if !cleaned {
		return fail(Clean([]string{"sandboxed", "sandboxed", root, "clean"}))
	}
	if !Cleaned() {
		return fail(fmt.Errorf("new privileges are still possible"))
	}
	if err := Audit(0, 1, 2, 3); err != nil {
		return fail(err)
	}
	extra, _ := os.Open(os.DevNull)
	if Audit(0, 1, 2, 3) == nil {
		return fail(fmt.Errorf("the audit overlooked a descriptor"))
	}
	extra.Close()
	dir, err := os.Open(root)
	if err != nil {
		return fail(err)
	}
	if err := Lock(dir, nobody, nobody); err != nil {
		return fail(err)
	}
	dir.Close()
	if _, err := os.ReadDir("/"); err != nil {
		return fail(err)
	}
	if err := os.WriteFile("/x", nil, 0o600); err == nil {
		return fail(fmt.Errorf("the empty directory is writable"))
	}
	fmt.Println("locked")
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// start runs the process with one descriptor (4) that it must not keep.
func start(t *testing.T, root string) (*exec.Cmd, string) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "sandboxed", root)
	cmd.Stderr = os.Stderr
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	leak, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	three, _ := os.Open(os.DevNull)
	defer three.Close()
	cmd.ExtraFiles = []*os.File{three, leak}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	line, _ := bufio.NewReader(out).ReadString('\n')
	return cmd, strings.TrimSpace(line)
}

func needRoot(t *testing.T) bool {
	t.Helper()
	if os.Getuid() == 0 {
		return true
	}
	if os.Getenv("CI") != "" {
		t.Fatal("this test needs root, and CI has to run it")
	}
	t.Log("not root: nothing to drop")
	return false
}

func TestLockedProcessHasNothingLeft(t *testing.T) {
	if !needRoot(t) {
		return
	}
	root := t.TempDir()
	os.Chmod(root, 0o555)
	cmd, line := start(t, root)
	if line != "locked" {
		t.Fatal(line)
	}
	proc := fmt.Sprintf("/proc/%d", cmd.Process.Pid)
	if got, _ := os.Readlink(proc + "/root"); got != root {
		t.Errorf("root directory is %q", got)
	}
	tasks, _ := filepath.Glob(proc + "/task/*/status")
	if len(tasks) < 2 {
		t.Fatalf("only %d threads: the test proves nothing", len(tasks))
	}
	for _, task := range tasks {
		checkStatus(t, task)
	}
	fds, _ := os.ReadDir(proc + "/fd")
	for _, fd := range fds {
		if what, _ := os.Readlink(proc + "/fd/" + fd.Name()); what == "/etc/passwd" {
			t.Errorf("descriptor %s of the parent survived", fd.Name())
		}
	}
	if st, err := os.Stat(proc + "/mem"); err == nil && st.Sys() != nil {
		var x unix.Stat_t
		if unix.Stat(proc+"/mem", &x); x.Uid != 0 {
			t.Error("the process can be dumped and traced by its user")
		}
	}
}

// checkStatus looks at one thread as the kernel sees it.
func checkStatus(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		return // the thread has ended
	}
	want := map[string]string{
		"Uid":        "65534 65534 65534 65534",
		"Gid":        "65534 65534 65534 65534",
		"Groups":     "",
		"NoNewPrivs": "1",
		"CapEff":     "0000000000000000",
		"CapPrm":     "0000000000000000",
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		if w, ok := want[key]; ok {
			if got := strings.Join(strings.Fields(value), " "); got != w {
				t.Errorf("%s: %s is %q, want %q", path, key, got, w)
			}
			delete(want, key)
		}
	}
	if len(want) != 0 {
		t.Errorf("%s lacks %v", path, want)
	}
}

func TestDirectoryWithContentIsRefused(t *testing.T) {
	if !needRoot(t) {
		return
	}
	root := t.TempDir()
	os.WriteFile(root+"/bin", nil, 0o600)
	if _, line := start(t, root); !strings.Contains(line, "not empty") {
		t.Errorf("got %q", line)
	}
}

func TestRootIsRefused(t *testing.T) {
	if err := Lock(nil, 0, 0); err == nil {
		t.Error("locked in as root")
	}
}
