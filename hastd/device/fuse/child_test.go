package fuse

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hast/hastd/device"
	"hast/hastd/device/devicetest"
	"hast/hastd/hold"
)

// children are what this test binary can be started as.
var children = map[string]func(){"hold": childHold, "server": childServer}

const (
	envHold = "HAST_FUSE_TEST_HOLD" // the holder's socket
	envData = "HAST_FUSE_TEST_DATA" // the file with the device's data
	envSlow = "HAST_FUSE_TEST_SLOW" // the longest delay of a request
	// killSize is the size of the device that is served by killed children.
	killSize = 128 << 20
)

func childHold() {
	if err := hold.Main(hold.Config{Path: os.Getenv(envHold)}); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// childServer serves what the holder has, and tells it what it negotiated. It says so on its standard output.
func childServer() {
	if err := runServer(); err != nil && !errors.Is(err, ErrGone) {
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
}

func runServer() error {
	c := &hold.Client{Path: os.Getenv(envHold)}
	blob, files, err := c.Get("disk")
	if err != nil {
		return err
	}
	var prior *Negotiated
	if err := json.Unmarshal(blob, &prior); err != nil {
		return err
	}
	data, err := os.OpenFile(os.Getenv(envData), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	sink, err := devicetest.Make(devicetest.Options{Size: killSize, Workers: 4, File: data})
	if err != nil {
		return err
	}
	if slow, _ := time.ParseDuration(os.Getenv(envSlow)); slow > 0 {
		sink.SetDelay(func(*device.Request) time.Duration { return rand.N(slow) })
	}
	srv, err := NewServer(files[0], sink.Info(), sink, nil)
	if err != nil {
		return err
	}
	return srv.Serve(context.Background(), prior, func(n Negotiated) {
		blob, _ := json.Marshal(n)
		if err := c.Put("disk", blob, files[0]); err != nil {
			fmt.Fprintln(os.Stderr, "server:", err)
		}
		fmt.Println("ready")
	})
}

// process is a child of this test.
type process struct {
	cmd  *exec.Cmd
	out  *bufio.Reader
	done chan struct{}
}

func spawn(t *testing.T, kind string, env ...string) *process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), "HAST_FUSE_TEST_CHILD="+kind), env...)
	cmd.Stderr = os.Stderr
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	cmd.Stdout = w
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	p := &process{cmd: cmd, out: bufio.NewReader(r), done: make(chan struct{})}
	go func() { cmd.Wait(); close(p.done) }()
	return p
}

func (p *process) kill() { p.cmd.Process.Kill(); <-p.done }

// awaitReady returns when a server has said that it serves.
func (p *process) awaitReady(t *testing.T) {
	t.Helper()
	line := make(chan string, 1)
	go func() { l, _ := p.out.ReadString('\n'); line <- l }()
	select {
	case l := <-line:
		if l != "ready\n" {
			t.Fatalf("server said %q", l)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("server is not ready")
	}
}

// survivor is a device whose server may be killed.
type survivor struct {
	t    *testing.T
	dir  string
	env  []string
	now  *process
	loop Loop

	holder *process
}

// newSurvivor has a holder process with a mount's descriptor; nothing serves it yet.
func newSurvivor(t *testing.T, slow time.Duration) *survivor {
	needKernel(t)
	s := &survivor{t: t, dir: mountDir(t)}
	sock := filepath.Join(t.TempDir(), "hold")
	s.env = []string{envHold + "=" + sock, envData + "=" + filepath.Join(t.TempDir(), "data"), envSlow + "=" + slow.String()}
	s.holder = spawn(t, "hold", s.env...)
	t.Cleanup(s.holder.kill)
	f, err := Mount(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := &hold.Client{Path: sock}
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if err = c.Put("disk", json.RawMessage("null"), f); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if s.now != nil {
			s.now.kill()
		}
	})
	return s
}

// start starts a server, the first or a successor.
func (s *survivor) start() {
	s.now = spawn(s.t, "server", s.env...)
	s.now.awaitReady(s.t)
}

func (s *survivor) kill() { s.now.kill(); s.now = nil }

// run runs a command that has to succeed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestKilled: a file system in use outlives its servers.
func TestKilled(t *testing.T) {
	needKernel(t)
	s := newSurvivor(t, 2*time.Millisecond)
	s.start()
	info := device.Info{Name: "test", Size: killSize, Logical: 4096}
	s.loop = attachTest(t, s.dir, info)
	run(t, "mkfs.ext4", "-q", s.loop.Path())
	mnt := t.TempDir()
	run(t, "mount", "-o", "discard", s.loop.Path(), mnt)
	mounted := true
	t.Cleanup(func() {
		if mounted {
			if s.now == nil {
				s.start() // or the unmount would wait for ever
			}
			unix.Unmount(mnt, 0)
		}
	})
	if err := s.loop.Detach(); !errors.Is(err, ErrInUse) {
		t.Errorf("detach of a mounted device: %v", err)
	}
	fio := exec.Command("fio", "--name=v", "--filename="+mnt+"/f", "--size=24m", "--rw=randwrite", "--bs=4k", "--ioengine=libaio",
		"--iodepth=16", "--direct=1", "--fsync=64", "--verify=crc32c", "--verify_fatal=1", "--output-format=terse")
	var out strings.Builder
	fio.Stdout, fio.Stderr = &out, &out
	if err := fio.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- fio.Wait() }()
	kills := 0
	for running := true; running; {
		select {
		case err := <-ended:
			running = false
			if err != nil {
				t.Errorf("fio: %v\n%s", err, out.String())
			}
		case <-time.After(time.Duration(150+rand.IntN(200)) * time.Millisecond):
			s.kill()
			if kills++; kills%3 == 0 { // a successor that dies at once, having read some requests
				s.start()
				time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
				s.kill()
			}
			s.start()
		}
		if kills > 200 {
			fio.Process.Kill()
			<-ended // or the file system would stay busy
			t.Fatal("fio does not come to an end")
		}
	}
	t.Logf("%d servers killed", kills)
	if kills < 3 {
		t.Error("too few to prove anything")
	}
	run(t, "umount", mnt)
	mounted = false
	run(t, "fsck.ext4", "-fn", s.loop.Path())
	if err := s.loop.Detach(); err != nil {
		t.Error(err)
	}
}

// TestKilledEarly: the server dies before, or just after, the handshake with the kernel; the successor does not know which.
func TestKilledEarly(t *testing.T) {
	needKernel(t)
	for i := range 6 {
		s := newSurvivor(t, 0)
		p := spawn(t, "server", s.env...)
		time.Sleep(time.Duration(i*3) * time.Millisecond)
		p.kill()
		s.env = append(s.env, "ROUND="+fmt.Sprint(i))
		blobLost := i%2 == 1
		if blobLost { // as if the predecessor had died before it could tell
			c := &hold.Client{Path: strings.TrimPrefix(s.env[0], envHold+"=")}
			_, files, err := c.Get("disk")
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Put("disk", json.RawMessage("null"), files[0]); err != nil {
				t.Fatal(err)
			}
			files[0].Close()
		}
		s.now = spawn(t, "server", s.env...) // may become ready only when the first request comes
		l := attachTest(t, s.dir, device.Info{Name: "test", Size: killSize, Logical: 4096})
		b := openBlock(t, l.Path())
		if err := b.Write(make([]byte, 4096), 0, true); err != nil {
			t.Error(err)
		}
		b.close()
		if err := l.Detach(); err != nil {
			t.Error(err)
		}
	}
}

// TestStopped: a server that is told to stop answers what it has and leaves the rest.
func TestStopped(t *testing.T) {
	needKernel(t)
	sink := devicetest.New(t, devicetest.Options{Size: 64 << 20, Workers: 2})
	dir := mountDir(t)
	f, err := Mount(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var neg *Negotiated
	serveOnce := func() (*Server, chan error) {
		srv, err := NewServer(f, sink.Info(), sink, nil)
		if err != nil {
			t.Fatal(err)
		}
		ready, done := make(chan Negotiated, 1), make(chan error, 1)
		go func() { done <- srv.Serve(context.Background(), neg, func(n Negotiated) { ready <- n }) }()
		n := <-ready
		neg = &n
		return srv, done
	}
	srv, done := serveOnce()
	l := attachTest(t, dir, sink.Info())
	b := openBlock(t, l.Path())
	stopAll := make(chan struct{})
	failed := make(chan error, 1)
	go func() {
		defer close(failed)
		p := make([]byte, 8192)
		for i := uint64(0); ; i++ {
			select {
			case <-stopAll:
				return
			default:
			}
			if err := b.Write(p, i%1000*8192, false); err != nil {
				failed <- err
				return
			}
		}
	}()
	for range 10 {
		time.Sleep(10 * time.Millisecond)
		srv.Stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		srv.Close()
		if n := sink.Outstanding(); n != 0 {
			t.Fatalf("%d requests outstanding after a stop", n)
		}
		srv, done = serveOnce()
	}
	close(stopAll)
	if err := <-failed; err != nil {
		t.Error(err)
	}
	b.close()
	if err := l.Detach(); err != nil {
		t.Error(err)
	}
	if err := Unmount(dir); err != nil {
		t.Error(err)
	}
	f.Close()
	if err := <-done; !errors.Is(err, ErrGone) {
		t.Errorf("after the unmount: %v", err)
	}
	srv.Close()
}
