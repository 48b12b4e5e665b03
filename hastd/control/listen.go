package control

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Listen binds the control socket at path, for its owner alone from its first
// moment: it is bound under another name, restricted, and then renamed, which also replaces
// what a killed daemon has left. That no other daemon serves path is the pidfile's business.
// Close removes the name, unless another socket has taken it since.
func Listen(path string) (net.Listener, error) {
	tmp := path + ".new"
	os.Remove(tmp)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	var st os.FileInfo
	if err = os.Chmod(tmp, 0o600); err == nil {
		if err = os.Rename(tmp, path); err == nil {
			st, err = os.Lstat(path)
		}
	}
	if err != nil {
		l.Close()
		os.Remove(tmp)
		return nil, fmt.Errorf("control socket %s: %w", path, err)
	}
	return &socket{UnixListener: l, path: path, born: st}, nil
}

// socket is a listener that removes its name.
type socket struct {
	*net.UnixListener
	path string
	born os.FileInfo
	once sync.Once
}

// Close ends the listener and removes its name, if it still is this socket's.
func (s *socket) Close() error {
	s.once.Do(func() {
		if st, err := os.Lstat(s.path); err == nil && os.SameFile(st, s.born) {
			os.Remove(s.path)
		}
	})
	return s.UnixListener.Close()
}

// guard accepts connections of those who may ask, as many as maxConns at a time.
type guard struct {
	net.Listener
	owner uint32
	peer  func(net.Conn) (uid uint32, err error)
	note  func(text string)
	slots chan struct{}
}

// forbidden is all that a stranger gets. It fits any socket's buffer, so writing it never waits.
const forbidden = "HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Type: application/json\r\n\r\n" +
	`{"code":2,"message":"only root and the owner of hastd's control socket may use it"}` + "\n"

// Accept returns the next connection of root or of the socket's owner. The mode of the socket keeps others out
// already; this check holds when somebody has changed it, or passes a connection on.
func (g *guard) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := g.peer(c)
		if err != nil || !allowed(uid, g.owner) {
			g.note(fmt.Sprintf("connection of user %d refused (%v)", uid, err))
			c.Write([]byte(forbidden))
			c.Close()
			continue
		}
		select {
		case g.slots <- struct{}{}:
			return &slotConn{Conn: c, release: sync.OnceFunc(func() { <-g.slots })}, nil
		default:
			g.note(fmt.Sprintf("more than %d connections: one was closed", cap(g.slots)))
			c.Close()
		}
	}
}

// allowed is the access rule.
func allowed(uid, owner uint32) bool { return uid == 0 || uid == owner }

// peerUID asks the kernel who has connected.
func peerUID(c net.Conn) (uint32, error) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return ^uint32(0), errors.New("not a socket")
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return ^uint32(0), err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return ^uint32(0), err
	}
	if credErr != nil {
		return ^uint32(0), credErr
	}
	return cred.Uid, nil
}

// slotConn gives its place back when it is closed.
type slotConn struct {
	net.Conn
	release func()
}

func (c *slotConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
