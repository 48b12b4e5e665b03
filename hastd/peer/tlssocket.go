package peer

import (
	"io"
	"net"
	"sync"
	"time"

	"hast/hastd/sock"

	"golang.org/x/sys/unix"
)

// socket lies between TLS and TCP. While the handshake lasts it passes
// everything through. Afterwards it collects the records that one flush makes, to be written with one system
// call, and tells the reader before it might block.
type socket struct {
	raw    *net.TCPConn // until the handshake is over
	conn   *sock.Conn   // from then on
	before func()       // called before each read of conn
	iov    [1]unix.Iovec
	wait   sock.Wait // how readv waits
	nowait bool      // Read does not wait, but says errAgain; the reader's

	mu      sync.Mutex
	collect bool   // the handshake is over
	taking  bool   // the sender is encrypting: records go to out
	out     []byte // records not yet written; the sender's while taking is false
}

// begin takes the connection from Go's poller when the handshake is over.
func (s *socket) begin(before func()) (err error) {
	s.before = before
	s.conn, err = sock.New(s.raw)
	return err
}

// Read reads from the network.
func (s *socket) Read(b []byte) (int, error) {
	if s.conn == nil {
		return s.raw.Read(b)
	}
	s.iov[0] = unix.Iovec{Base: &b[0], Len: uint64(len(b))}
	defer func() { s.iov[0].Base = nil }()
	if s.nowait {
		switch n, errno := s.conn.Poll(s.iov[:]); {
		case errno == unix.EAGAIN:
			return 0, errAgain
		case errno != 0:
			return 0, errno
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
	return s.readv(s.iov[:])
}

// again is an error after which crypto/tls goes on where it was: it asks for Temporary, and keeps what it has of a record.
type again struct{}

func (again) Error() string   { return "nothing has arrived" }
func (again) Timeout() bool   { return false }
func (again) Temporary() bool { return true }

var errAgain net.Error = again{}

// readv reads at least one byte; the end is io.EOF.
func (s *socket) readv(v []unix.Iovec) (int, error) {
	s.before()
	n, errno := s.wait.Readv(s.conn, v)
	if errno != 0 {
		return 0, errno
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// Write takes records from TLS. Behind the handshake, what does not come from the sender is an alert of the reader's, and dropped: the
// link ends anyway, and a reader must never wait for a writer.
func (s *socket) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.collect {
		return s.raw.Write(b)
	}
	if s.taking {
		s.out = append(s.out, b...)
	}
	return len(b), nil
}

// take opens and closes the time in which records are collected.
func (s *socket) take(on bool) {
	s.mu.Lock()
	s.collect, s.taking = true, on
	s.mu.Unlock()
}

// The rest of net.Conn, for the handshake.

func (s *socket) Close() error {
	if s.conn != nil {
		s.conn.Close()
		return nil
	}
	return s.raw.Close()
}

func (s *socket) LocalAddr() net.Addr                { return s.raw.LocalAddr() }
func (s *socket) RemoteAddr() net.Addr               { return s.raw.RemoteAddr() }
func (s *socket) SetDeadline(t time.Time) error      { return s.raw.SetDeadline(t) }
func (s *socket) SetReadDeadline(t time.Time) error  { return s.raw.SetReadDeadline(t) }
func (s *socket) SetWriteDeadline(t time.Time) error { return s.raw.SetWriteDeadline(t) }
