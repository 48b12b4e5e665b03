package fuse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"hast/hastd/device"
	"hast/hastd/device/devicetest"
)

// testBase has a directory for each test process; what dead ones left is cleaned at the next start.
var testBase = filepath.Join(os.TempDir(), "hast-fuse-test")

func TestMain(m *testing.M) {
	if child, ok := children[os.Getenv("HAST_FUSE_TEST_CHILD")]; ok {
		child()
		return
	}
	if os.Geteuid() == 0 {
		cleanOld()
	}
	code := m.Run()
	os.Remove(filepath.Join(testBase, strconv.Itoa(os.Getpid()))) // empty, if everything was taken down
	os.Remove(testBase)                                           // unless another test process uses it
	os.Exit(code)
}

func cleanOld() {
	runs, _ := filepath.Glob(filepath.Join(testBase, "*"))
	for _, run := range runs {
		if pid, err := strconv.Atoi(filepath.Base(run)); err != nil || unix.Kill(pid, 0) == nil {
			continue
		}
		dirs, _ := filepath.Glob(filepath.Join(run, "*"))
		for _, d := range dirs {
			unmountUsers(d)
			if err := Clean(d); err != nil {
				fmt.Fprintln(os.Stderr, "left by an earlier run:", err)
			}
		}
		os.Remove(run)
	}
}

// unmountUsers takes away the file systems of a dead device.
func unmountUsers(dir string) {
	l, found, err := FindLoop(dir)
	if err != nil || !found {
		return
	}
	Abort(dir) // so that the unmount does not wait for a server
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == l.Path() {
			unix.Unmount(f[1], 0)
		}
	}
}

// needKernel ends the test where FUSE and loop devices can't be had; in CI that is a failure.
func needKernel(t testing.TB) {
	t.Helper()
	var why error
	if os.Geteuid() != 0 {
		why = errors.New("not root")
	} else if _, err := os.Stat("/dev/fuse"); err != nil {
		why = err
	} else if _, err := os.Stat("/dev/loop-control"); err != nil {
		why = err
	}
	if why == nil {
		return
	}
	t.Fatal(why)
}

// mountDir returns a fresh mount point, and arranges that nothing is left of it.
func mountDir(t testing.TB) string {
	t.Helper()
	base := filepath.Join(testBase, strconv.Itoa(os.Getpid()))
	if err := os.MkdirAll(base, 0o700); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(base, "m")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unmountUsers(dir)
		if err := Abort(dir); err != nil {
			t.Error(err)
		}
		if l, found, _ := FindLoop(dir); found {
			if err := l.Detach(); err != nil {
				t.Error(err)
			}
		}
		if err := Unmount(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// serve mounts and runs a server for s; what it returns can be attached.
func serve(t testing.TB, s device.Sink, info device.Info) (dir string, srv *Server) {
	t.Helper()
	needKernel(t)
	dir = mountDir(t)
	f, err := Mount(dir)
	if err != nil {
		t.Fatal(err)
	}
	srv, err = NewServer(f, info, s, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	ready := make(chan Negotiated, 1)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(context.Background(), nil, func(n Negotiated) { ready <- n }) }()
	t.Cleanup(func() {
		if err := Abort(dir); err != nil {
			t.Error(err)
		}
		select {
		case err := <-done:
			if err != nil && !errors.Is(err, ErrGone) {
				t.Error(err)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("the server does not end with its mount")
		}
		srv.Close()
	})
	select {
	case n := <-ready:
		if n.MaxWrite != maxWrite || n.Flags&required != required {
			t.Errorf("negotiated %+v", n)
		}
	case err := <-done:
		t.Fatal(err)
	case <-time.After(5 * time.Second):
		t.Fatal("no INIT")
	}
	return dir, srv
}

// attachTest puts a loop device on dir, and takes it away at the end.
func attachTest(t testing.TB, dir string, info device.Info) Loop {
	t.Helper()
	l, err := Attach(dir, info, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Detach(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// block is a block device as its user sees it, opened for direct I/O.
type block struct{ fd int }

func openBlock(t testing.TB, path string) *block {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := &block{fd}
	t.Cleanup(b.close)
	return b
}

func (b *block) close() {
	if b.fd >= 0 {
		unix.Close(b.fd)
	}
	b.fd = -1
}

// aligned lends f page-aligned memory of n bytes.
func aligned(n int, f func([]byte) error) error {
	m, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err
	}
	defer unix.Munmap(m)
	return f(m)
}

func (b *block) Read(p []byte, off uint64) error {
	return aligned(len(p), func(m []byte) error {
		n, err := unix.Pread(b.fd, m, int64(off))
		if err == nil && n != len(p) {
			return fmt.Errorf("read %d of %d bytes", n, len(p))
		}
		copy(p, m)
		return err
	})
}

func (b *block) Write(p []byte, off uint64, fua bool) error {
	return aligned(len(p), func(m []byte) error {
		copy(m, p)
		flags := 0
		if fua {
			flags = unix.RWF_DSYNC
		}
		n, err := unix.Pwritev2(b.fd, [][]byte{m}, int64(off), flags)
		if err == nil && n != len(p) {
			return fmt.Errorf("wrote %d of %d bytes", n, len(p))
		}
		return err
	})
}

func (b *block) Zero(off, n uint64, keep bool) error {
	if keep {
		return b.ranged(unix.BLKZEROOUT, off, n)
	}
	return unix.Fallocate(b.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(off), int64(n))
}

func (b *block) Trim(off, n uint64) error { return b.ranged(unix.BLKDISCARD, off, n) }

func (b *block) ranged(req uint, off, n uint64) error {
	r := [2]uint64{off, n}
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(b.fd), uintptr(req), uintptr(unsafe.Pointer(&r))); e != 0 {
		return e
	}
	return nil
}

func (b *block) Flush() error { return unix.Fsync(b.fd) }

func TestConformance(t *testing.T) {
	needKernel(t)
	devicetest.Run(t, devicetest.Traits{NoFUA: true, MayBeEIO: true}, func(t *testing.T, s *devicetest.Sink) devicetest.Device {
		dir, _ := serve(t, s, s.Info())
		return openBlock(t, attachTest(t, dir, s.Info()).Path())
	})
}

// TestClean: everything is gone but the kernel's side; a fresh start finds and removes it.
func TestClean(t *testing.T) {
	needKernel(t)
	for _, aborted := range []bool{false, true} {
		s := newSurvivor(t, 0)
		s.start()
		l, err := Attach(s.dir, device.Info{Name: "test", Size: killSize, Logical: 4096}, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		s.kill()
		s.holder.kill()
		if dirs, err := Leftovers(testBase); err != nil || !slices.Contains(dirs, s.dir) {
			t.Errorf("leftovers %q %v", dirs, err)
		}
		if aborted { // an earlier attempt got only so far
			if err := Abort(s.dir); err != nil {
				t.Fatal(err)
			}
		}
		if found, ok, err := FindLoop(s.dir); err != nil || !ok || found != l {
			t.Errorf("found %+v %v %v", found, ok, err)
		}
		fd, err := unix.Open(l.Path(), unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := Clean(s.dir); !errors.Is(err, ErrInUse) {
			t.Errorf("clean while in use: %v", err)
		}
		unix.Close(fd)
		if err := Clean(s.dir); err != nil {
			t.Error(err)
		}
		if _, ok, err := FindLoop(s.dir); ok || err != nil {
			t.Errorf("the loop device stays: %v", err)
		}
		if _, err := os.Lstat(s.dir); !os.IsNotExist(err) {
			t.Errorf("the directory stays: %v", err)
		}
		if err := Clean(s.dir); err != nil {
			t.Errorf("clean again: %v", err)
		}
	}
}

// TestLeftByAnother: a dead device whose daemon was killed with its run directory looks, by the kernel's account, like one of our path
// whose mount is gone. Ours is found beside it, and neither is taken for the other.
func TestLeftByAnother(t *testing.T) {
	needKernel(t)
	s := devicetest.New(t, devicetest.Options{Size: 1 << 20})
	dir, _ := serve(t, s, s.Info())
	dead, err := Attach(dir, s.Info(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dead.Detach(); err != nil {
			t.Error(err)
		}
	})
	if err := Abort(dir); err != nil {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(idFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(idFile(dir)); err != nil {
		t.Fatal(err)
	}
	if l, found, err := FindLoop(dir); found || err != nil {
		t.Errorf("another's device %+v passes for ours: %v", l, err)
	}
	f, err := Mount(dir)
	if err != nil {
		t.Fatal(err)
	}
	srv, err := NewServer(f, s.Info(), s, nil)
	f.Close()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(context.Background(), nil, func(Negotiated) {}) }()
	l, err := Attach(dir, s.Info(), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if l.File != dead.File || l.Number == dead.Number {
		t.Fatalf("%+v beside %+v", l, dead)
	}
	if got, found, err := FindLoop(dir); got != l || !found || err != nil {
		t.Errorf("found %+v %v %v, want %+v", got, found, err, l)
	}
	// The other one's daemon knows its own, and leaves ours alone.
	if err := dead.Detach(); err != nil {
		t.Error(err)
	}
	if ours, err := l.attached(); !ours || err != nil {
		t.Errorf("ours went with the other's: %v", err)
	}
	if err := l.Detach(); err != nil {
		t.Error(err)
	}
	if err := Unmount(dir); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil && !errors.Is(err, ErrGone) {
		t.Error(err)
	}
	srv.Close()
	if _, err := os.Lstat(idFile(dir)); !os.IsNotExist(err) {
		t.Errorf("the id stays: %v", err)
	}
	if len(kept) < 20 {
		t.Errorf("an id of %d characters", len(kept))
	}
}

// TestLeftByAnEarlierVersion: a device of a version that drew no ids is found by what it was named after.
func TestLeftByAnEarlierVersion(t *testing.T) {
	needKernel(t)
	s := devicetest.New(t, devicetest.Options{Size: 1 << 20})
	dir, _ := serve(t, s, s.Info())
	l := attachTest(t, dir, s.Info())
	old := Loop{Number: l.Number, File: l.File}
	d, err := os.OpenFile(l.Path(), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	rename := func(to [64]byte) {
		t.Helper()
		st, err := unix.IoctlLoopGetStatus64(int(d.Fd()))
		if err == nil {
			st.File_name = to
			err = unix.IoctlLoopSetStatus64(int(d.Fd()), st)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ns, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	var name [64]byte
	copy(name[:63], strings.TrimSuffix(strings.TrimPrefix(ns, "mnt:["), "]")+":"+l.File)
	rename(name)
	if err := os.Rename(idFile(dir), idFile(dir)+".away"); err != nil {
		t.Fatal(err)
	}
	if got, found, err := FindLoop(dir); got != old || !found || err != nil {
		t.Errorf("found %+v %v %v, want %+v", got, found, err, old)
	}
	rename(l.label())
	d.Close()
	if err := os.Rename(idFile(dir)+".away", idFile(dir)); err != nil {
		t.Fatal(err)
	}
}

// TestRelease: a device that is aborted while in use fails its user's requests, and goes when the user does.
func TestRelease(t *testing.T) {
	needKernel(t)
	s := devicetest.New(t, devicetest.Options{Size: 1 << 20})
	dir, _ := serve(t, s, s.Info())
	l := attachTest(t, dir, s.Info())
	b := openBlock(t, l.Path())
	if err := Abort(dir); err != nil {
		t.Fatal(err)
	}
	if err := l.Release(); err != nil {
		t.Fatal(err)
	}
	if err := b.Read(make([]byte, 4096), 0); !errors.Is(err, unix.EIO) {
		t.Errorf("read of an aborted device: %v", err)
	}
	if _, ok, _ := FindLoop(dir); !ok {
		t.Error("the device went while in use")
	}
	b.close()
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, ok, _ := FindLoop(dir); !ok {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the device stays")
		}
	}
}

// TestAttachGivesUp: without a server there is an error in time, and nothing stays.
func TestAttachGivesUp(t *testing.T) {
	needKernel(t)
	dir := mountDir(t)
	f, err := Mount(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	began := time.Now()
	if _, err := Attach(dir, device.Info{Name: "test", Size: 1 << 20, Logical: 4096}, 200*time.Millisecond); err == nil {
		t.Error("attached to nothing")
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestPublish(t *testing.T) {
	dev := filepath.Join(t.TempDir(), "hast")
	for _, n := range []int{3, 4} { // the second replaces the first
		p, err := Publish(dev, "data", Loop{Number: n})
		if err != nil {
			t.Fatal(err)
		}
		if to, _ := os.Readlink(p); to != fmt.Sprintf("/dev/loop%d", n) {
			t.Fatalf("%s leads to %s", p, to)
		}
	}
	if err := Unpublish(dev, "data"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dev); !os.IsNotExist(err) {
		t.Fatal("the empty directory stays")
	}
	os.Mkdir(dev, 0o755)
	os.WriteFile(filepath.Join(dev, "data"), nil, 0o600)
	if _, err := Publish(dev, "data", Loop{}); err == nil {
		t.Fatal("replaced a file")
	}
	if err := Unpublish(dev, "data"); err == nil {
		t.Fatal("removed a file")
	}
}
