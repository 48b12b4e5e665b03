package aio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// How a request travels:
//
//	1 Batch    the caller collects reads and writes, each with a number of its choice
//	2 Submit   one io_submit for all; what isn't accepted is the caller's again
//	3 kernel   writes the completion into the ring, moves its tail, then adds to the eventfd
//	4 Run      is woken by the eventfd, and takes events until the ring is empty
//
// Why no wake-up is lost: the eventfd is edge triggered in Go's poller and its counter is
// never read, so every addition is an edge. An edge comes after its event is in the ring. Run looks into the ring
// after it has armed the poller, and goes to sleep only if it finds nothing: an event that it did not see has its edge yet to
// come, and an edge between look and sleep makes the sleep return at once.

// Context is the kernel's queue for one file. Submit may be called from any
// goroutine; Run once.
type Context struct {
	fd     int
	depth  int64
	ring   *ring
	mapped bool // events are taken from the ring; else with io_getevents
	eventF *os.File
	event  int
	rc     syscall.RawConn

	inflight atomic.Int64 // submitted and not yet taken from the ring
	closing  atomic.Bool

	events []Event // of Run
}

// New sets up a queue of depth requests for the file fd, which stays the
// caller's. An error says why the kernel has none to give; everything can still be done in other ways.
func New(fd, depth int) (*Context, error) {
	if one := [2]byte{1, 0}; binary.NativeEndian.Uint16(one[:]) != 1 {
		return nil, errors.New("asynchronous I/O: only little-endian machines")
	}
	fl, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, fmt.Errorf("asynchronous I/O: %w", err)
	}
	if fl&unix.O_DIRECT == 0 {
		return nil, errors.New("asynchronous I/O: the file is not open for direct I/O, so io_submit would wait")
	}
	r, err := ioSetup(depth)
	if err != nil {
		return nil, fmt.Errorf("asynchronous I/O (io_setup; see fs.aio-max-nr): %w", err)
	}
	efd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		ioDestroy(r)
		return nil, fmt.Errorf("asynchronous I/O (eventfd): %w", err)
	}
	c := &Context{fd: fd, depth: int64(depth), ring: r, mapped: r.readable(), event: efd, eventF: os.NewFile(uintptr(efd), "aio"), events: make([]Event, depth)}
	if c.rc, err = c.eventF.SyscallConn(); err != nil {
		ioDestroy(r)
		c.eventF.Close()
		return nil, fmt.Errorf("asynchronous I/O (eventfd): %w", err)
	}
	return c, nil
}

// Batch collects requests for one Submit. The zero value is empty; Reset keeps its memory.
type Batch struct {
	list []iocb
	ptrs []*iocb
}

// Len is the number of requests.
func (b *Batch) Len() int { return len(b.list) }

// Reset empties the batch.
func (b *Batch) Reset() { b.list = b.list[:0] }

// Data is the number of request i.
func (b *Batch) Data(i int) uint64 { return b.list[i].data }

// Read adds a read into buf, memory outside of Go's heap, aligned as the device wants it, which the kernel has until the completion.
func (b *Batch) Read(buf []byte, off int64, data uint64) { b.add(cmdPread, 0, buf, off, data) }

// Write adds a write of buf, for which the same holds; with sync it is on stable storage when it is complete.
func (b *Batch) Write(buf []byte, off int64, sync bool, data uint64) {
	flags := uint32(0)
	if sync {
		flags = unix.RWF_DSYNC
	}
	b.add(cmdPwrite, flags, buf, off, data)
}

func (b *Batch) add(cmd uint16, flags uint32, buf []byte, off int64, data uint64) {
	b.list = append(b.list, iocb{data: data, opcode: cmd, rwFlags: flags | unix.RWF_NOWAIT, buf: unsafe.Pointer(unsafe.SliceData(buf)), length: uint64(len(buf)), offset: off, flags: flagResFD})
}

// Submit hands the batch to the kernel. It calls refused for each request that
// was not accepted, with the reason; all others will come out of Run.
func (c *Context) Submit(b *Batch, refused func(data uint64, why unix.Errno)) {
	n := int64(len(b.list))
	b.ptrs = b.ptrs[:0]
	for i := range b.list {
		b.list[i].fd, b.list[i].resFD = uint32(c.fd), uint32(c.event)
		b.ptrs = append(b.ptrs, &b.list[i])
	}
	todo := b.ptrs
	// The count comes first, so that Run never sees an event that isn't counted, and nothing is submitted to a queue that closes.
	if over := c.inflight.Add(n) - c.depth; over > 0 || c.closing.Load() {
		keep := max(0, n-over)
		if c.closing.Load() {
			keep = 0
		}
		for _, p := range todo[keep:] {
			refused(p.data, unix.EAGAIN)
		}
		todo = todo[:keep]
		c.took(n - keep)
	}
	for len(todo) > 0 {
		k, e := ioSubmit(c.ring, todo)
		todo = todo[k:]
		switch e {
		case 0:
			if k > 0 {
				continue // the next call has the error of the one that stopped this
			}
			e = unix.EAGAIN
		case unix.EINTR:
			continue
		}
		rest := todo[:1] // only the first one is the reason
		if e == unix.EAGAIN {
			rest = todo // the queue is full
		}
		todo = todo[len(rest):]
		for _, p := range rest {
			refused(p.data, e)
		}
		c.took(int64(len(rest)))
	}
}

// took gives up n counts; the last one of a queue that closes wakes Run.
func (c *Context) took(n int64) {
	if c.inflight.Add(-n) == 0 && c.closing.Load() {
		c.wake()
	}
}

// wake adds to the eventfd as a completion does. It fails when Run has returned already, and nobody is to be woken.
func (c *Context) wake() {
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	c.eventF.Write(one[:])
}

// Close refuses further requests. Run returns when all those accepted are complete.
func (c *Context) Close() {
	c.closing.Store(true)
	c.wake()
}

// Run gives completions to done, as many as there are at once, until the queue is closed and empty; then it frees it. done must
// not wait. The events are borrowed.
func (c *Context) Run(done func([]Event)) {
	var got []Event
	look := func(uintptr) bool {
		got = c.reap()
		return len(got) > 0 || c.ended()
	}
	for {
		if err := c.rc.Read(look); err != nil {
			panic("aio: " + err.Error()) // the file is ours, and open
		}
		if len(got) > 0 {
			done(got)
			c.inflight.Add(-int64(len(got)))
			continue
		}
		break
	}
	ioDestroy(c.ring)
	c.eventF.Close()
}

func (c *Context) ended() bool { return c.closing.Load() && c.inflight.Load() == 0 }

// reap takes all events that are there.
func (c *Context) reap() []Event {
	if !c.mapped {
		n, _ := ioGetevents(c.ring, c.events)
		c.inflight.Load() // see below
		return c.events[:max(n, 0)]
	}
	r, n := c.ring, 0
	head, tail := r.head.Load(), r.tail.Load()
	for head != tail && n < len(c.events) {
		c.events[n] = *r.event(head)
		n++
		if head++; head == r.nr {
			head = 0
		}
	}
	r.head.Store(head) // the kernel may write there again
	c.inflight.Load()  // orders what the submitters wrote before what done reads, for those who don't see the kernel's part in it
	return c.events[:n]
}
