package nbdserver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hast/hastd/device"
	"hast/hastd/device/devicetest"
	"hast/proto"
)

const small = 64 << 20

// raw dials without a handshake.
func raw(t testing.TB, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(5 * time.Second))
	return c
}

func greeted(t testing.TB, path string, flags uint32) net.Conn {
	t.Helper()
	c := raw(t, path)
	if _, err := io.ReadFull(c, make([]byte, 18)); err != nil {
		t.Fatal(err)
	}
	c.Write(binary.BigEndian.AppendUint32(nil, flags))
	return c
}

// closed reports whether the server hangs up, whatever it says before.
func closed(t testing.TB, c net.Conn) {
	t.Helper()
	if _, err := io.Copy(io.Discard, c); err != nil && !isReset(err) {
		t.Errorf("the server did not hang up: %v", err)
	}
}

func isReset(err error) bool {
	var e syscall.Errno
	return err != nil && asErrno(err, &e) && (e == syscall.ECONNRESET || e == syscall.EPIPE)
}

func asErrno(err error, e *syscall.Errno) bool {
	op, ok := err.(*net.OpError)
	if !ok {
		return false
	}
	sys, ok := op.Err.(*os.SyscallError)
	if ok {
		*e, ok = sys.Err.(syscall.Errno)
	}
	return ok
}

func TestHandshake(t *testing.T) {
	s := devicetest.New(t, devicetest.Options{Size: small})
	path, _ := start(t, s)
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("socket %v %v", st.Mode(), err)
	}
	t.Run("options", func(t *testing.T) {
		c := greeted(t, path, flagFixedNewstyle|flagNoZeroes)
		for _, tc := range []struct {
			opt  uint32
			data []byte
			want []uint32
		}{
			{8, nil, []uint32{repErrUnsup}},  // structured replies
			{5, nil, []uint32{repErrUnsup}},  // TLS
			{10, nil, []uint32{repErrUnsup}}, // meta contexts
			{4711, []byte("x"), []uint32{repErrUnsup}},
			{optList, nil, []uint32{repServer, repAck}},
			{optList, []byte("x"), []uint32{repErrInvalid}},
			{optInfo, infoBytes("nobody"), []uint32{repErrUnknown}},
			{optInfo, []byte{0}, []uint32{repErrInvalid}},
			{optInfo, []byte{0xff, 0xff, 0xff, 0xff, 0, 0}, []uint32{repErrInvalid}},
			{optInfo, infoBytes("test")[:9], []uint32{repErrInvalid}},
			{optInfo, infoBytes("test"), []uint32{repInfo, repAck}},
			{optInfo, infoBytes("", infoBlockSize), []uint32{repInfo, repInfo, repAck}},
			{optGo, infoBytes("nobody"), []uint32{repErrUnknown}},
			{optGo, infoBytes("test", infoExport, infoBlockSize), []uint32{repInfo, repInfo, repAck}},
		} {
			c.Write(optionBytes(tc.opt, tc.data))
			for _, want := range tc.want {
				if got, _, err := readReply(c); err != nil || got != want {
					t.Fatalf("option %d: reply %#x %v, want %#x", tc.opt, got, err, want)
				}
			}
		}
		c.Write(requestBytes(0, cmdFlush, 5, 0, 0))
		b := make([]byte, replySize)
		if _, err := io.ReadFull(c, b); err != nil || !bytes.Equal(b, []byte{0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5}) {
			t.Fatalf("%x %v", b, err)
		}
	})
	t.Run("export name", func(t *testing.T) {
		for _, tc := range []struct {
			flags uint32
			n     int
		}{{flagFixedNewstyle, 10 + exportZeroes}, {flagFixedNewstyle | flagNoZeroes, 10}} {
			c := greeted(t, path, tc.flags)
			c.Write(append(optionBytes(optExportName, []byte("test")), requestBytes(0, cmdDisc, 0, 0, 0)...))
			b, err := io.ReadAll(c)
			if err != nil || len(b) != tc.n || binary.BigEndian.Uint64(b) != small || binary.BigEndian.Uint16(b[8:]) != transmission {
				t.Errorf("%x %v", b, err)
			}
		}
	})
	for name, b := range map[string][]byte{
		"unknown flags":  {0xff, 0xff, 0xff, 0xff},
		"oldstyle":       {0, 0, 0, 0},
		"bad magic":      append([]byte{0, 0, 0, 3}, bytes.Repeat([]byte{7}, 16)...),
		"long option":    append([]byte{0, 0, 0, 3}, optionBytes(optInfo, make([]byte, maxOption+1))...),
		"unknown export": append([]byte{0, 0, 0, 3}, optionBytes(optExportName, []byte("nobody"))...),
		"abort":          append([]byte{0, 0, 0, 3}, optionBytes(optAbort, nil)...),
		"no end":         append([]byte{0, 0, 0, 3}, bytes.Repeat(optionBytes(optList, nil), maxOptions+1)...),
	} {
		t.Run(name, func(t *testing.T) {
			c := raw(t, path)
			c.Write(b)
			closed(t, c)
		})
	}
}

func TestBadRequests(t *testing.T) {
	s := devicetest.New(t, devicetest.Options{Size: small, Workers: 1})
	path, _ := start(t, s)
	c := dial(t, path)
	p := make([]byte, 4096)
	for _, tc := range []struct {
		name       string
		flags, cmd uint16
		off        uint64
		n          uint32
		want       proto.Errno
	}{
		{"unaligned offset", 0, cmdRead, 1, 4096, proto.EINVAL},
		{"unaligned length", 0, cmdRead, 0, 100, proto.EINVAL},
		{"unaligned write", 0, cmdWrite, 512, 4096, proto.EINVAL},
		{"read past the end", 0, cmdRead, small, 4096, proto.EINVAL},
		{"write past the end", 0, cmdWrite, small, 4096, proto.ENOSPC},
		{"offset overflows", 0, cmdTrim, 1<<64 - 4096, 8192, proto.EINVAL},
		{"zeroes past the end", 0, cmdWriteZeroes, small - 4096, 8192, proto.ENOSPC},
		{"unknown command", 0, 77, 0, 0, proto.EINVAL},
		{"unknown flag", 1 << 7, cmdWrite, 0, 4096, proto.EINVAL},
		{"fast zero", 1 << 4, cmdWriteZeroes, 0, 4096, proto.EINVAL},
		{"read too long", 0, cmdRead, 0, MaxPayload + 4096, proto.EOVERFLOW},
		{"nothing", 0, cmdRead, 4096, 0, proto.OK},
		{"write nothing", 0, cmdWrite, 4096, 0, proto.OK},
		{"trim nothing", cmdFlagFUA, cmdTrim, small, 0, proto.OK},
		{"read with FUA", cmdFlagFUA, cmdRead, 0, 4096, proto.OK},
	} {
		var out, in []byte
		if tc.cmd == cmdWrite {
			out = p[:tc.n]
		} else if tc.cmd == cmdRead && tc.want == proto.OK {
			in = p[:tc.n]
		}
		err := c.call(tc.flags, tc.cmd, tc.off, tc.n, out, in)
		if got, _ := err.(proto.Errno); got != tc.want || err != nil && got == 0 {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
		if err := c.Read(p, 0); err != nil {
			t.Fatalf("after %s: %v", tc.name, err)
		}
	}
	other := dial(t, path)
	c.c.Write(bytes.Repeat([]byte("garbage"), 10))
	if err := c.Read(p, 0); err == nil {
		t.Error("survived garbage")
	}
	other.wmu.Lock()
	other.c.Write(requestBytes(0, cmdWrite, 9, 0, MaxPayload+4096))
	other.wmu.Unlock()
	if err := other.Read(p, 0); err == nil {
		t.Error("survived a write that is too long")
	}
	if err := dial(t, path).Read(p, 0); err != nil {
		t.Error(err)
	}
}

func TestLongReads(t *testing.T) {
	s := devicetest.New(t, devicetest.Options{Size: small, Workers: 3, Entries: 3})
	path, _ := start(t, s)
	c := dial(t, path)
	want := bytes.Repeat([]byte("0123456789abcdef"), MaxPayload/16)
	s.Poke(0, want)
	var wg sync.WaitGroup
	for range 3 { // together with short ones, over three table entries
		wg.Go(func() {
			got := make([]byte, MaxPayload)
			if err := c.Read(got, 0); err != nil || !bytes.Equal(got, want) {
				t.Errorf("long read: %v", err)
			}
		})
		wg.Go(func() {
			for range 20 {
				if err := c.Read(make([]byte, 8192), 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	fail := func(at proto.Offset) {
		s.SetFail(func(r *device.Request) proto.Errno {
			if r.Off == at {
				return proto.EIO
			}
			return proto.OK
		})
	}
	fail(0)
	if err := c.Read(make([]byte, MaxPayload), 0); err != proto.EIO {
		t.Errorf("first piece fails: %v", err)
	}
	if err := c.Read(make([]byte, 4096), 4096); err != nil {
		t.Errorf("after it: %v", err)
	}
	fail(8 << 20)
	if err := c.Read(make([]byte, MaxPayload), 0); err == nil {
		t.Error("a later piece fails, and the read succeeds")
	}
	s.SetFail(nil)
	if err := dial(t, path).Read(make([]byte, 4096), 0); err != nil {
		t.Error(err)
	}
}

// TestClientDoesNotRead: a client that asks and never reads holds up nobody else.
func TestClientDoesNotRead(t *testing.T) {
	s := devicetest.New(t, devicetest.Options{Size: small, Entries: 64})
	path, _ := start(t, s)
	bad := greeted(t, path, flagFixedNewstyle|flagNoZeroes)
	bad.Write(optionBytes(optExportName, nil))
	for i := range 20 {
		bad.Write(requestBytes(0, cmdRead, uint64(i), 0, 1<<20))
	}
	good := dial(t, path)
	p := make([]byte, 4096)
	for range 200 {
		if err := good.Read(p, 0); err != nil {
			t.Fatal(err)
		}
	}
	bad.Close()
}

// TestGone: clients that vanish in the middle of everything leave nothing behind; the sink's own check says so.
func TestGone(t *testing.T) {
	s := devicetest.New(t, devicetest.Options{Size: small, Workers: 4, Entries: 32})
	s.SetDelay(func(*device.Request) time.Duration { return time.Millisecond })
	path, _ := start(t, s)
	for i := range 30 {
		c := greeted(t, path, flagFixedNewstyle|flagNoZeroes)
		c.Write(optionBytes(optExportName, nil))
		for k := range 10 {
			c.Write(requestBytes(0, cmdRead, uint64(k), 0, 256<<10))
			c.Write(append(requestBytes(0, cmdWrite, uint64(k), 0, 8192), make([]byte, 8192)...))
			c.Write(requestBytes(0, cmdWriteZeroes, uint64(k), 0, small))
		}
		switch i % 3 {
		case 0:
			c.Write(append(requestBytes(0, cmdWrite, 1, 0, 8192), make([]byte, 100)...)) // half a write
		case 1:
			c.Write(requestBytes(0, cmdRead, 1, 0, MaxPayload)) // a stream
		}
		c.Close()
	}
	if err := dial(t, path).Flush(); err != nil {
		t.Error(err)
	}
}

// TestSinkCloses: waiting clients are let go when there will be no more requests.
func TestSinkCloses(t *testing.T) {
	s := devicetest.New(t, devicetest.Options{Size: small, Entries: 1})
	path, _ := start(t, s)
	c := dial(t, path)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if err := c.Flush(); err == nil {
		t.Error("served by a closed sink")
	}
}

// TestShutdownCuts: requests that end because the engine does are not answered, but cut off, whatever they are.
func TestShutdownCuts(t *testing.T) {
	s := devicetest.New(t, devicetest.Options{Size: small, Workers: 2})
	s.SetFail(func(r *device.Request) proto.Errno { return proto.ESHUTDOWN })
	path, _ := start(t, s)
	for name, do := range map[string]func(*client) error{
		"write":      func(c *client) error { return c.Write(make([]byte, 4096), 0, false) },
		"long write": func(c *client) error { return c.Write(make([]byte, 3<<20), 0, false) },
		"read":       func(c *client) error { return c.Read(make([]byte, 4096), 0) },
		"long read":  func(c *client) error { return c.Read(make([]byte, 3<<20), 0) },
	} {
		err := do(dial(t, path))
		var answered proto.Errno
		if err == nil || errors.As(err, &answered) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStopFinishes(t *testing.T) {
	s := devicetest.New(t, devicetest.Options{Size: small, Workers: 2})
	s.SetDelay(func(*device.Request) time.Duration { return 100 * time.Millisecond })
	path, srv := start(t, s)
	c := dial(t, path)
	done := make(chan error, 1)
	go func() { done <- c.Write(make([]byte, 4096), 0, false) }()
	for s.Counts().Writes == 0 {
		time.Sleep(time.Millisecond)
	}
	srv.Stop()
	if err := <-done; err != nil {
		t.Errorf("a request that was under way when the server was stopped: %v", err)
	}
	if err := c.Flush(); err == nil {
		t.Error("served after a stop")
	}
}

func TestMaxConns(t *testing.T) {
	s := devicetest.New(t, devicetest.Options{Size: small})
	path, _ := start(t, s)
	var all []*client
	for range MaxConns {
		all = append(all, dial(t, path))
	}
	if c, err := connect(path); err == nil {
		c.close()
		t.Error("one client too many")
	}
	all[0].close()
	for end := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if c, err := connect(path); err == nil {
			c.close()
			break
		}
		if time.Now().After(end) {
			t.Fatal("no room after one has left")
		}
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil {
		t.Error("took over a socket that is served")
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if l, err = Listen(path); err != nil {
		t.Errorf("stale socket: %v", err)
	} else {
		l.Close()
	}
	os.WriteFile(path, nil, 0o600)
	if _, err := Listen(path); err == nil {
		t.Error("replaced a file")
	}
}

// socketPair returns two connected sockets.
func socketPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var c [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if c[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return c[0], c[1]
}

// FuzzConn feeds a server with whatever a client might send.
func FuzzConn(f *testing.F) {
	hello := []byte{0, 0, 0, 3}
	f.Add(append(bytes.Clone(hello), optionBytes(optGo, infoBytes("test", infoBlockSize))...))
	begin := append(bytes.Clone(hello), optionBytes(optExportName, nil)...)
	f.Add(append(append(bytes.Clone(begin), requestBytes(0, cmdRead, 1, 0, 8192)...), requestBytes(0, cmdDisc, 0, 0, 0)...))
	f.Add(append(append(bytes.Clone(begin), requestBytes(0, cmdWrite, 1, 0, 4096)...), make([]byte, 4096)...))
	f.Add(append(bytes.Clone(begin), requestBytes(0, cmdWriteZeroes, 1, 0, 1<<20)...))
	f.Add(append(bytes.Clone(begin), requestBytes(0, cmdRead, 1, 0, 2<<20)...))
	s := devicetest.New(f, devicetest.Options{Size: 4 << 20, Entries: 8})
	srv := New(s.Info(), s, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		near, far := socketPair(t)
		done := make(chan struct{})
		go func() { srv.ServeConn(far); close(done) }()
		go io.Copy(io.Discard, near)
		near.SetWriteDeadline(time.Now().Add(time.Second))
		near.Write(b)
		near.(*net.UnixConn).CloseWrite()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			t.Fatal("does not end")
		}
		near.Close()
		if n := s.Outstanding(); n != 0 {
			t.Fatalf("%d requests are lost", n)
		}
	})
}

func FuzzInfo(f *testing.F) {
	f.Add(infoBytes("test", infoBlockSize))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		name, _, ok := parseInfo(b)
		if ok && len(name) > len(b)-6 {
			t.Fatal("longer than what there is")
		}
	})
}
