package control

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hast/proto"
	"hast/proto/ctl"
)

func TestStatusNames(t *testing.T) {
	t.Parallel()
	c, _ := serve(t, newFake("a", "b"))
	for _, q := range [][]string{nil, {"all"}} {
		r, err := c.Status(t.Context(), q...)
		if err != nil || r.Node != "hb1" || len(r.Resources) != 2 || r.Resources[0].Name != "a" || r.Resources[0].Status != "-" {
			t.Fatalf("%v: %+v %v", q, r, err)
		}
	}
	r, err := c.Status(t.Context(), "b", "nope", "a", "b")
	if err != nil || len(r.Resources) != 2 || r.Resources[0].Name != "b" || r.Resources[1].Name != "a" {
		t.Fatalf("%+v %v", r, err)
	}
	if len(r.Errors) != 1 || r.Errors[0].Name != "nope" || r.Errors[0].Error.Code != proto.ExitNoResource {
		t.Fatalf("%+v", r.Errors)
	}
}

// Rule 14: what is stuck is marked, and costs the others nothing.
func TestStuckWorker(t *testing.T) {
	t.Parallel()
	f := newFake("dead", "ok", "stuck")
	defer close(f.release)
	c, _ := serve(t, f)
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.dead["dead"], f.stuck["stuck"] = true, true
	f.mu.Unlock()
	began := time.Now()
	if r, err := c.Status(t.Context(), "ok"); err != nil || r.Resources[0].Stale || time.Since(began) > time.Second {
		t.Fatalf("%+v %v after %v", r, err, time.Since(began))
	}
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			r, err := c.Status(context.Background())
			if err != nil || len(r.Resources) != 3 {
				t.Errorf("%+v %v", r, err)
				return
			}
			d, ok, s := r.Resources[0], r.Resources[1], r.Resources[2]
			if !d.Stale || d.StaleSeconds < 1 || ok.Stale || !s.Stale || s.StaleSeconds < 7 {
				t.Errorf("%+v", r.Resources)
			}
		})
	}
	wg.Wait()
	if d := time.Since(began); d > ctl.StatusWait+2*time.Second {
		t.Errorf("it took %v", d)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked["dead"] != 2 { // once before, and one question that is still out
		t.Errorf("a resource that hangs was asked %d times", f.asked["dead"])
	}
}

func TestNeverAnswered(t *testing.T) {
	t.Parallel()
	f := newFake("dead")
	f.dead["dead"] = true
	defer close(f.release)
	c, _ := serve(t, f)
	r, err := c.Status(t.Context())
	if err != nil || len(r.Resources) != 0 || len(r.Errors) != 1 || r.Errors[0].Error.Code != proto.ExitUnavailable {
		t.Fatalf("%+v %v", r, err)
	}
}

func TestSilentClients(t *testing.T) {
	t.Parallel()
	c, path := serve(t, newFake("a"))
	for i := range 100 {
		n, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		if i%2 == 0 {
			io.WriteString(n, "GET /v1/status HTTP/1.1\r\nHost:") // and no more
		}
	}
	began := time.Now()
	if _, err := c.Status(t.Context()); err != nil || time.Since(began) > time.Second {
		t.Fatal(err, time.Since(began))
	}
}

func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	f := newFake("a")
	_, path := serve(t, f)
	for range maxConns {
		n, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
	}
	n, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	n.SetDeadline(time.Now().Add(4 * time.Second))
	if _, err := n.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read: %v", err)
	}
}

// raw sends bytes and returns what comes back.
func raw(t *testing.T, path, text string) string {
	t.Helper()
	n, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	n.SetDeadline(time.Now().Add(8 * time.Second))
	go io.WriteString(n, text)
	b, _ := io.ReadAll(n)
	return string(b)
}

func post(path, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
}

func TestGarbage(t *testing.T) {
	t.Parallel()
	c, path := serve(t, newFake("a"))
	big := `{"role":"primary","names":["` + strings.Repeat("x", ctl.MaxBody) + `"]}`
	for _, tc := range []struct{ send, want string }{
		{"\x00\xff\x00garbage\r\n\r\n", " 400 "},
		{"GET /v1/status HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("y", 2*maxHeader) + "\r\n\r\n", " 431 "},
		{"GET /v1/nope HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", `"code":2`},
		{"GET /v1/status?name=" + strings.Repeat("a&name=", ctl.MaxNames+1) + " HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", " 400 "},
		{"GET /v1/operations?id=77 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", " 404 "},
		{"GET /v1/operations?id=-1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", " 400 "},
		{"GET /v1/events?since=x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", " 400 "},
		{post(ctl.PathRole, big), " 413 "},
		{post(ctl.PathRole, "{"), " 400 "},
		{post(ctl.PathRole, `{}`), " 400 "},
		{post(ctl.PathRole, `{"role":"boss"}`), "unknown role"},
		{post(ctl.PathRole, `{"role":"init","forse":true}`), "forse"},
		{post(ctl.PathRole, `{"role":"init"} {}`), " 400 "},
		{post(ctl.PathStop, `[]`), " 400 "},
		{"DELETE /v1/role HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", `"code":2`},
	} {
		if got := raw(t, path, tc.send); !strings.Contains(got, tc.want) {
			t.Errorf("%.60q: %.200q, want %q in it", tc.send, got, tc.want)
		}
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func FuzzRequest(f *testing.F) {
	for _, s := range []string{`{"role":"primary","names":["a"]}`, `{"role":"init"}`, `{`, `null`, `{"role":1}`, "\xff"} {
		f.Add(s)
	}
	b := newFake("a")
	kids := new(sync.WaitGroup)
	s := &Server{Backend: b, ops: newOperations(context.Background(), b, kids), base: context.Background()}
	h := s.handler()
	f.Fuzz(func(t *testing.T, text string) {
		code, body := record(h, post(ctl.PathRole, text))
		kids.Wait()
		var e ctl.Error
		if code != 202 && (json.Unmarshal(body, &e) != nil || e.Message == "") {
			t.Fatalf("%q: %d %q", text, code, body)
		}
	})
}

func TestStrangers(t *testing.T) {
	t.Parallel()
	c, _ := serve(t, newFake("a"), func(s *Server) {
		s.peer = func(net.Conn) (uint32, error) { return 4242, nil }
	})
	_, err := c.Status(t.Context())
	if got := code(t, err); got != proto.ExitInvalid && got != proto.ExitUnavailable { // the kernel may cut the answer off
		t.Errorf("%v", err)
	}
	for _, tc := range []struct {
		uid, owner uint32
		want       bool
	}{{0, 0, true}, {1000, 0, false}, {0, 1000, true}, {1000, 1000, true}, {1001, 1000, false}} {
		if allowed(tc.uid, tc.owner) != tc.want {
			t.Errorf("%+v", tc)
		}
	}
}

func TestPeerUID(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	n, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if uid, err := peerUID(a); err != nil || uid != uint32(os.Getuid()) {
		t.Errorf("%d %v", uid, err)
	}
	if _, err := peerUID(&slotConn{}); err == nil {
		t.Error("no socket, no error")
	}
}

// A second Listen takes the name over; the first one's end leaves it alone.
func TestListenReplaces(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	a, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	a.Close()
	if _, err := os.Stat(path); err != nil {
		t.Fatal("the first listener took the second one's name away")
	}
	b.Close()
	if _, err := os.Stat(path); err == nil {
		t.Fatal("the name is still there")
	}
}

func TestRole(t *testing.T) {
	t.Parallel()
	f := newFake("a", "b")
	c, _ := serve(t, f)
	r, err := c.SetRole(t.Context(), ctl.RoleRequest{Names: []string{"a", "zz"}, Role: proto.RolePrimary})
	if err != nil || len(r.Operations) != 1 || len(r.Errors) != 1 || r.Errors[0].Name != "zz" {
		t.Fatalf("%+v %v", r, err)
	}
	op, err := c.Wait(t.Context(), r.Operations[0], nil)
	if err != nil || !op.Done || op.Error == nil || op.Error.Code != proto.ExitRefused || op.Error.Message != "the peer is primary" {
		t.Fatalf("%+v %v", op, err)
	}
	r, err = c.SetRole(t.Context(), ctl.RoleRequest{Role: proto.RolePrimary, Force: true})
	if err != nil || len(r.Operations) != 2 {
		t.Fatalf("%+v %v", r, err)
	}
	for _, op := range r.Operations {
		if op, err = c.Wait(t.Context(), op, nil); err != nil || op.Error != nil {
			t.Fatalf("%+v %v", op, err)
		}
	}
	r, _ = c.Reload(t.Context())
	if op, err = c.Wait(t.Context(), r.Operations[0], nil); err != nil || op.Error.Code != proto.ExitConfig {
		t.Fatalf("%+v %v", op, err)
	}
}

// A change that takes long doesn't hold the client up longer than it wants, and goes on.
func TestSlowRole(t *testing.T) {
	t.Parallel()
	f := newFake("a")
	f.gate = make(chan struct{})
	c, _ := serve(t, f)
	r, err := c.SetRole(t.Context(), ctl.RoleRequest{Role: proto.RoleSecondary})
	if err != nil || r.Operations[0].Phase != "asking the peer" {
		t.Fatalf("%+v %v", r, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	told := 0
	op, err := c.Wait(ctx, r.Operations[0], func(ctl.Operation) { told++ })
	if code(t, err) != proto.ExitTemp || op.Done || told == 0 {
		t.Fatalf("%+v %v, told %d times", op, err, told)
	}
	close(f.gate)
	if op, err = c.Wait(t.Context(), op, nil); err != nil || op.Error != nil {
		t.Fatalf("%+v %v", op, err)
	}
}

func TestManyOperations(t *testing.T) {
	t.Parallel()
	f := newFake("a")
	kids := new(sync.WaitGroup)
	ops := newOperations(context.Background(), f, kids)
	gate := make(chan struct{})
	wait := func(context.Context) error { <-gate; return nil }
	for range maxOperations {
		if _, err := ops.start("role", "a", wait); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ops.start("role", "a", wait); err == nil || err.Code != proto.ExitTemp {
		t.Fatalf("%v", err)
	}
	close(gate)
	kids.Wait()
	if op, err := ops.start("role", "a", wait); err != nil || ops.find(op.id) != op || ops.find(1) != nil || len(ops.list) != maxOperations {
		t.Fatalf("%v", err)
	}
	kids.Wait()
}

// The daemon's end is the good end of a stop, whether or not its answer came through.
func TestStop(t *testing.T) {
	t.Parallel()
	f := newFake("a")
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	f.stop = func(detach bool) error {
		if !detach {
			return &ctl.Error{Code: proto.ExitRefused, Message: "in use"}
		}
		cancel()
		return nil
	}
	ended := make(chan error)
	go func() { ended <- (&Server{Backend: f, Listener: l}).Run(ctx) }()
	c := ctl.NewClient(path)
	r, err := c.Stop(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if op, err := c.Wait(t.Context(), r.Operations[0], nil); err != nil || op.Error == nil {
		t.Fatalf("%+v %v", op, err)
	}
	if r, err = c.Stop(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if op, err := c.Wait(t.Context(), r.Operations[0], nil); err != nil || !op.Done || op.Error != nil {
		t.Fatalf("%+v %v", op, err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if _, err = c.Status(t.Context()); code(t, err) != proto.ExitOS {
		t.Errorf("%v", err)
	}
}

func TestBackendThatHangsDoesNotKeepTheServer(t *testing.T) {
	t.Parallel()
	f := newFake("dead")
	f.dead["dead"] = true
	path := filepath.Join(t.TempDir(), "s")
	l, _ := Listen(path)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- (&Server{Backend: f, Listener: l}).Run(ctx) }()
	go ctl.NewClient(path).Status(t.Context())
	for f.count("dead") == 0 {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	cancel()
	<-ended
	if d := time.Since(began); d > endGrace+childGrace+time.Second {
		t.Errorf("it took %v", d)
	}
	close(f.release)
}

func (f *fake) count(name string) int { f.mu.Lock(); defer f.mu.Unlock(); return f.asked[name] }

// collect reads events until n have come.
func collect(t *testing.T, c *ctl.Client, since *uint64, n int) (got []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	err := c.Events(ctx, since, func(e ctl.Event) error {
		got = append(got, fmt.Sprintf("%d:%s", e.ID, e.Event))
		if len(got) == n {
			cancel()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestEvents(t *testing.T) {
	t.Parallel()
	f := newFake("a")
	c, _ := serve(t, f)
	for _, name := range []string{"one", "two", "three"} {
		f.emit(name)
	}
	zero, two, ahead := uint64(0), uint64(2), uint64(99)
	for _, tc := range []struct {
		since *uint64
		want  []string
	}{
		{&zero, []string{"1:one", "2:two", "3:three"}},
		{&two, []string{"3:three"}},
		{&ahead, []string{"0:restart", "1:one", "2:two", "3:three"}},
	} {
		if got := collect(t, c, tc.since, len(tc.want)); !slices.Equal(got, tc.want) {
			t.Errorf("since %d: %v, want %v", *tc.since, got, tc.want)
		}
	}
	done := make(chan []string)
	go func() { done <- collect(t, c, nil, 2) }()
	f.awaitReader(t, 4)
	f.emit("four")
	f.emit("five")
	if got := <-done; !slices.Equal(got, []string{"4:four", "5:five"}) {
		t.Errorf("%v", got)
	}
}

// awaitReader returns once there have been n subscriptions.
func (f *fake) awaitReader(t *testing.T, n int) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		f.mu.Lock()
		subs := f.subs
		f.mu.Unlock()
		if subs >= n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%d readers have come, want %d", subs, n)
		}
	}
}

func TestEventGap(t *testing.T) {
	t.Parallel()
	f := newFake("a")
	c, _ := serve(t, f)
	for range 5 {
		f.emit("x")
	}
	f.mu.Lock()
	kept := f.events
	f.events = append([]ctl.Event{}, kept[3:]...) // the fake's LastEvent is now 2: ask from there
	f.mu.Unlock()
	zero := uint64(0)
	got := collect(t, c, &zero, 3)
	if want := []string{"0:gap", "4:x", "5:x"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// A reader that doesn't read is dropped, learns so, and holds nobody up.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	f := newFake("a")
	c, path := serve(t, f)
	n, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	io.WriteString(n, "GET /v1/events HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	f.awaitReader(t, 1)
	long := strings.Repeat("long ", 2000)
	began := time.Now()
	for i := 0; f.reading(); i++ {
		if i > 100000 {
			t.Fatal("the reader is never dropped")
		}
		f.emit(long)
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("the daemon was held up for %v", d)
	}
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.SetReadDeadline(time.Now().Add(5 * time.Second))
	b, err := io.ReadAll(n)
	if err != nil && !bytes.Contains(b, []byte(`"dropped"`)) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if !bytes.Contains(b, []byte(`"event":"dropped"`)) || !bytes.Contains(b, []byte("--since ")) {
		t.Errorf("no note in %d bytes", len(b))
	}
}

func (f *fake) reading() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.live != nil }

func TestTooManyStreams(t *testing.T) {
	t.Parallel()
	f := newFake("a")
	c, path := serve(t, f)
	for range maxStreams {
		n, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer n.Close()
		io.WriteString(n, "GET /v1/events HTTP/1.1\r\nHost: h\r\n\r\n")
		n.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := n.Read(make([]byte, 512)); err != nil {
			t.Fatal(err)
		}
	}
	err := c.Events(t.Context(), nil, func(ctl.Event) error { return nil })
	if code(t, err) != proto.ExitTemp {
		t.Errorf("%v", err)
	}
}
