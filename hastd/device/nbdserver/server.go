package nbdserver

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hast/hastd/device"
	"hast/hastd/sock"
)

// MaxConns is how many clients may be connected at a time; multi-conn clients
// use 4 to 16 each, and every connection costs a receive buffer and at most one request's buffer while it stalls.
const MaxConns = 64

// HandshakeTime is how long a client may take to get to its first request.
const HandshakeTime = 10 * time.Second

// StallTime is how long a client may leave us waiting for the rest of a payload that it began to send, or for room for an answer.
// Such a client holds buffers that belong to all; a paused virtual machine is not affected, because it asks for nothing.
const StallTime = 30 * time.Second

// Server presents one device. New makes it; Serve or ServeConn run it.
type Server struct {
	info device.Info
	sink device.Sink
	log  *slog.Logger

	mu      sync.Mutex
	conns   map[*conn]struct{}
	stopped bool
	wg      sync.WaitGroup
}

// New returns a server for the device that info describes, backed by sink. log may be nil.
func New(info device.Info, sink device.Sink, log *slog.Logger) *Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{info: info, sink: sink, log: log, conns: make(map[*conn]struct{})}
}

// Listen makes the socket at path, accessible to its owner alone. A socket that a dead
// server left behind is replaced; one that somebody still serves, or a file that is no socket, is an error.
func Listen(path string) (*net.UnixListener, error) {
	if st, err := os.Lstat(path); err == nil {
		if st.Mode().Type() != fs.ModeSocket {
			return nil, fmt.Errorf("nbd socket %s: there is a file of that name that is no socket; remove it or configure another path", path)
		}
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			return nil, fmt.Errorf("nbd socket %s: another process serves it; stop that one first", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("nbd socket %s: remove the old one: %w", path, err)
		}
	}
	// The socket's own mode becomes the file's, so there is no moment in which others may connect.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); e != nil {
			return e
		}
		return err
	}}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, fmt.Errorf("nbd socket: %w", err)
	}
	return l.(*net.UnixListener), nil
}

// Serve accepts clients from l until ctx ends or Stop is called (then nil), or
// accepting fails. It returns after all its connections have ended, and does not close l.
// Ending ctx lets the requests under way finish; a closing sink ends the connections at once.
func (s *Server) Serve(ctx context.Context, l *net.UnixListener) error {
	defer s.wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	unhook := context.AfterFunc(ctx, func() {
		l.SetDeadline(time.Now())
		s.Stop()
	})
	defer unhook()
	for pause := time.Duration(0); ; {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || s.isStopped() {
				return nil
			}
			if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.ENOMEM) {
				pause = min(2*pause+10*time.Millisecond, time.Second)
				s.log.Warn("nbd: cannot accept a client now", "device", s.info.Name, "err", err)
				time.Sleep(pause)
				continue
			}
			return fmt.Errorf("nbd server of %s: accept: %w", s.info.Name, err)
		}
		pause = 0
		s.wg.Add(1)
		go func() {
			defer s.wg.Done()
			if err := s.ServeConn(c); err != nil {
				s.log.Info("nbd: client dropped", "device", s.info.Name, "err", err)
			}
		}()
	}
}

// ServeConn serves one accepted stream socket and closes it. It returns nil if the client left in
// an orderly way, or because of Stop or the sink's end, and only after each of its requests has been answered by the sink.
func (s *Server) ServeConn(nc net.Conn) error {
	c := newConn(s, nc)
	defer c.close()
	defer s.remove(c)
	if err := s.add(c); err != nil {
		return err
	}
	ok, err := c.handshake()
	if err != nil || !ok {
		return err
	}
	if err := s.begin(c); err != nil {
		if errors.Is(err, errStopped) {
			return nil
		}
		return err
	}
	return c.serve()
}

// close ends the client's connection.
func (c *conn) close() {
	c.limit.Stop()
	if c.sock != nil {
		c.sock.Close()
	} else {
		c.nc.Close()
	}
}

// add makes c known to Stop, and starts the handshake's time limit.
func (s *Server) add(c *conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errors.New("the server is stopping")
	}
	if len(s.conns) >= MaxConns {
		return fmt.Errorf("more than %d clients", MaxConns)
	}
	s.conns[c] = struct{}{}
	return c.nc.SetDeadline(time.Now().Add(HandshakeTime))
}

func (s *Server) remove(c *conn) { s.mu.Lock(); delete(s.conns, c); s.mu.Unlock() }

func (s *Server) isStopped() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.stopped }

var errStopped = errors.New("stopped")

// begin ends the handshake and its time limit: the connection is taken from Go's poller.
func (s *Server) begin(c *conn) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return errStopped
	}
	c.sock, err = sock.New(c.nc)
	return err
}

// stall starts (true) or ends the time limit for the rest of a payload.
func (s *Server) stall(c *conn, on bool) error {
	if s.isStopped() {
		return errStopped
	}
	if on {
		c.limit.Reset(StallTime)
	} else {
		c.limit.Stop()
	}
	return nil
}

// Stop makes every connection stop reading; each ends when the requests that it has
// submitted are answered. It does not wait: Serve and ServeConn return when that is done.
func (s *Server) Stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	for c := range s.conns {
		if c.sock != nil {
			c.sock.CloseRead()
		} else {
			c.nc.SetReadDeadline(time.Now())
		}
	}
}
