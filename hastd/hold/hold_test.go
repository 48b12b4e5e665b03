package hold

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) {
	switch path := os.Getenv("HAST_HOLD_TEST_PATH"); os.Getenv("HAST_HOLD_TEST_CHILD") {
	case "hold":
		if err := Main(Config{Path: path}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case "ping":
		if _, err := (&Client{Path: path, Timeout: time.Second}).Ping(); err != nil {
			fmt.Println("refused")
			os.Exit(0)
		}
		fmt.Println("heard")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func openFDs(t testing.TB) int {
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(d)
}

// memory returns a descriptor that can be told from others by what is in it.
func memory(t testing.TB, content string) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("hold-test", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), content)
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	return f
}

func contents(t testing.TB, files []*os.File) (all []string) {
	for _, f := range files {
		b := make([]byte, 100)
		n, _ := f.ReadAt(b, 0)
		all = append(all, string(b[:n]))
		f.Close()
	}
	return all
}

// start serves a store. What it returns last waits until serving has ended by itself.
func start(t testing.TB) (*Client, *Store, func() error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hold")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Fatalf("socket: %v %v", st.Mode(), err)
	}
	store := new(Store)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, store, "test") }()
	wait := func() error {
		err := <-done
		done <- err
		return err
	}
	t.Cleanup(func() { cancel(); wait(); l.Close(); store.Close() })
	return &Client{Path: path, Timeout: 2 * time.Second}, store, wait
}

func TestExchange(t *testing.T) {
	c, _, wait := start(t)
	a, b := memory(t, "a"), memory(t, "b")
	defer a.Close()
	if _, _, err := c.Get("x"); !errors.Is(err, ErrNotHeld) {
		t.Fatalf("get of nothing: %v", err)
	}
	if err := c.Put("x", json.RawMessage(`{"v":1}`), a, b); err != nil {
		t.Fatal(err)
	}
	b.Close() // the holder has its own
	for range 2 {
		blob, files, err := c.Get("x")
		if err != nil || string(blob) != `{"v":1}` {
			t.Fatalf("%s %v", blob, err)
		}
		if got := contents(t, files); !slices.Equal(got, []string{"a", "b"}) {
			t.Fatalf("descriptors of %q", got)
		}
	}
	if err := c.Put("x", nil, a); err != nil {
		t.Fatal(err)
	}
	if _, files, err := c.Get("x"); err != nil || !slices.Equal(contents(t, files), []string{"a"}) {
		t.Fatalf("after it was replaced: %v", err)
	}
	if err := c.Put("nothing", json.RawMessage(`"only a blob"`)); err != nil {
		t.Fatal(err)
	}
	if l, err := c.List(); err != nil || !slices.Equal(l, []string{"nothing", "x"}) {
		t.Fatalf("list %q %v", l, err)
	}
	if who, err := c.Ping(); err != nil || who != (Holder{os.Getpid(), "test"}) {
		t.Fatalf("ping: %+v %v", who, err)
	}
	if err := c.Drop("x"); err != nil {
		t.Fatal(err)
	}
	if err := c.Drop("x"); !errors.Is(err, ErrNotHeld) {
		t.Fatalf("second drop: %v", err)
	}
	if who, err := c.Quit(); err != nil || who.PID != os.Getpid() {
		t.Fatalf("quit: %+v %v", who, err)
	}
	if err := wait(); !errors.Is(err, ErrQuit) {
		t.Fatalf("served until %v", err)
	}
}

func TestLimits(t *testing.T) {
	c, s, _ := start(t)
	f := memory(t, "f")
	defer f.Close()
	many := make([]*os.File, MaxFiles+1)
	for i := range many {
		many[i] = f
	}
	for _, tc := range []struct {
		label string
		blob  string
		files []*os.File
		want  string
	}{
		{"", `1`, nil, "label"},
		{strings.Repeat("x", MaxLabel+1), `1`, nil, "label"},
		{"a\nb", `1`, nil, "label"},
		{"x", `"` + strings.Repeat("x", MaxBlob) + `"`, nil, "blob"},
		{"x", `1`, many, "descriptors"},
	} {
		if err := c.Put(tc.label, json.RawMessage(tc.blob), tc.files...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("put %.20q: %v", tc.label, err)
		}
	}
	for i := range MaxEntries {
		if err := c.Put(fmt.Sprint(i), nil, f); err != nil {
			t.Fatal(err)
		}
	}
	before := openFDs(t)
	if err := c.Put("one more", nil, f); err == nil {
		t.Error("one label too many")
	}
	if err := c.Put("0", nil, f); err != nil {
		t.Errorf("replace when full: %v", err)
	}
	s.Close()
	for end := time.Now().Add(time.Second); openFDs(t) > before-MaxEntries && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	if n := openFDs(t); n > before-MaxEntries {
		t.Errorf("%d descriptors are open, want %d", n, before-MaxEntries)
	}
}

// TestGarbage: a packet that makes no sense costs its sender the connection, and no descriptor stays.
func TestGarbage(t *testing.T) {
	c, _, _ := start(t)
	f := memory(t, "f")
	defer f.Close()
	before := openFDs(t)
	many := make([]int, 100)
	for i := range many {
		many[i] = int(f.Fd())
	}
	for _, g := range []struct {
		text string
		fds  []int
	}{
		{"garbage", []int{int(f.Fd())}}, {`{"op":"put","label":"x","more":1}`, []int{int(f.Fd())}}, {`{"op":"nope"}`, []int{int(f.Fd())}},
		{`{"op":"put","label":"x"}`, many}, {strings.Repeat("x", maxMessage+1), nil}, {`{"op":"get","label":"x"}`, []int{int(f.Fd())}},
	} {
		nc, err := net.Dial("unixpacket", c.Path)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := nc.(*net.UnixConn).WriteMsgUnix([]byte(g.text), unix.UnixRights(g.fds...), nil); err != nil {
			t.Fatal(err)
		}
		nc.SetDeadline(time.Now().Add(2 * time.Second))
		b := make([]byte, maxMessage)
		n, err := nc.Read(b)
		var r reply
		if err != nil || json.Unmarshal(b[:n], &r) != nil || r.Error == "" {
			t.Errorf("%.40q: %q %v", g.text, b[:n], err)
		}
		nc.Close()
	}
	for end := time.Now().Add(time.Second); openFDs(t) > before && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	if n := openFDs(t); n > before {
		t.Errorf("%d descriptors are open, %d before", n, before)
	}
	if l, err := c.List(); err != nil || len(l) != 0 {
		t.Errorf("after garbage: %q %v", l, err)
	}
}

// TestStoreModel compares with a map of strings.
func TestStoreModel(t *testing.T) {
	f := [3]*os.File{memory(t, "0"), memory(t, "1"), memory(t, "2")}
	before := openFDs(t)
	rapid.Check(t, func(t *rapid.T) {
		s := new(Store)
		defer s.Close()
		model := map[string]string{}
		label := rapid.SampledFrom([]string{"a", "b", "c"})
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				l, n := label.Draw(t, "label"), rapid.IntRange(0, 2).Draw(t, "file")
				if err := s.Put(l, json.RawMessage(fmt.Sprint(n)), int(f[n].Fd())); err != nil {
					t.Fatal(err)
				}
				model[l] = fmt.Sprint(n)
			},
			"drop": func(t *rapid.T) {
				l := label.Draw(t, "label")
				_, held := model[l]
				if err := s.Drop(l); (err == nil) != held {
					t.Fatalf("drop: %v, held %v", err, held)
				}
				delete(model, l)
			},
			"get": func(t *rapid.T) {
				l := label.Draw(t, "label")
				want, held := model[l]
				blob, fds, err := s.Get(l)
				if (err == nil) != held {
					t.Fatalf("get: %v, held %v", err, held)
				}
				if err != nil {
					return
				}
				b := make([]byte, 8)
				n, _ := unix.Pread(fds[0], b, 0)
				closeAll(fds)
				if string(blob) != want || string(b[:n]) != want {
					t.Fatalf("got %s with %s, want %s", blob, b[:n], want)
				}
			},
			"": func(t *rapid.T) {
				if len(s.List()) != len(model) {
					t.Fatalf("lists %v, want %v", s.List(), model)
				}
			},
		})
	})
	if n := openFDs(t); n != before {
		t.Errorf("%d descriptors are open, %d before", n, before)
	}
}

func child(t *testing.T, kind, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "HAST_HOLD_TEST_CHILD="+kind, "HAST_HOLD_TEST_PATH="+path)
	cmd.Stderr = os.Stderr
	return cmd
}

func TestProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hold")
	cmd := child(t, "hold", path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })
	c := &Client{Path: path, Timeout: time.Second}
	var who Holder
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var err error
		if who, err = c.Ping(); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	if who.PID != cmd.Process.Pid {
		t.Errorf("served by %+v", who)
	}
	if sid, err := unix.Getsid(cmd.Process.Pid); err != nil || sid != cmd.Process.Pid {
		t.Errorf("session %d %v", sid, err)
	}
	f := memory(t, "kept")
	if err := c.Put("x", nil, f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGPIPE, syscall.SIGQUIT} {
		cmd.Process.Signal(sig)
	}
	time.Sleep(50 * time.Millisecond)
	_, files, err := c.Get("x")
	if err != nil || !slices.Equal(contents(t, files), []string{"kept"}) {
		t.Fatalf("after signals: %v", err)
	}
	if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", who.PID)); err == nil {
		for _, l := range strings.Split(string(b), "\n") {
			if strings.HasPrefix(l, "VmRSS") || strings.HasPrefix(l, "Threads") {
				t.Log(l)
			}
		}
	}
	if _, err := c.Quit(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it does not quit")
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error("the socket stays")
	}
}

func TestEmptyEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s := new(Store)
	if err := s.Put("x", nil); err != nil {
		t.Fatal(err)
	}
	go watchEmpty(ctx, cancel, s, 40*time.Millisecond)
	select {
	case <-ctx.Done():
		t.Fatal("ended although it holds something")
	case <-time.After(120 * time.Millisecond):
	}
	s.Drop("x")
	select {
	case <-ctx.Done():
	case <-time.After(5 * time.Second):
		t.Fatal("does not end")
	}
}

// TestStranger: another user is not heard, even where the socket's mode would let it in.
func TestStranger(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root to become somebody else")
	}
	dir, err := os.MkdirTemp("", "hold")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	os.Chmod(dir, 0o755)
	path := filepath.Join(dir, "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	os.Chmod(path, 0o777)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, new(Store), "test") }()
	defer func() { cancel(); <-done }()
	exe := filepath.Join(dir, "exe")
	b, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(exe, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		uid  uint32
		want string
	}{{0, "heard"}, {65534, "refused"}} {
		cmd := child(t, "ping", path)
		cmd.Path = exe
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: tc.uid, Gid: tc.uid}}
		out, err := cmd.Output()
		if err != nil || strings.TrimSpace(string(out)) != tc.want {
			t.Errorf("uid %d: %q %v", tc.uid, out, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"op":"put","label":"x","blob":{"a":1}}`))
	f.Add([]byte(`{"op":"quit"}{"op":"quit"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var q request
		if decode(b, &q) != nil {
			return
		}
		if _, err := json.Marshal(q); err != nil {
			t.Fatalf("accepted %q, which can't be written again: %v", b, err)
		}
	})
}

func FuzzRights(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) { parseRights(b) }) // numbers are made up: never close them
}
