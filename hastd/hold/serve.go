package hold

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxClients is how many connections are served at a time: there is one parent, and perhaps its successor.
const maxClients = 8

// exchangeTime bounds one exchange, and how long a client may keep its connection without asking anything.
const exchangeTime = 5 * time.Second

// ErrQuit is what Serve returns when a client has asked it to end.
var ErrQuit = errors.New("told to quit")

// Listen makes the socket at path, accessible to its owner alone, in place of one that nobody serves any more.
func Listen(path string) (*net.UnixListener, error) {
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() == fs.ModeSocket {
		c, err := net.DialTimeout("unixpacket", path, time.Second)
		if err == nil {
			c.Close()
			return nil, fmt.Errorf("hold socket %s: another process serves it", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("hold socket %s: remove the old one: %w", path, err)
		}
	}
	// The mode of a unix socket before bind becomes that of its file.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), 0o600) }); e != nil {
			return e
		}
		return err
	}}
	l, err := lc.Listen(context.Background(), "unixpacket", path)
	if err != nil {
		return nil, fmt.Errorf("hold socket: %w", err)
	}
	u := l.(*net.UnixListener)
	u.SetUnlinkOnClose(false) // another process may serve it as well
	return u, nil
}

// FileListener takes over an inherited listening socket; f is closed.
func FileListener(f *os.File) (*net.UnixListener, error) {
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("hold socket: %w", err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, errors.New("hold socket: the inherited descriptor is no unix socket")
	}
	u.SetUnlinkOnClose(false)
	return u, nil
}

// Serve answers clients on l from s until ctx ends (nil), a client says quit (ErrQuit), or accepting fails. name is what
// replies call this process. Only root and our own user are heard. It does not close l, and returns after its connections have ended.
func Serve(ctx context.Context, l *net.UnixListener, s *Store, name string) error {
	v := &service{store: s, who: Holder{os.Getpid(), name}, slots: make(chan struct{}, maxClients)}
	v.ctx, v.end = context.WithCancelCause(ctx)
	defer v.clients.Wait()
	defer v.end(nil)
	l.SetDeadline(time.Time{})
	defer context.AfterFunc(v.ctx, func() { l.SetDeadline(time.Now()) })()
	for {
		c, err := l.AcceptUnix()
		if v.ctx.Err() != nil {
			if c != nil {
				c.Close()
			}
			if errors.Is(context.Cause(v.ctx), ErrQuit) {
				return ErrQuit
			}
			return nil
		}
		if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENOBUFS) {
			time.Sleep(100 * time.Millisecond) // what we hold is too precious to end for this
			continue
		}
		if err != nil {
			return fmt.Errorf("hold: accept: %w", err)
		}
		select {
		case v.slots <- struct{}{}:
			v.clients.Go(func() { v.client(c); <-v.slots })
		default:
			c.Close()
		}
	}
}

type service struct {
	store   *Store
	who     Holder
	ctx     context.Context
	end     context.CancelCauseFunc
	slots   chan struct{}
	clients sync.WaitGroup
}

// client serves one connection until it ends, is idle for exchangeTime, or breaks the protocol.
func (v *service) client(c *net.UnixConn) {
	defer c.Close()
	defer context.AfterFunc(v.ctx, func() { c.SetReadDeadline(time.Now()) })()
	if !trusted(c) {
		return
	}
	p := newPacket(c)
	for v.ctx.Err() == nil {
		c.SetDeadline(time.Now().Add(exchangeTime))
		var q request
		fds, garbled, err := p.receive(&q)
		if err != nil {
			if garbled {
				p.send(reply{Who: v.who, Error: err.Error()}, nil)
			}
			return
		}
		r, lent := v.answer(&q, fds)
		err = p.send(r, lent)
		closeAll(lent)
		if q.Op == opQuit {
			v.end(ErrQuit) // after the answer, which would be lost otherwise
		}
		if err != nil {
			return
		}
	}
}

// trusted reports whether the other end is root, or us.
func trusted(c *net.UnixConn) bool {
	rc, err := c.SyscallConn()
	if err != nil {
		return false
	}
	var cred *unix.Ucred
	if e := rc.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); e != nil || err != nil {
		return false
	}
	return cred.Uid == 0 || int(cred.Uid) == os.Geteuid()
}

// answer carries out q; fds came with it and become the store's or are closed. lent is to be closed after the reply.
func (v *service) answer(q *request, fds []int) (r reply, lent []int) {
	r.Who = v.who
	var err error
	switch q.Op {
	case opPut:
		if err = check(q.Label, q.Blob, len(fds)); err == nil {
			err = v.store.take(q.Label, q.Blob, fds)
			fds = nil
		}
	case opGet:
		r.Blob, lent, err = v.store.Get(q.Label)
	case opDrop:
		err = v.store.Drop(q.Label)
	case opList:
		r.Labels = v.store.List()
	case opPing, opQuit:
	default:
		err = fmt.Errorf("unknown request %.20q", q.Op)
	}
	closeAll(fds)
	if err != nil {
		r.Error, r.Absent = err.Error(), errors.Is(err, ErrNotHeld)
	}
	return r, lent
}
