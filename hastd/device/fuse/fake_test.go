package fuse

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hast/hastd/device"
	"hast/hastd/device/devicetest"
	"hast/proto"
)

// kernel plays the other side of /dev/fuse over a socket that keeps messages apart.
type kernel struct {
	t   testing.TB
	fd  int
	buf []byte
	srv *Server
	end chan error
}

// fake runs a server for s against a kernel that the test plays.
func fake(t testing.TB, s *devicetest.Sink, prior *Negotiated, ready func(Negotiated)) *kernel {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds { // room for a large message; without the privilege those tests use less
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4<<20)
	}
	unix.SetsockoptTimeval(fds[0], unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	f := os.NewFile(uintptr(fds[1]), "fake")
	srv, err := NewServer(f, s.Info(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	k := &kernel{t: t, fd: fds[0], buf: make([]byte, 2<<20), srv: srv, end: make(chan error, 1)}
	go func() { k.end <- srv.Serve(context.Background(), prior, ready) }()
	t.Cleanup(k.close)
	if got := k.receive(); hex.EncodeToString(got) != "10000000070000000000000000000000" {
		t.Fatalf("a server begins with %x, want a request to resend", got)
	}
	return k
}

func (k *kernel) close() {
	if k.fd < 0 {
		return
	}
	k.srv.Stop()
	select {
	case <-k.end:
	case <-time.After(5 * time.Second):
		k.t.Fatal("the server does not stop")
	}
	k.srv.Close()
	unix.Close(k.fd)
	k.fd = -1
}

func (k *kernel) send(b []byte) {
	if _, err := unix.Write(k.fd, b); err != nil {
		k.t.Fatal(err)
	}
}

func (k *kernel) receive() []byte {
	n, err := unix.Read(k.fd, k.buf)
	if err != nil {
		k.t.Fatalf("no answer: %v", err)
	}
	return k.buf[:n]
}

// ask sends a request and returns the answer's error and body.
func (k *kernel) ask(op uint32, node uint64, body []byte) (errno int32, out []byte) {
	k.t.Helper()
	const unique = 1<<63 | 42 // as a request that is sent again
	k.send(message(op, unique, node, body))
	b := k.receive()
	if len(b) < outHeaderSize || int(order.Uint32(b)) != len(b) || order.Uint64(b[8:]) != unique {
		k.t.Fatalf("malformed answer %x", b)
	}
	return int32(order.Uint32(b[4:])), b[outHeaderSize:]
}

func message(op uint32, unique, node uint64, body []byte) []byte {
	b := make([]byte, inHeaderSize, inHeaderSize+len(body))
	order.PutUint32(b, uint32(inHeaderSize+len(body)))
	order.PutUint32(b[4:], op)
	order.PutUint64(b[8:], unique)
	order.PutUint64(b[16:], node)
	return append(b, body...)
}

func ioBody(off uint64, n uint32) []byte {
	b := make([]byte, writeInSize)
	order.PutUint64(b[8:], off)
	order.PutUint32(b[16:], n)
	return b
}

func initBody(major, minor uint32, flags uint64) []byte {
	b := make([]byte, 64)
	order.PutUint32(b, major)
	order.PutUint32(b[4:], minor)
	order.PutUint32(b[8:], 131072)
	order.PutUint32(b[12:], uint32(flags))
	order.PutUint32(b[16:], uint32(flags>>32))
	return b
}

func TestInit(t *testing.T) {
	told := make(chan Negotiated, 1)
	s := devicetest.New(t, devicetest.Options{Size: 1 << 20})
	k := fake(t, s, nil, func(n Negotiated) { told <- n })
	e, out := k.ask(opInit, 0, initBody(8, 0, 0)) // a later major version: ours is offered, INIT comes again
	if e != 0 || order.Uint32(out) != 7 {
		t.Fatalf("%d %x", e, out)
	}
	e, out = k.ask(opInit, 0, initBody(7, 45, ^uint64(0)))
	// major, minor, readahead, flags, background and threshold, write, granularity, pages, flags2
	want := "07000000" + "24000000" + "00000200" + "21804040" + "0001c000" + "00001000" + "01000000" + "00010000" + "80000000"
	if got := hex.EncodeToString(out); e != 0 || got != want+strings.Repeat("00", 64-36) {
		t.Errorf("error %d\n%s, want\n%s", e, got, want)
	}
	if n := <-told; n.Minor != 36 || !n.CanResend() || n.MaxWrite != 1<<20 {
		t.Errorf("negotiated %+v", n)
	}
}

func TestInitRefused(t *testing.T) {
	for name, body := range map[string][]byte{
		"old": initBody(7, 23, ^uint64(0)), "no direct I/O": initBody(7, 40, initBigWrites), "version 6": initBody(6, 0, 0), "short": {7, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := devicetest.New(t, devicetest.Options{Size: 1 << 20})
			k := fake(t, s, nil, nil)
			if e, _ := k.ask(opInit, 0, body); e == 0 {
				t.Error("accepted")
			}
			if err := <-k.end; err == nil {
				t.Error("goes on")
			} else {
				k.end <- err
			}
		})
	}
}

func TestFiles(t *testing.T) {
	s := devicetest.New(t, devicetest.Options{Size: 1 << 20})
	k := fake(t, s, &Negotiated{}, nil)
	for _, tc := range []struct {
		name  string
		op    uint32
		node  uint64
		body  string
		errno unix.Errno
		size  int
	}{
		{"lookup", opLookup, rootNode, "disk\x00", 0, entryOutSize},
		{"lookup another", opLookup, rootNode, "other\x00", unix.ENOENT, 0},
		{"lookup a long name", opLookup, rootNode, strings.Repeat("x", 255) + "\x00", unix.ENOENT, 0},
		{"lookup without end", opLookup, rootNode, "disk", unix.ENOENT, 0},
		{"lookup in the file", opLookup, diskNode, "disk\x00", unix.ENOENT, 0},
		{"getattr", opGetattr, rootNode, "", 0, attrOutSize},
		{"getattr of the file", opGetattr, diskNode, "", 0, attrOutSize},
		{"getattr of nothing", opGetattr, 77, "", unix.ENOENT, 0},
		{"setattr", opSetattr, diskNode, strings.Repeat("x", 88), unix.EPERM, 0},
		{"open", opOpen, diskNode, strings.Repeat("\x00", 8), 0, openOutSize},
		{"open the directory", opOpen, rootNode, strings.Repeat("\x00", 8), unix.EPERM, 0},
		{"statfs", opStatfs, rootNode, "", 0, statfsOutSize},
		{"release", opRelease, diskNode, strings.Repeat("x", 24), 0, 0},
		{"ioctl", 39, diskNode, strings.Repeat("x", 32), unix.ENOSYS, 0},
		{"unknown", 4711, diskNode, strings.Repeat("x", 5000), unix.ENOSYS, 0},
		{"fsync", opFsync, diskNode, strings.Repeat("x", 16), 0, 0},
		{"read the directory", opRead, rootNode, string(ioBody(0, 4096)), unix.EINVAL, 0},
		{"read", opRead, diskNode, string(ioBody(4096, 8192)), 0, 8192},
		{"read up to the end", opRead, diskNode, string(ioBody(1<<20-4096, 8192)), 0, 4096},
		{"read past the end", opRead, diskNode, string(ioBody(1<<20, 8192)), 0, 0},
		{"read far past the end", opRead, diskNode, string(ioBody(1<<64-4096, 8192)), 0, 0},
		{"read unaligned", opRead, diskNode, string(ioBody(1, 4096)), unix.EINVAL, 0},
		{"read too much", opRead, diskNode, string(ioBody(0, 2<<20)), unix.EINVAL, 0},
		{"read, cut", opRead, diskNode, "xxxx", unix.EINVAL, 0},
		{"write", opWrite, diskNode, string(ioBody(0, 4096)) + strings.Repeat("x", 4096), 0, 8},
		{"write, cut", opWrite, diskNode, string(ioBody(0, 8192)) + strings.Repeat("x", 4096), unix.EINVAL, 0},
		{"write nothing", opWrite, diskNode, string(ioBody(0, 0)), unix.EINVAL, 0},
		{"write past the end", opWrite, diskNode, string(ioBody(1<<20, 4096)) + strings.Repeat("x", 4096), unix.ENOSPC, 0},
		{"write across the end", opWrite, diskNode, string(ioBody(1<<20-4096, 8192)) + strings.Repeat("x", 8192), unix.ENOSPC, 0},
		{"write far past the end", opWrite, diskNode, string(ioBody(1<<64-4096, 4096)) + strings.Repeat("x", 4096), unix.ENOSPC, 0},
		{"allocate", opFallocate, diskNode, fallocBody(0, 4096, 0), unix.EOPNOTSUPP, 0},
		{"punch", opFallocate, diskNode, fallocBody(0, 4096, 3), 0, 0},
		{"zero to the end of the world", opFallocate, diskNode, fallocBody(4096, 1<<63-4096, 0x11), 0, 0},
		{"punch, cut", opFallocate, diskNode, "x", unix.EINVAL, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			e, out := k.ask(tc.op, tc.node, []byte(tc.body))
			if e != -int32(tc.errno) || len(out) != tc.size {
				t.Errorf("error %d, %d bytes; want %d and %d", e, len(out), -int32(tc.errno), tc.size)
			}
		})
	}
	if s.Outstanding() != 1 { // the buffer for the next payload
		t.Errorf("%d requests outstanding", s.Outstanding())
	}
}

func fallocBody(off, n uint64, mode uint32) string {
	b := make([]byte, 32)
	order.PutUint64(b[8:], off)
	order.PutUint64(b[16:], n)
	order.PutUint32(b[24:], mode)
	return string(b)
}

// TestUnanswered: requests that end because the engine shuts down are left for the successor.
func TestUnanswered(t *testing.T) {
	s := devicetest.New(t, devicetest.Options{Size: 1 << 20})
	s.SetFail(func(r *device.Request) proto.Errno {
		if r.Op == proto.OpRead {
			return proto.ESHUTDOWN
		}
		return proto.OK
	})
	k := fake(t, s, &Negotiated{}, nil)
	k.send(message(opRead, 5, diskNode, ioBody(0, 4096)))
	k.send(message(opFsync, 6, diskNode, make([]byte, 16)))
	if b := k.receive(); order.Uint64(b[8:]) != 6 {
		t.Errorf("answered %x", b)
	}
}

// TestSinkCloses: the server ends, and leaves the request that it could not serve.
func TestSinkCloses(t *testing.T) {
	s := devicetest.New(t, devicetest.Options{Size: 1 << 20, Entries: 2})
	k := fake(t, s, &Negotiated{}, nil)
	if e, _ := k.ask(opFsync, diskNode, make([]byte, 16)); e != 0 {
		t.Fatal(e)
	}
	s.Close()
	k.send(message(opFsync, 7, diskNode, make([]byte, 16)))
	if err := <-k.end; err != nil {
		t.Error(err)
	}
	k.end <- nil
}

// TestReadyLate: a successor that was told nothing and gets no INIT serves nevertheless.
func TestReadyLate(t *testing.T) {
	s := devicetest.New(t, devicetest.Options{Size: 1 << 20})
	told := make(chan Negotiated, 2)
	k := fake(t, s, nil, func(n Negotiated) { told <- n })
	if e, _ := k.ask(opGetattr, rootNode, nil); e != 0 {
		t.Fatal(e)
	}
	k.ask(opGetattr, rootNode, nil)
	k.close()
	if len(told) != 1 || !(<-told != Negotiated{}) {
		t.Error("ready was not told once")
	}
}

func TestNoAllocation(t *testing.T) {
	for name, m := range map[string][]byte{
		"write 4k":   message(opWrite, 3, diskNode, append(ioBody(0, 4096), make([]byte, 4096)...)),
		"write 128k": message(opWrite, 3, diskNode, append(ioBody(0, 128<<10), make([]byte, 128<<10)...)),
		"read 4k":    message(opRead, 3, diskNode, ioBody(0, 4096)),
		"fsync":      message(opFsync, 3, diskNode, make([]byte, 16)),
		"punch":      message(opFallocate, 3, diskNode, []byte(fallocBody(0, 1<<30, 3))),
		"getattr":    message(opGetattr, 3, diskNode, nil),
	} {
		t.Run(name, func(t *testing.T) {
			s := devicetest.New(t, devicetest.Options{Size: 1 << 28})
			k := fake(t, s, &Negotiated{}, nil)
			turn := func() { k.send(m); k.receive() }
			turn()
			if n := testing.AllocsPerRun(20, turn); n >= 1 {
				t.Errorf("%v allocations", n)
			}
		})
	}
}

// FuzzRequest feeds a server with two messages that no kernel would send.
func FuzzRequest(f *testing.F) {
	f.Add(message(opInit, 1, 0, initBody(7, 40, ^uint64(0))), message(opLookup, 2, rootNode, []byte("disk\x00")))
	f.Add(message(opWrite, 1, diskNode, append(ioBody(0, 8), make([]byte, 8)...)), message(opRead, 2, diskNode, ioBody(0, 4096)))
	f.Add(message(opFallocate, 1, diskNode, []byte(fallocBody(0, 1<<40, 3))), message(opBatchForget, 2, rootNode, nil))
	s := devicetest.New(f, devicetest.Options{Size: 1 << 20, Entries: 8})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		k := fake(t, s, nil, nil)
		for _, m := range [][]byte{a, b} {
			unix.SendmsgN(k.fd, m, nil, nil, unix.MSG_DONTWAIT)
		}
		unix.Shutdown(k.fd, unix.SHUT_WR)
		err := <-k.end // reads nothing in the end, which is no request
		k.end <- err
		if err == nil || errors.Is(err, ErrGone) {
			t.Errorf("ended with %v", err)
		}
		if n := s.Outstanding(); n != 0 {
			t.Errorf("%d requests outstanding", n)
		}
		k.close()
	})
}

func FuzzMountinfo(f *testing.F) {
	f.Add(`36 35 0:33 / /run/hast/a\040b rw,nosuid - fuse.hast hast rw,user_id=0`)
	f.Add(`22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw`)
	f.Fuzz(func(t *testing.T, line string) {
		if dir, ours := parseMount(line); ours && dir == "" {
			t.Error("ours, and nowhere")
		}
	})
}

func TestParseMount(t *testing.T) {
	dir, ours := parseMount(`36 35 0:33 / /run/hast/a\040b\134 rw,nosuid shared:5 - fuse.hast hast rw,user_id=0`)
	if dir != `/run/hast/a b\` || !ours {
		t.Errorf("%q %v", dir, ours)
	}
	if _, ours := parseMount(`36 35 0:33 / /mnt rw - fuse.sshfs x rw`); ours {
		t.Error("took another's mount")
	}
}

func TestUnescapeKeeps(t *testing.T) {
	for _, s := range []string{"", `\`, `\04`, `\9zz`, "/plain"} {
		if got := unescape(s); got != s {
			t.Errorf("%q became %q", s, got)
		}
	}
	if !bytes.Equal([]byte(unescape(`\011`)), []byte{9}) {
		t.Error("tab")
	}
}
