package sock

import (
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// closedBit of Conn.state; the rest counts the calls that are in the kernel or about to be.
const closedBit = 1 << 30

// Conn is a connected stream socket of its own. One goroutine at a time may read, one write; the other methods may be
// called from any goroutine at any time.
type Conn struct {
	fd    int
	state atomic.Int32
}

// New takes c (a *net.TCPConn or *net.UnixConn) over: c itself is closed, whatever the outcome, the connection goes on. What c had
// buffered is nothing, for these types buffer nothing. Deadlines of c are forgotten.
func New(c net.Conn) (*Conn, error) {
	defer c.Close()
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("a connection must be a socket, not a %T", c)
	}
	rc, err := s.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	fd := -1
	var dup error
	if err := rc.Control(func(old uintptr) { fd, dup = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 3) }); err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if dup != nil {
		return nil, fmt.Errorf("duplicate a socket: %w", dup)
	}
	// The flag is the open file's, which c shares; c is closed before anybody could wait in it.
	if err := unix.SetNonblock(fd, false); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("make a socket blocking: %w", err)
	}
	return &Conn{fd: fd}, nil
}

// enter keeps the descriptor open until leave; false: it is closed.
func (c *Conn) enter() bool {
	for {
		s := c.state.Load()
		if s&closedBit != 0 {
			return false
		}
		if c.state.CompareAndSwap(s, s+1) {
			return true
		}
	}
}

func (c *Conn) leave() {
	if c.state.Add(-1) == closedBit {
		unix.Close(c.fd)
	}
}

// Close ends the connection both ways, which wakes whoever waits in it. The descriptor itself goes with the last of them.
func (c *Conn) Close() {
	for {
		s := c.state.Load()
		if s&closedBit != 0 {
			return
		}
		if c.state.CompareAndSwap(s, s+1|closedBit) {
			break
		}
	}
	unix.Shutdown(c.fd, unix.SHUT_RDWR)
	c.leave()
}

// Set sets a socket option that is a number. A closed Conn ignores it.
func (c *Conn) Set(level, option, value int) error {
	if !c.enter() {
		return nil
	}
	defer c.leave()
	return unix.SetsockoptInt(c.fd, level, option, value)
}

// CloseRead makes the reader see what has arrived and then the end.
func (c *Conn) CloseRead() { c.shutdown(unix.SHUT_RD) }

// CloseWrite lets the other end see what was written and then the end.
func (c *Conn) CloseWrite() { c.shutdown(unix.SHUT_WR) }

func (c *Conn) shutdown(how int) {
	if c.enter() {
		unix.Shutdown(c.fd, how)
		c.leave()
	}
}

// Readv waits until it can read at least one byte into v, or the connection's end (0). A closed Conn reads EBADF.
func (c *Conn) Readv(v []unix.Iovec) (int, unix.Errno) {
	if !c.enter() {
		return 0, unix.EBADF
	}
	defer c.leave()
	for {
		n, _, e := unix.Syscall(unix.SYS_READV, uintptr(c.fd), uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)))
		if e != unix.EINTR {
			return result(n, e)
		}
	}
}

// Poll is Readv without waiting: EAGAIN if there is nothing.
func (c *Conn) Poll(v []unix.Iovec) (int, unix.Errno) {
	if !c.enter() {
		return 0, unix.EBADF
	}
	defer c.leave()
	h := unix.Msghdr{Iov: &v[0]}
	h.SetIovlen(len(v))
	for {
		n, _, e := unix.RawSyscall(unix.SYS_RECVMSG, uintptr(c.fd), uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT)
		if e != unix.EINTR {
			return result(n, e)
		}
	}
}

// Writev writes what the socket takes now: EAGAIN if that is nothing.
func (c *Conn) Writev(v []unix.Iovec) (int, unix.Errno) {
	if !c.enter() {
		return 0, unix.EBADF
	}
	defer c.leave()
	h := unix.Msghdr{Iov: &v[0]}
	h.SetIovlen(len(v))
	for {
		n, _, e := unix.Syscall(unix.SYS_SENDMSG, uintptr(c.fd), uintptr(unsafe.Pointer(&h)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL)
		if e != unix.EINTR {
			return result(n, e)
		}
	}
}

// AwaitRoom waits until Writev would take something, or fail; false: not within limit.
func (c *Conn) AwaitRoom(limit time.Duration) bool {
	if !c.enter() {
		return true
	}
	defer c.leave()
	p := [1]unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLOUT}}
	for end := time.Now().Add(limit); ; {
		n, err := unix.Poll(p[:], int(max(0, time.Until(end).Milliseconds())))
		if err != unix.EINTR {
			return n != 0 || err != nil
		}
	}
}

func result(n uintptr, e unix.Errno) (int, unix.Errno) {
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}
