package sock

import (
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair returns both ends of a connection: ours, and the other as Go's poller has it.
func pair(t *testing.T, network string) (*Conn, net.Conn) {
	t.Helper()
	addr := "127.0.0.1:0"
	if network == "unix" {
		addr = t.TempDir() + "/s"
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err := net.Dial(network, l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(near)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); far.Close() })
	return c, far
}

func both(t *testing.T, f func(t *testing.T, c *Conn, far net.Conn)) {
	for _, network := range []string{"unix", "tcp"} {
		t.Run(network, func(t *testing.T) {
			c, far := pair(t, network)
			f(t, c, far)
		})
	}
}

func vec(b []byte) []unix.Iovec { return []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}} }

func TestReadWrite(t *testing.T) {
	both(t, func(t *testing.T, c *Conn, far net.Conn) {
		in := make([]byte, 16)
		if n, e := c.Poll(vec(in)); e != unix.EAGAIN {
			t.Fatalf("nothing was sent: %d, %v", n, e)
		}
		far.Write([]byte("abc"))
		if n, e := c.Readv(vec(in)); e != 0 || string(in[:n]) != "abc" {
			t.Fatalf("%q, %v", in[:n], e)
		}
		if n, e := c.Writev(vec([]byte("defg"))); e != 0 || n != 4 {
			t.Fatal(n, e)
		}
		if n, err := far.Read(in); err != nil || string(in[:n]) != "defg" {
			t.Fatalf("%q, %v", in[:n], err)
		}
		far.Close()
		if n, e := c.Readv(vec(in)); e != 0 || n != 0 {
			t.Fatalf("the end: %d, %v", n, e)
		}
	})
}

// TestFull: a socket that takes nothing says so, and whoever waits for room gets to know when there is some.
func TestFull(t *testing.T) {
	both(t, func(t *testing.T, c *Conn, far net.Conn) {
		b := make([]byte, 1<<20)
		for {
			if _, e := c.Writev(vec(b)); e == unix.EAGAIN {
				break
			} else if e != 0 {
				t.Fatal(e)
			}
		}
		if c.AwaitRoom(20 * time.Millisecond) {
			t.Fatal("room in a full socket")
		}
		go func() {
			for {
				if _, err := far.Read(b); err != nil {
					return
				}
			}
		}()
		if !c.AwaitRoom(10 * time.Second) {
			t.Fatal("no room though the other end reads")
		}
	})
}

// TestCloseWakes: a closed connection ends what waits in it, and what comes later; its descriptor is not used any more.
func TestCloseWakes(t *testing.T) {
	both(t, func(t *testing.T, c *Conn, _ net.Conn) {
		var wg sync.WaitGroup
		in := make([]byte, 1)
		wg.Go(func() {
			if n, e := c.Readv(vec(in)); n != 0 {
				t.Errorf("%d, %v", n, e)
			}
		})
		time.Sleep(20 * time.Millisecond)
		c.Close()
		c.Close()
		wg.Wait()
		if _, e := c.Readv(vec(in)); e != unix.EBADF {
			t.Error(e)
		}
		if _, e := c.Poll(vec(in)); e != unix.EBADF {
			t.Error(e)
		}
		if _, e := c.Writev(vec(in)); e != unix.EBADF {
			t.Error(e)
		}
		if !c.AwaitRoom(time.Hour) {
			t.Error("waits for room in a closed connection")
		}
		if _, err := unix.FcntlInt(uintptr(c.fd), unix.F_GETFD, 0); err != unix.EBADF {
			t.Errorf("descriptor %d is still open: %v", c.fd, err)
		}
	})
}

// TestCloseRead: what has arrived is still read.
func TestCloseRead(t *testing.T) {
	c, far := pair(t, "unix")
	far.Write([]byte("abc"))
	c.CloseRead()
	in := make([]byte, 16)
	if n, e := c.Readv(vec(in)); e != 0 || n != 3 {
		t.Fatal(n, e)
	}
	if n, e := c.Readv(vec(in)); e != 0 || n != 0 {
		t.Fatal(n, e)
	}
}

// helper counts; it has work for the first calls.
type helper struct{ work, helps, rests int }

func (h *helper) Help() bool { h.helps++; h.work--; return h.work >= 0 }
func (h *helper) Rest()      { h.rests++ }

// TestWait: a reader looks for bytes only as long as they came quickly, and is at rest whenever it sleeps.
func TestWait(t *testing.T) {
	c, far := pair(t, "unix")
	h := &helper{work: 3}
	w := Wait{Spin: true, Helper: h}
	in := make([]byte, 16)
	read := func() {
		t.Helper()
		if n, e := w.Readv(c, vec(in)); e != 0 || n == 0 {
			t.Fatal(n, e)
		}
	}
	far.Write([]byte("a")) // it is there, so the next one may be expected as quickly
	read()
	if h.helps != 0 || h.rests != 1 {
		t.Fatalf("slept at once, %d helps, %d rests", h.helps, h.rests)
	}
	if !w.quick {
		t.Fatal("a byte that was there did not come quickly")
	}
	time.AfterFunc(20*time.Millisecond, func() { far.Write([]byte("b")) })
	read()
	if h.helps < 4 || h.rests != 2 {
		t.Fatalf("looked and then slept: %d helps, %d rests", h.helps, h.rests)
	}
	before := h.helps
	time.AfterFunc(20*time.Millisecond, func() { far.Write([]byte("c")) })
	read()
	if h.helps != before || h.rests != 3 {
		t.Fatalf("looked for bytes that had been slow: %d helps, %d rests", h.helps-before, h.rests)
	}
}
