package hooks

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"hast/proto"
)

// bench runs a Runner with short limits and collects what it says.
type bench struct {
	*Runner
	dir     string
	results chan Result
	mu      sync.Mutex
	text    bytes.Buffer
	stop    func()
}

func (b *bench) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

// log returns what has been logged so far.
func (b *bench) log() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// script writes a shell script and returns its path.
func script(t *testing.T, dir, body string) string {
	t.Helper()
	path := filepath.Join(dir, "hook.sh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\ncd "+dir+"\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// newBench makes a Runner for a script; run starts it.
func newBench(t *testing.T, body string, timeout time.Duration) *bench {
	b := &bench{dir: t.TempDir(), results: make(chan Result, 1000)}
	log := slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b.Runner = New(Config{Resource: "data", Node: "hb1", Log: log, Done: func(r Result) { b.results <- r }}, script(t, b.dir, body), timeout)
	b.limits = limits{grace: 200 * time.Millisecond, warn: 100 * time.Millisecond, output: 200 * time.Millisecond, stuck: 500 * time.Millisecond}
	return b
}

func (b *bench) run(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { b.Run(ctx); close(ended) }()
	b.stop = func() { cancel(); <-ended }
	t.Cleanup(b.stop)
}

// result waits for the next one.
func (b *bench) result(t *testing.T) Result {
	t.Helper()
	select {
	case r := <-b.results:
		return r
	case <-time.After(10 * time.Second):
		t.Fatal("no result in 10 s; log:\n" + b.log())
	}
	panic("unreachable")
}

func (b *bench) file(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// gone reports whether the process whose id is in a file has ended and is reaped (or is left to init).
func (b *bench) gone(t *testing.T, name string) bool {
	pid, err := strconv.Atoi(strings.TrimSpace(b.file(t, name)))
	if err != nil {
		t.Fatal(err)
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func TestArguments(t *testing.T) {
	b := newBench(t, `echo "$# $*" >>args; env | sort >env; readlink /proc/self/fd/0 >stdin; pwd -P >/dev/null; ps -o sid= -p $$ >sid; echo $$ >pid`, time.Minute)
	b.run(t)
	events := []Event{
		{Kind: KindRole, OldRole: proto.RoleInit, NewRole: proto.RolePrimary},
		{Kind: KindConnect}, {Kind: KindDisconnect}, {Kind: KindSyncStart}, {Kind: KindSyncDone}, {Kind: KindSyncIntr}, {Kind: KindSplitBrain},
		{Kind: KindRole, ID: 7, Role: proto.RoleSecondary, OldRole: proto.RolePrimary, NewRole: proto.RoleSecondary,
			Peer: "hb2", Device: "/dev/hast/data", Reason: "it said\nX=1\x00\xff"},
	}
	for _, e := range events {
		b.Submit(e)
	}
	for _, e := range events {
		if r := b.result(t); !r.OK() || r.Event != e || r.Exit != 0 {
			t.Fatalf("%v: %s", r.Event, r.String())
		}
	}
	want := "4 role data init primary\n2 connect data\n2 disconnect data\n2 syncstart data\n2 syncdone data\n2 syncintr data\n2 split-brain data\n4 role data primary secondary\n"
	if got := b.file(t, "args"); got != want {
		t.Errorf("arguments:\n%s", got)
	}
	env := b.file(t, "env")
	for _, line := range []string{"HAST_EVENT=role", "HAST_RESOURCE=data", "HAST_NODE=hb1", "HAST_PEER=hb2", "HAST_ROLE=secondary", "HAST_OLD_ROLE=primary",
		"HAST_NEW_ROLE=secondary", "HAST_DEVICE=/dev/hast/data", "HAST_EVENT_ID=7", "HAST_REASON=it said?X=1??", "PATH=" + searchPath} {
		if !strings.Contains(env, line+"\n") {
			t.Errorf("%s is missing in\n%s", line, env)
		}
	}
	for _, line := range strings.Split(strings.TrimSpace(env), "\n") {
		// The shell adds PWD and its kin by itself.
		if name, _, _ := strings.Cut(line, "="); !strings.HasPrefix(name, "HAST_") && !slices.Contains([]string{"PATH", "PWD", "OLDPWD", "_", "SHLVL"}, name) {
			t.Errorf("unexpected %s", line)
		}
	}
	if in := b.file(t, "stdin"); in != "/dev/null\n" {
		t.Errorf("stdin is %s", in)
	}
	if strings.TrimSpace(b.file(t, "sid")) != strings.TrimSpace(b.file(t, "pid")) {
		t.Error("not a session of its own")
	}
}

func TestOrderOneAtATime(t *testing.T) {
	b := newBench(t, `mkdir lock || echo overlap >>order; sleep 0.01; echo $HAST_EVENT_ID >>order; rmdir lock`, time.Minute)
	b.run(t)
	want := ""
	for i := range uint64(20) {
		b.Submit(Event{Kind: KindConnect, ID: i})
		want += fmt.Sprintln(i)
	}
	if err := b.Idle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := b.file(t, "order"); got != want {
		t.Errorf("order:\n%s", got)
	}
	if len(b.results) != 20 {
		t.Errorf("%d results", len(b.results))
	}
}

func TestExitAndSignal(t *testing.T) {
	b := newBench(t, `case $HAST_EVENT_ID in 1) exit 3;; 2) kill -9 $$;; esac`, time.Minute)
	b.run(t)
	b.Submit(Event{Kind: KindConnect, ID: 1})
	if r := b.result(t); r.OK() || r.Exit != 3 || r.Signal != 0 || r.String() != "exit status 3" {
		t.Errorf("%+v", r)
	}
	b.Submit(Event{Kind: KindConnect, ID: 2})
	if r := b.result(t); r.OK() || r.Exit != -1 || r.Signal != syscall.SIGKILL {
		t.Errorf("%+v", r)
	}
	if !strings.Contains(b.log(), "exit status 3") || !strings.Contains(b.log(), "signal 9") {
		t.Error(b.log())
	}
}

func TestTimeoutTerm(t *testing.T) {
	b := newBench(t, `trap 'echo cleaned; exit 5' TERM; sleep 60 & wait`, time.Second) // time to set the trap on a busy machine
	b.limits.grace = 5 * time.Second
	b.run(t)
	b.Submit(Event{Kind: KindConnect})
	if r := b.result(t); !r.TimedOut || r.OK() || r.Exit != 5 || r.Duration > 5*time.Second {
		t.Errorf("%+v", r)
	}
	if !strings.Contains(b.log(), "cleaned") || !strings.Contains(b.log(), "hook_timeout") {
		t.Error(b.log())
	}
}

func TestTimeoutKill(t *testing.T) {
	b := newBench(t, `trap '' TERM; echo $$ >pid; (echo $$; exec sleep 60) & echo $! >child; while :; do sleep 60; done`, time.Second)
	b.run(t)
	b.Submit(Event{Kind: KindConnect})
	r := b.result(t)
	if !r.TimedOut || r.Exit != -1 || r.Signal != syscall.SIGKILL || r.Duration < b.limits.grace || r.Duration > 5*time.Second {
		t.Errorf("%+v", r)
	}
	eventually(t, "a child survived the timeout", func() bool { return b.gone(t, "child") && b.gone(t, "pid") })
}

// A grandchild that ignores SIGTERM and outlives the program at its timeout is killed with its group.
func TestTimeoutGrandchild(t *testing.T) {
	b := newBench(t, `(trap '' TERM; echo started; sleep 60) & echo $! >child; sleep 60`, time.Second)
	b.run(t)
	b.Submit(Event{Kind: KindConnect})
	if r := b.result(t); !r.TimedOut || r.Duration > 5*time.Second {
		t.Errorf("%+v", r)
	}
	eventually(t, "the grandchild survived", func() bool { return b.gone(t, "child") })
}

// A background process that keeps the output open delays nothing, and lives on.
func TestBackgroundKeepsPipe(t *testing.T) {
	b := newBench(t, `sleep 60 & echo $! >child; echo said`, time.Minute)
	b.run(t)
	b.Submit(Event{Kind: KindConnect})
	if r := b.result(t); !r.OK() || r.Duration > 5*time.Second {
		t.Errorf("%+v", r)
	}
	if b.gone(t, "child") {
		t.Error("what the hook left in the background was killed")
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(b.file(t, "child")))
	syscall.Kill(pid, syscall.SIGKILL)
	if !strings.Contains(b.log(), "said") {
		t.Error(b.log())
	}
}

func TestCannotStart(t *testing.T) {
	b := newBench(t, "true", time.Minute)
	b.run(t)
	interpreter, text := filepath.Join(b.dir, "interpreter"), filepath.Join(b.dir, "text")
	os.WriteFile(interpreter, []byte("#!/no/such/shell\n"), 0o755)
	os.WriteFile(text, []byte("true\n"), 0o755)
	plain := filepath.Join(b.dir, "plain")
	os.WriteFile(plain, []byte("#!/bin/sh\n"), 0o644)
	for path, want := range map[string]string{
		filepath.Join(b.dir, "none"): "no such file",
		plain:                        "chmod 755",
		interpreter:                  "interpreter in its first line does not exist",
		text:                         "#!/bin/sh",
		b.dir:                        "permission denied",
	} {
		b.SetProgram(path, time.Minute)
		b.Submit(Event{Kind: KindConnect})
		if r := b.result(t); r.OK() || r.Err == nil || !strings.Contains(r.String(), want) || r.Exit != -1 {
			t.Errorf("%s: %s", path, r.String())
		}
	}
}

func TestMuchOutput(t *testing.T) {
	b := newBench(t, `head -c 3000 /dev/zero | tr '\0' x; echo; printf 'a\033[2Jb\n'; yes 0123456789 | head -c 5000000; echo err >&2`, time.Minute)
	b.run(t)
	b.Submit(Event{Kind: KindConnect})
	if r := b.result(t); !r.OK() {
		t.Errorf("%+v", r)
	}
	log := b.log()
	if n := strings.Count(log, "\n"); n > maxLines+10 {
		t.Errorf("%d lines in the log", n)
	}
	for _, want := range []string{strings.Repeat("x", maxLine) + " [...]", "a?[2Jb", "lines_dropped="} {
		if !strings.Contains(log, want) {
			t.Errorf("%q is not in the log", want[max(0, len(want)-20):])
		}
	}
	if strings.Contains(log, strings.Repeat("x", maxLine+1)) {
		t.Error("a line was too long")
	}
}

func TestQueueOverflow(t *testing.T) {
	b := newBench(t, `echo "$1 $HAST_EVENT_ID" >>seen`, time.Minute)
	began := time.Now()
	b.Submit(Event{Kind: KindRole, ID: 1, OldRole: proto.RoleInit, NewRole: proto.RolePrimary})
	const more = 1000
	for i := range uint64(more) {
		b.Submit(Event{Kind: KindDisconnect, ID: 2 + i})
	}
	if d := time.Since(began); d > time.Second {
		t.Errorf("submitting took %s", d)
	}
	if n := strings.Count(b.log(), "too many events"); n != 1 {
		t.Errorf("%d messages for one overflow", n)
	}
	b.run(t)
	b.Idle(t.Context())
	lines := strings.Split(strings.TrimSpace(b.file(t, "seen")), "\n")
	if len(lines) != maxQueue || lines[0] != "role 1" || lines[1] != fmt.Sprintf("disconnect %d", 2+more-maxQueue+1) || lines[len(lines)-1] != fmt.Sprintf("disconnect %d", 1+more) {
		t.Errorf("%d: %q", len(lines), lines)
	}
	if !strings.Contains(b.log(), fmt.Sprintf("events_dropped=%d", 1+more-maxQueue)) {
		t.Error(b.log())
	}
	// A queue full of role changes drops the oldest.
	full := newBench(t, "", time.Minute)
	for i := range uint64(maxQueue + 1) {
		full.Submit(Event{Kind: KindRole, ID: i})
	}
	if full.queue[0].ID != 1 || len(full.queue) != maxQueue {
		t.Errorf("%d events, the first is %d", len(full.queue), full.queue[0].ID)
	}
}

func TestStop(t *testing.T) {
	b := newBench(t, `trap '' TERM; echo $$ >pid; while :; do sleep 60; done`, time.Minute)
	b.run(t)
	b.Submit(Event{Kind: KindConnect, ID: 1})
	b.Submit(Event{Kind: KindConnect, ID: 2})
	eventually(t, "it did not start", func() bool { e, _, n, ok := b.Running(); return ok && e.ID == 1 && n == 1 })
	eventually(t, "no pid", func() bool { st, err := os.Stat(filepath.Join(b.dir, "pid")); return err == nil && st.Size() > 0 })
	began := time.Now()
	b.stop()
	if d := time.Since(began); d > 3*time.Second {
		t.Errorf("stopping took %s", d)
	}
	if r := b.result(t); !r.Stopped || r.TimedOut || r.Signal != syscall.SIGKILL {
		t.Errorf("%+v", r)
	}
	if !b.gone(t, "pid") || len(b.results) != 0 {
		t.Error("something went on")
	}
	if !strings.Contains(b.log(), "events_dropped=1") {
		t.Error(b.log())
	}
	b.Submit(Event{Kind: KindConnect})
	if err := b.Idle(t.Context()); err != nil {
		t.Error(err)
	}
	if _, _, n, ok := b.Running(); ok || n != 0 {
		t.Error("an ended Runner took an event")
	}
}

func TestWarnsWhileRunning(t *testing.T) {
	b := newBench(t, `sleep 0.35`, time.Minute)
	b.run(t)
	b.Submit(Event{Kind: KindConnect})
	r := b.result(t)
	if n := strings.Count(b.log(), "still running"); n < 2 || n > int(r.Duration/b.limits.warn) {
		t.Errorf("%d warnings in %s:\n%s", n, r.Duration, b.log())
	}
}

func TestSetProgram(t *testing.T) {
	b := newBench(t, `sleep 0.1; echo first`, time.Minute)
	b.run(t)
	other := filepath.Join(b.dir, "other.sh")
	os.WriteFile(other, []byte("#!/bin/sh\necho second\n"), 0o755)
	b.Submit(Event{Kind: KindConnect})
	eventually(t, "it did not start", func() bool { _, _, _, ok := b.Running(); return ok })
	b.Submit(Event{Kind: KindConnect})
	b.SetProgram(other, time.Minute)
	if first, second := b.result(t), b.result(t); first.Path == other || second.Path != other {
		t.Errorf("%s, %s", first.Path, second.Path)
	}
	// Without a program there is nothing to run, and what waits is forgotten.
	b.SetProgram("", time.Minute)
	b.Submit(Event{Kind: KindConnect})
	if err := b.Idle(t.Context()); err != nil || len(b.results) != 0 {
		t.Error(err, len(b.results))
	}
}

// zombies counts this process's dead children.
func zombies(t *testing.T) (n int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, s := range stats {
		text, err := os.ReadFile(s)
		if err == nil && strings.Contains(string(text), fmt.Sprintf(") Z %d ", os.Getpid())) {
			n++
		}
	}
	return n
}

func descriptors(t *testing.T) int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// Neither zombies nor descriptors remain, and a program finds no descriptor but its three, even if
// something in this process was opened without close-on-exec.
func TestLeaves(t *testing.T) {
	b := newBench(t, `ls /proc/self/fd | wc -l >fds; exit $((HAST_EVENT_ID % 2))`, time.Minute)
	b.run(t)
	open, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(open)
	b.Submit(Event{Kind: KindConnect})
	b.result(t)
	before := descriptors(t)
	for i := range uint64(30) {
		b.Submit(Event{Kind: KindConnect, ID: i})
		b.result(t)
	}
	b.SetProgram("/no/such/program", time.Minute)
	b.Submit(Event{Kind: KindConnect})
	b.result(t)
	if now := descriptors(t); now != before {
		t.Errorf("%d descriptors, then %d", before, now)
	}
	if n := zombies(t); n != 0 {
		t.Errorf("%d zombies", n)
	}
	// 0, 1, 2, and the one that ls reads the directory with.
	if n := strings.TrimSpace(b.file(t, "fds")); n != "4" {
		t.Errorf("the program has %s descriptors, want 3 and its own", n)
	}
}

func TestClean(t *testing.T) {
	for in, want := range map[string]string{"": "", "plain text": "plain text", "a\x00b\nc\x1b\u202e": "a?b?c??", "\xff": "?", "ü": "ü"} {
		if got := clean(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
	if n := len(clean(strings.Repeat("ü", maxText))); n > maxText {
		t.Errorf("%d bytes", n)
	}
}

func FuzzOutput(f *testing.F) {
	f.Add([]byte("a\nb\r\n\x00\xff"), 1)
	f.Add(bytes.Repeat([]byte("x\n"), 500), 3)
	f.Add(bytes.Repeat([]byte("x"), 5000), 7)
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		var text bytes.Buffer
		o := output{log: slog.New(slog.NewTextHandler(&text, nil))}
		step = max(step, 1)
		for i := 0; i < len(b); i += min(step, len(b)-i) {
			o.write(b[i : i+min(step, len(b)-i)])
		}
		o.end()
		if n := bytes.Count(text.Bytes(), []byte("\n")); n > maxLines+1 {
			t.Errorf("%d lines", n)
		}
		if o.lines+o.dropped > bytes.Count(b, []byte("\n"))+1 {
			t.Errorf("%d lines of %d", o.lines+o.dropped, bytes.Count(b, []byte("\n")))
		}
	})
}
