package hastd

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hast/hastd/worker/ipc"
	"hast/hastd/worker/lease"
	"hast/hooks"
	"hast/proto"
	"hast/proto/ctl"
)

// The test binary is its own worker: TestMain becomes a fake one when it is started like one.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "worker" {
		os.Exit(fakeWorker())
	}
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "--config=") {
		os.Exit(asDaemon(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// fake says how a fake worker behaves.
type fake struct {
	Exit     int    `json:"exit,omitempty"`     // exit at once with this status
	Fatal    string `json:"fatal,omitempty"`    // and this reason
	Refuse   string `json:"refuse,omitempty"`   // refuse promotion
	Silent   bool   `json:"silent,omitempty"`   // don't promote by itself
	DeafStop bool   `json:"deafStop,omitempty"` // ignore stop
	Busy     bool   `json:"busy,omitempty"`     // refuse to detach without force
	Panic    bool   `json:"panic,omitempty"`    // die of a panic when permitted
}

// fakeWorker speaks the worker's side of the protocol without disk or peer.
func fakeWorker() int {
	c, err := ipc.New(os.NewFile(3, "parent"))
	if err != nil {
		return 70
	}
	send := func(m *ipc.Message) { c.Send(m, time.Second) }
	var f fake
	var held []*os.File
	told := 0
	defer func() { ipc.CloseAll(held) }()
	st := ipc.State{Link: "waiting", Data: "uptodate", Mode: "fullsync"}
	for {
		m, files, err := c.Recv()
		if err != nil {
			return 0
		}
		switch m.Kind {
		case ipc.KindSetup:
			json.Unmarshal(m.Setup.Fake, &f)
			if f.Exit != 0 {
				send(&ipc.Message{Kind: ipc.KindFatal, Text: f.Fatal, Code: f.Exit})
				return f.Exit
			}
			for i, name := range m.Files {
				if name == ipc.FileLease {
					if v, err := lease.Map(files[i]); err != nil || !v.Valid() {
						return 70
					}
				}
			}
			st.Promoted = m.Setup.Role == proto.RolePrimary && (m.Setup.Successor || !f.Silent)
			if f.Refuse != "" && m.Setup.Role == proto.RolePrimary {
				st.Promoted, st.Link, st.Why = false, "refused", f.Refuse
			}
			st.Forced, st.Mode = false, m.Setup.Settings.Mode.String()
			send(&ipc.Message{Kind: ipc.KindReady, State: &st})
			if m.Setup.Role == proto.RolePrimary {
				send(&ipc.Message{Kind: ipc.KindConnect, Text: "start"})
			}
			// The lock of the backing device must live as long as this process.
			held, files = append(held, files...), nil
		case ipc.KindPermit:
			if f.Panic {
				panic("fake worker was told to")
			}
			st.Promoted, st.Forced = true, m.Force
			send(&ipc.Message{Kind: ipc.KindState, State: &st})
		case ipc.KindConnection:
			st.Link, st.Promoted = "connected", true
			send(&ipc.Message{Kind: ipc.KindReport, Report: &ipc.Report{Event: "connect", Text: "connected to the peer"}})
			send(&ipc.Message{Kind: ipc.KindState, State: &st})
		case ipc.KindDevice:
			send(&ipc.Message{Kind: ipc.KindServing, Blob: json.RawMessage(`{"minor":1}`)})
		case ipc.KindDetach:
			text := ""
			if f.Busy && !m.Force {
				text = "in use by a client"
			}
			send(&ipc.Message{Kind: ipc.KindDetached, Text: text})
		case ipc.KindSettings:
			told++
			st.Mode, st.Why = m.Settings.Mode.String(), fmt.Sprintf("told %d times; key %s, force %v", told, m.Key, m.Force)
			send(&ipc.Message{Kind: ipc.KindState, State: &st})
		case ipc.KindAsk:
			send(&ipc.Message{Kind: ipc.KindState, ID: m.ID, State: &st})
		case ipc.KindStop:
			if f.DeafStop {
				continue
			}
			send(&ipc.Message{Kind: ipc.KindStopped})
			return 0
		}
		ipc.CloseAll(files)
	}
}

// fixture is a daemon without configuration, listeners or a real worker.
type fixture struct {
	*Daemon
	t     *testing.T
	hooks *recorder
	links *fakeLink
}

// recorder notes the hooks that would have run.
type recorder struct {
	mu   sync.Mutex
	seen []string
}

func (h *recorder) fire(s *spec, e hooks.Event) {
	line := string(e.Kind) + " " + s.name
	if e.Kind == hooks.KindRole {
		line += " " + e.OldRole.String() + " " + e.NewRole.String()
	}
	h.mu.Lock()
	h.seen = append(h.seen, line)
	h.mu.Unlock()
}

func (h *recorder) forget(string) {}
func (h *recorder) close()        {}

func (h *recorder) running(*spec) *ctl.HookStatus { return nil }

func (h *recorder) list() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.seen...)
}

// fakeLink answers every dial alike.
type fakeLink struct {
	mu  sync.Mutex
	out dialOutcome
}

func (l *fakeLink) set(o dialOutcome) { l.mu.Lock(); l.out = o; l.mu.Unlock() }

func (l *fakeLink) dial(context.Context, *spec, string, [16]byte) (*joined, dialOutcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.out.kind == dialPassed {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, dialOutcome{dialSilent, err.Error()}
		}
		return &joined{data: os.NewFile(uintptr(fds[0]), "a"), control: os.NewFile(uintptr(fds[1]), "b"), remote: "fake"}, l.out
	}
	return nil, l.out
}

// lockedFile opens path with an exclusive lock that travels with the descriptor.
func lockedFile(path string) (*os.File, bool, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, false, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, true, fmt.Errorf("%s is held by another process", path)
	}
	return f, false, nil
}

func newFixture(t *testing.T, f fake) *fixture {
	t.Helper()
	dir := t.TempDir()
	raw, _ := json.Marshal(f)
	fx := &fixture{t: t, hooks: &recorder{}, links: &fakeLink{out: dialOutcome{dialSilent, "connection refused"}}}
	d := &Daemon{
		log: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})), node: "hb1",
		runDir: dir, rootDir: rootFor(dir), fake: raw,
		openLocal: lockedFile, openMeta: os.Open,
		link: fx.links, hooks: fx.hooks, events: newEventLog(),
		resources: map[string]*resource{}, leases: map[*lease.Grant]struct{}{}, beats: func() {}, ended: make(chan struct{}),
	}
	fx.Daemon = d
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { d.Run(ctx); close(ended) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			t.Error("the daemon did not stop")
		}
		d.running.Wait()
		if n := len(d.leases); n != 0 {
			t.Errorf("%d leases left", n)
		}
	})
	return fx
}

// testWriter sends the daemon's log to the test's.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Helper()
	defer func() { recover() }() // a line after the end of the test
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// add configures a resource with a backing file.
func (fx *fixture) add(name string, change ...func(*spec)) *resource {
	fx.t.Helper()
	local := filepath.Join(fx.runDir, name+".img")
	if err := os.WriteFile(local, make([]byte, 4096), 0o600); err != nil {
		fx.t.Fatal(err)
	}
	s := &spec{name: name, deviceName: name, front: frontNBD, local: local, peer: "hb2", remote: "127.0.0.1:1",
		timeout: 2 * time.Second, uid: -1, gid: -1, settings: ipc.Settings{Mode: proto.ModeFullsync}}
	for _, f := range change {
		f(s)
	}
	return fx.addResource(s)
}

// role asks for a role and fails the test unless it is given.
func (fx *fixture) role(r *resource, to proto.Role) {
	fx.t.Helper()
	if err := fx.tryRole(r, to, false); err != nil {
		fx.t.Fatalf("role %s: %v", to, err)
	}
}

func (fx *fixture) tryRole(r *resource, to proto.Role, force bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return r.submit(ctx, &operation{verb: verbRole, role: to, force: force})
}

// eventually waits for cond.
func eventually(t *testing.T, what string, limit time.Duration, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", limit, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// freeze stops a process and waits until it has stopped.
func freeze(t *testing.T, pid int) {
	t.Helper()
	syscall.Kill(pid, syscall.SIGSTOP)
	eventually(t, "the process stops", 2*time.Second, func() bool {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, task := range tasks {
			if b, err := os.ReadFile(task); err == nil && !strings.Contains(string(b), ") T ") {
				return false
			}
		}
		return true
	})
}
