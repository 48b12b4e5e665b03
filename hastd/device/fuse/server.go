package fuse

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"hast/hastd/device"
	"hast/proto"
)

// The way of a request:
//
//  1. wait     until the kernel has a request (or Stop was called)               (reader)
//  2. receive  one readv: header, and payload page-aligned in an arena buffer    (reader)
//  3. handle   what needs no data is answered here; the rest joins the batch     (reader)
//  4. submit   once nothing more is waiting, the batch goes to the sink          (reader)
//  5. Complete one write per answer, which never waits for anybody               (whoever completes)
//
// One reader is enough: it does no I/O, and /dev/fuse hands out one request per call under a lock anyway.

// copyBelow is the size in bytes below which a write's payload is copied into a buffer of its own size. The
// kernel insists on room for the largest write in every read, and to give that room away with each
// small write would use up the arena; to copy 64 KiB takes about as long as two system calls.
const copyBelow = 64 << 10

// ErrGone: the file system was unmounted or aborted; nobody will ask for anything any more.
var ErrGone = errors.New("the fuse mount is gone")

// Negotiated is what a server agreed with the kernel, for its successors.
type Negotiated struct {
	Minor    uint32 `json:"minor"`
	Flags    uint64 `json:"flags"`     // of INIT, those that both have
	MaxWrite uint32 `json:"max_write"` // bytes
}

// CanResend reports whether the kernel gives a successor what its predecessor had not answered (Linux 6.9). Without it,
// such requests hang until the device is aborted.
func (n *Negotiated) CanResend() bool { return n.Flags&initHasResend != 0 }

// Server answers the kernel on one descriptor. NewServer makes it; Serve runs it, once.
type Server struct {
	info  device.Info
	sink  device.Sink
	log   *slog.Logger
	joins *device.Joins
	fd    int
	stop  int // eventfd
	once  sync.Once
	poll  [2]unix.PollFd

	prior *Negotiated
	ready func(Negotiated)
	told  bool

	// The reader's own.
	head  [inHeaderSize + writeInSize]byte
	room  *device.Request // the buffer for the next payload
	riov  [2]unix.Iovec
	out   [outHeaderSize + entryOutSize]byte
	batch []*device.Request

	inflight sync.WaitGroup // requests that the sink has
	failed   atomic.Bool    // an answer was refused, and that was logged
}

// NewServer returns a server for the device that info describes, backed by sink. f is the descriptor
// that Mount returned, or a duplicate; the server makes its own duplicate. log may be nil. Close frees what it holds.
func NewServer(f *os.File, info device.Info, sink device.Sink, log *slog.Logger) (*Server, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Server{info: info, sink: sink, log: log, fd: -1}
	rc, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("fuse server of %s: %w", info.Name, err)
	}
	var derr error
	if err := rc.Control(func(fd uintptr) { s.fd, derr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3) }); err != nil || derr != nil {
		return nil, fmt.Errorf("fuse server of %s: duplicate the descriptor: %w", info.Name, errors.Join(err, derr))
	}
	if s.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(s.fd)
		return nil, fmt.Errorf("fuse server of %s: %w", info.Name, err)
	}
	s.joins = device.NewJoins(sink, s.joined)
	s.batch = make([]*device.Request, 0, maxBackground)
	s.poll[0] = unix.PollFd{Fd: int32(s.fd), Events: unix.POLLIN}
	s.poll[1] = unix.PollFd{Fd: int32(s.stop), Events: unix.POLLIN}
	return s, nil
}

// Close frees the server's descriptors. Serve must have returned, or never been called.
func (s *Server) Close() error {
	unix.Close(s.stop)
	return unix.Close(s.fd)
}

// Stop makes Serve return when what it has submitted is answered. What the kernel
// asks afterwards waits for a successor. Safe from any goroutine until Close.
func (s *Server) Stop() {
	s.once.Do(func() { unix.Write(s.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}) })
}

// Serve answers requests until ctx ends, Stop is called or the sink closes (nil), or until the mount is gone (ErrGone).
// prior is what a predecessor's ready was told, nil if there was none or it never got so far. ready is called once, from Serve's
// goroutine, when the kernel side exists: only after that can Attach succeed. Requests that the sink completes with
// ESHUTDOWN are not answered: like those that arrive later, they are the successor's.
func (s *Server) Serve(ctx context.Context, prior *Negotiated, ready func(Negotiated)) error {
	defer context.AfterFunc(ctx, s.Stop)()
	s.prior, s.ready = prior, ready
	defer s.finish()
	if err := s.resend(); err != nil {
		return err
	}
	if prior != nil {
		s.announce(*prior)
	}
	for {
		if stopped, err := s.wait(-1); stopped || err != nil {
			return s.ended(err)
		}
		for more := true; more; {
			got, err := s.receive()
			if err != nil {
				return s.ended(err)
			}
			if got && len(s.batch) == cap(s.batch) {
				s.submit()
			}
			if more, err = s.more(); err != nil {
				return s.ended(err)
			}
		}
		s.submit()
	}
}

func (s *Server) finish() {
	s.submit()
	if s.room != nil {
		s.sink.Put(s.room)
		s.room = nil
	}
	s.inflight.Wait()
}

// errClosing: the sink gives out no more requests.
var errClosing = errors.New("the device is closing")

func (s *Server) ended(err error) error {
	switch {
	case err == nil, errors.Is(err, errClosing):
		return nil
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ECONNABORTED):
		return ErrGone
	}
	return err
}

// resend has the kernel queue again what a predecessor had read and not answered. It is done at every start: a
// predecessor may have died before it could tell that it had one itself.
func (s *Server) resend() error {
	var b [outHeaderSize]byte
	order.PutUint32(b[:], outHeaderSize)
	order.PutUint32(b[4:], notifyResend)
	_, err := unix.Write(s.fd, b[:])
	switch {
	case err == nil, s.prior == nil: // an old kernel, or nothing to send again
		return nil
	case errors.Is(err, unix.ENODEV):
		return ErrGone
	}
	s.log.Warn("fuse: the kernel cannot repeat what a former server left unanswered; such requests hang until the device is aborted",
		"device", s.info.Name, "err", err)
	return nil
}

func (s *Server) announce(n Negotiated) {
	if !s.told && s.ready != nil {
		s.ready(n)
	}
	s.told = true
}

// wait waits for a request or Stop; timeout in ms, -1: for ever.
func (s *Server) wait(timeout int) (stopped bool, err error) {
	for {
		_, err := unix.Poll(s.poll[:], timeout)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return false, fmt.Errorf("fuse server of %s: poll: %w", s.info.Name, err)
		case s.poll[1].Revents != 0:
			return true, nil
		case s.poll[0].Revents&unix.POLLERR != 0:
			return false, unix.ENODEV
		}
		return false, nil
	}
}

// more reports whether the next receive will not have to wait.
func (s *Server) more() (bool, error) {
	for {
		n, err := unix.Poll(s.poll[:1], 0)
		if err == unix.EINTR {
			continue
		}
		return n > 0 && s.poll[0].Revents&unix.POLLIN != 0, err
	}
}

// receive reads and handles one request; got: it may have added to the batch.
func (s *Server) receive() (got bool, err error) {
	if s.room == nil {
		if s.room, err = s.get(proto.MaxRequest); err != nil {
			return false, err
		}
	}
	s.riov[0].Base = &s.head[0]
	s.riov[0].SetLen(len(s.head))
	s.riov[1].Base = &s.room.Buf[0]
	s.riov[1].SetLen(len(s.room.Buf))
	n, _, errno := syscall.Syscall(unix.SYS_READV, uintptr(s.fd), uintptr(unsafe.Pointer(&s.riov)), 2)
	switch errno {
	case 0:
	case unix.EINTR, unix.EAGAIN, unix.ENOENT: // ENOENT: its sender was interrupted before we had all of it
		return false, nil
	default:
		return false, errno
	}
	return true, s.handle(int(n))
}

// handle decodes the n bytes that receive has read, and acts on them.
func (s *Server) handle(n int) error {
	if n < inHeaderSize {
		return fmt.Errorf("fuse server of %s: a request of %d bytes", s.info.Name, n)
	}
	h := parseHeader(s.head[:])
	body := s.head[inHeaderSize:min(n, len(s.head))]
	if h.opcode != opInit && !s.told {
		// A predecessor answered INIT and died before anybody knew what it had agreed; it can have been nothing else than this.
		s.announce(Negotiated{Minor: minorVersion, Flags: wanted, MaxWrite: maxWrite})
	}
	switch h.opcode {
	case opRead:
		return s.read(&h, body)
	case opWrite:
		return s.write(&h, body, n-len(s.head))
	case opFsync:
		if attaching(h.tid) {
			s.reply(h.unique, proto.OK, 0)
			return nil
		}
		return s.plain(&h, proto.OpFlush, 0, 0, s, h.unique)
	case opFallocate:
		return s.fallocate(&h, body)
	case opForget, opBatchForget, opInterrupt: // the interrupted request is answered all the same
		return nil
	case opInit:
		return s.init(&h, body, n)
	}
	s.attend(&h, body)
	return nil
}

// read submits a READ, cut at the end of the device.
func (s *Server) read(h *header, body []byte) error {
	in, ok := parseIO(body)
	errno := s.check(h, ok, in.off, uint64(in.size))
	if errno == proto.OK && proto.Length(in.size) > proto.MaxRequest {
		errno = proto.EINVAL
	}
	if in.off >= uint64(s.info.Size) {
		in.size = 0
	}
	n := min(uint64(in.size), uint64(s.info.Size)-min(in.off, uint64(s.info.Size)))
	if errno != proto.OK || n == 0 {
		s.reply(h.unique, errno, 0)
		return nil
	}
	return s.plain(h, proto.OpRead, proto.Offset(in.off), proto.Length(n), s, h.unique)
}

// write submits a WRITE whose payload, received bytes, is in s.room.
func (s *Server) write(h *header, body []byte, received int) error {
	in, ok := parseIO(body)
	errno := s.check(h, ok && in.size > 0 && int64(in.size) == int64(received), in.off, uint64(in.size))
	if errno == proto.OK && (in.off > uint64(s.info.Size) || uint64(in.size) > uint64(s.info.Size)-in.off) {
		errno = proto.ENOSPC
	}
	if errno != proto.OK {
		s.reply(h.unique, errno, 0)
		return nil
	}
	var r *device.Request
	if n := proto.Length(in.size); n < copyBelow {
		var err error
		if r, err = s.get(n); err != nil {
			return err
		}
		copy(r.Buf, s.room.Buf)
	} else {
		r, s.room = s.room, nil
		r.Buf = r.Buf[:n]
	}
	r.Op, r.Off, r.Len = proto.OpWrite, proto.Offset(in.off), proto.Length(in.size)
	r.Owner, r.Handle = s, h.unique
	s.take(r)
	return nil
}

// fallocate serves what loop makes of discard and write-zeroes.
func (s *Server) fallocate(h *header, body []byte) error {
	in, ok := parseFallocate(body)
	keep := in.mode == fallocZeroRange|fallocKeepSize
	if ok && !keep && in.mode != fallocPunchHole|fallocKeepSize {
		s.reply(h.unique, proto.ENOTSUP, 0)
		return nil
	}
	errno := s.check(h, ok, in.off, in.n)
	if errno != proto.OK || in.n == 0 || in.off >= uint64(s.info.Size) {
		s.reply(h.unique, errno, 0)
		return nil
	}
	left := min(in.n, uint64(s.info.Size)-in.off)
	off := proto.Offset(in.off)
	if n := device.ZeroPiece(off, left); uint64(n) == left {
		return s.zero(h, off, n, keep, s, h.unique)
	}
	j := s.joins.New(h.unique)
	s.inflight.Add(1)
	for left > 0 {
		n := device.ZeroPiece(off, left)
		j.Add()
		if err := s.zero(h, off, n, keep, j, 0); err != nil {
			j.Abandon(proto.ESHUTDOWN)
			return err
		}
		off, left = off+proto.Offset(n), left-uint64(n)
	}
	j.Close(proto.OK)
	return nil
}

// check decides whether a request for data may go to the sink.
func (s *Server) check(h *header, ok bool, off, n uint64) proto.Errno {
	block := uint64(s.info.Logical)
	if !ok || h.node != diskNode || off%block != 0 || n%block != 0 {
		return proto.EINVAL
	}
	return proto.OK
}

func (s *Server) zero(h *header, off proto.Offset, n proto.Length, keep bool, owner device.Completer, handle uint64) error {
	r, err := s.get(0)
	if err != nil {
		return err
	}
	r.Op, r.Off, r.Len, r.NoUnmap = proto.OpZero, off, n, keep
	r.Owner, r.Handle = owner, handle
	s.take(r)
	return nil
}

// plain adds a read or a flush to the batch.
func (s *Server) plain(h *header, op proto.Op, off proto.Offset, n proto.Length, owner device.Completer, handle uint64) error {
	r, err := s.get(n)
	if err != nil {
		return err
	}
	r.Op, r.Off, r.Len = op, off, n
	r.Owner, r.Handle = owner, handle
	s.take(r)
	return nil
}

// get takes a request from the sink; if it has to wait, the batch is served meanwhile. When the sink closes, the request
// in hand stays unanswered, for the successor.
func (s *Server) get(n proto.Length) (*device.Request, error) {
	r := s.sink.TryGet(n)
	if r == nil {
		s.submit()
		if r = s.sink.Get(n); r == nil {
			return nil, errClosing
		}
	}
	return r, nil
}

func (s *Server) take(r *device.Request) {
	if r.Owner == device.Completer(s) {
		s.inflight.Add(1) // a join counts for itself
	}
	s.batch = append(s.batch, r)
	if len(s.batch) == cap(s.batch) {
		s.submit()
	}
}

func (s *Server) submit() {
	if len(s.batch) > 0 {
		s.sink.Submit(s.batch)
		s.batch = s.batch[:0]
	}
}
