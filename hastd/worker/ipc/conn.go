package ipc

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// MaxMessage is the largest packet in bytes: a status with all its counters is
// 8 KiB, a primary's settings 4 KiB; and it fits the default socket buffer several times.
const MaxMessage = 64 << 10

// MaxFiles is the most descriptors of one packet: a worker with an external metadata file and a surviving device takes six.
const MaxFiles = 8

// ErrBusy: the other side does not read, and the deadline for sending has passed.
var ErrBusy = errors.New("the other process does not read its messages")

// Conn is one end. One goroutine may receive while any number send.
type Conn struct {
	c    *net.UnixConn
	wmu  sync.Mutex
	rbuf []byte
	oob  []byte
}

// Pair makes a connected pair: the near end, and the far end as a file for a child to inherit.
func Pair() (near *Conn, far *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair for a worker: %w", err)
	}
	f := os.NewFile(uintptr(fds[0]), "worker")
	near, err = New(f)
	far = os.NewFile(uintptr(fds[1]), "parent")
	if err != nil {
		far.Close()
		return nil, nil, err
	}
	return near, far, nil
}

// New takes over f, one end of a pair.
func New(f *os.File) (*Conn, error) {
	c, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("socket to the other process: %w", err)
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("socket to the other process: not a unix socket; hastd worker is not meant to be started by hand")
	}
	return &Conn{c: u, rbuf: make([]byte, MaxMessage), oob: make([]byte, unix.CmsgSpace(4*MaxFiles))}, nil
}

// Close ends the connection; a Recv under way returns an error.
func (c *Conn) Close() error { return c.c.Close() }

// Descriptor returns the number of the socket's descriptor, for the descriptor audit.
func (c *Conn) Descriptor() (n int, err error) {
	rc, err := c.c.SyscallConn()
	if err != nil {
		return 0, err
	}
	if e := rc.Control(func(fd uintptr) { n = int(fd) }); e != nil {
		return 0, e
	}
	return n, nil
}

// Send writes m with files, which it borrows. It waits at most timeout for
// room, because a stopped process must not stop this one (rule 14); ErrBusy tells that it was the timeout.
func (c *Conn) Send(m *Message, timeout time.Duration, files ...*os.File) error {
	if len(files) > MaxFiles || len(files) != len(m.Files) {
		return fmt.Errorf("message %s: %d descriptors for %d names, at most %d", m.Kind, len(files), len(m.Files), MaxFiles)
	}
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("message %s: %w", m.Kind, err)
	}
	if len(b) > MaxMessage {
		return fmt.Errorf("message %s: %d bytes, at most %d", m.Kind, len(b), MaxMessage)
	}
	var oob []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			if fds[i], err = rawFD(f); err != nil {
				return fmt.Errorf("message %s: descriptor %s: %w", m.Kind, m.Files[i], err)
			}
		}
		oob = unix.UnixRights(fds...)
	}
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.c.SetWriteDeadline(time.Now().Add(timeout))
	_, _, err = c.c.WriteMsgUnix(b, oob, nil)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ErrBusy
	}
	return err
}

// rawFD reads f's number without switching it to blocking mode, which
// File.Fd would do for every process that shares the open file.
func rawFD(f *os.File) (n int, err error) {
	rc, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	if e := rc.Control(func(fd uintptr) { n = int(fd) }); e != nil {
		return 0, e
	}
	return n, nil
}

// Recv waits for the next message. The files are the caller's to close, and as many as
// Message.Files has names, in that order. io.EOF: the other process has closed its end or is dead.
func (c *Conn) Recv() (*Message, []*os.File, error) {
	n, oobn, flags, _, err := c.c.ReadMsgUnix(c.rbuf, c.oob)
	if errors.Is(err, unix.ECONNRESET) {
		// The other process ended with something of ours unread, which is told once, and before its own last words.
		n, oobn, flags, _, err = c.c.ReadMsgUnix(c.rbuf, c.oob)
	}
	files, ferr := takeFiles(c.oob[:oobn])
	fail := func(err error) (*Message, []*os.File, error) {
		CloseAll(files)
		return nil, nil, err
	}
	switch {
	case err != nil:
		return fail(err)
	case ferr != nil:
		return fail(ferr)
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return fail(errors.New("message from the other process was cut: too large, or too many open files"))
	case n == 0:
		return fail(io.EOF)
	}
	m, err := Decode(c.rbuf[:n])
	if err != nil {
		return fail(err)
	}
	if len(m.Files) != len(files) {
		return fail(fmt.Errorf("message %s: %d descriptors for %d names", m.Kind, len(files), len(m.Files)))
	}
	return m, files, nil
}

// takeFiles turns control data into files that close on exec. On an error the
// files found so far are returned, to be closed.
func takeFiles(oob []byte) (files []*os.File, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("descriptors of a message: %w", err)
	}
	for i := range msgs {
		fds, e := unix.ParseUnixRights(&msgs[i])
		if e != nil {
			err = fmt.Errorf("descriptors of a message: %w", e)
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), fmt.Sprintf("received-%d", fd)))
		}
	}
	return files, err
}

// CloseAll closes the files that are not nil.
func CloseAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
