package nbdserver

import (
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"hast/hastd/device"
	"hast/proto"
)

// perWrite is the most replies of one writev: two vectors each, well below IOV_MAX (1024).
const perWrite = 128

// turns is how many writevs a goroutine that came to complete requests does on behalf of
// others, before it leaves the rest to the writer: the engine needs it back.
const turns = 8

// reply is one entry of the queue.
type reply struct {
	cookie uint64
	errno  proto.Errno
	bare   bool            // a later piece of a stream: no header
	req    *device.Request // payload, put back when sent; or nil
}

// outbox writes replies. Whoever queues one and finds nobody writing becomes the
// writer, and takes along what others queue meanwhile. When the client's socket is full, the
// connection's writer goroutine goes on instead, so nobody in the engine waits for a client.
type outbox struct {
	c *conn

	mu    sync.Mutex
	idle  sync.Cond // busy became false
	busy  bool      // somebody owns the fields below
	dead  bool      // replies are dropped
	cause error     // why dead, if it was our decision
	queue []reply

	// The present writer's own.
	sending []reply // taken from queue
	next    int     // sending[:next] is sent or in iov
	iov     [2 * perWrite]unix.Iovec
	at, end int // iov[at:end] is still to be written
	hdr     [perWrite * replySize]byte
	done    []*device.Request // payload that iov refers to

	wake chan struct{} // the writer goroutine is to take over; closed at the end
}

func (o *outbox) init(c *conn) {
	o.c = c
	o.idle.L = &o.mu
	o.queue = make([]reply, 0, perWrite)
	o.sending = make([]reply, 0, perWrite)
	o.done = make([]*device.Request, 0, perWrite)
	o.wake = make(chan struct{}, 1)
}

// answers queues the replies to completed requests, and writes. A request that ends because the engine does is not
// answered: a client that is cut off connects again and repeats it, one that is told of an error passes that on.
func (o *outbox) answers(batch []*device.Request) {
	cut := false
	o.mu.Lock()
	for _, r := range batch {
		if r.Errno == proto.ESHUTDOWN {
			cut = true
			o.c.srv.sink.Put(r)
			continue
		}
		rep := reply{cookie: r.Handle, errno: r.Errno}
		if r.Op == proto.OpRead && r.Errno == proto.OK && !o.dead {
			rep.req = r
		} else {
			o.c.srv.sink.Put(r)
		}
		o.queue = append(o.queue, rep)
	}
	o.start()
	if cut {
		o.fail(errClosing)
	}
}

// answer queues a reply without payload, and writes.
func (o *outbox) answer(cookie uint64, errno proto.Errno) {
	if errno == proto.ESHUTDOWN {
		o.fail(errClosing)
		return
	}
	o.mu.Lock()
	o.queue = append(o.queue, reply{cookie: cookie, errno: errno})
	o.start()
}

// piece queues a piece of a stream, and writes.
func (o *outbox) piece(r *device.Request, cookie uint64, first bool) {
	o.mu.Lock()
	o.queue = append(o.queue, reply{cookie: cookie, bare: !first, req: r})
	o.start()
}

// start makes the caller the writer unless there is one. It unlocks o.mu.
func (o *outbox) start() {
	mine := !o.busy
	o.busy = true
	o.mu.Unlock()
	if mine {
		o.run(false)
	}
}

// run writes until the queue is empty; the caller is the writer. Without wait it
// passes the rest to the writer goroutine as soon as the socket is full, or after a few turns.
func (o *outbox) run(wait bool) {
	for turn := 0; ; turn++ {
		if o.at == o.end {
			o.release()
			if !o.load() {
				return
			}
		}
		if !wait && turn == turns {
			o.wake <- struct{}{} // has room: only the writer sends
			return
		}
		err := o.write(wait)
		if err == errAgain {
			o.wake <- struct{}{}
			return
		}
		if err != nil {
			o.fail(err)
			o.at = o.end
		}
	}
}

// release puts the payload back that has been written.
func (o *outbox) release() {
	for _, r := range o.done {
		o.c.srv.sink.Put(r)
	}
	o.done = o.done[:0]
}

// load prepares the next writev; false: there is nothing to write, and the caller is no longer the writer.
func (o *outbox) load() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		if o.next == len(o.sending) {
			o.sending, o.queue, o.next = o.queue, o.sending[:0], 0
			if len(o.sending) == 0 {
				o.busy = false
				o.idle.Broadcast()
				return false
			}
		}
		if !o.dead {
			o.vectors()
			return true
		}
		for ; o.next < len(o.sending); o.next++ {
			if r := o.sending[o.next].req; r != nil {
				o.c.srv.sink.Put(r)
			}
		}
	}
}

// vectors fills iov from sending. Headers that follow each other share a vector.
func (o *outbox) vectors() {
	o.at, o.end = 0, 0
	from, to := 0, 0 // hdr[from:to] is encoded and in no vector yet
	flush := func() {
		if from < to {
			o.iov[o.end].Base = &o.hdr[from]
			o.iov[o.end].SetLen(to - from)
			o.end++
			from = to
		}
	}
	for i := 0; i < perWrite && o.next < len(o.sending); i++ {
		rep := &o.sending[o.next]
		o.next++
		if !rep.bare {
			putReply(o.hdr[to:], rep.cookie, rep.errno)
			to += replySize
		}
		if r := rep.req; r != nil {
			flush()
			o.iov[o.end].Base = &r.Buf[0]
			o.iov[o.end].SetLen(len(r.Buf))
			o.end++
			o.done = append(o.done, r)
		}
	}
	flush()
}

// write does one writev and advances iov.
func (o *outbox) write(wait bool) error {
	s := o.c.sock
	n, errno := s.Writev(o.iov[o.at:o.end])
	for errno == unix.EAGAIN && wait {
		if !s.AwaitRoom(StallTime) {
			return fmt.Errorf("the client took no answers for %v", StallTime)
		}
		n, errno = s.Writev(o.iov[o.at:o.end])
	}
	switch errno {
	case 0:
	case unix.EAGAIN:
		return errAgain
	default:
		return errno
	}
	for n > 0 {
		v := &o.iov[o.at]
		if n < int(v.Len) {
			v.Base = (*byte)(unsafe.Add(unsafe.Pointer(v.Base), n))
			v.SetLen(int(v.Len) - n)
			break
		}
		n -= int(v.Len)
		o.at++
	}
	return nil
}

// writer finishes what others could not write at once. It ends when wake is closed.
func (o *outbox) writer() {
	for range o.wake {
		o.run(true)
	}
}

// fail drops the client: what is queued is dropped, and the reader is woken by the closed socket.
func (o *outbox) fail(cause error) {
	o.mu.Lock()
	if !o.dead {
		o.dead, o.cause = true, cause
	}
	o.mu.Unlock()
	o.c.sock.Close()
}

// abandon drops all replies from now on, because the client is gone.
func (o *outbox) abandon() {
	o.mu.Lock()
	o.dead = true
	o.mu.Unlock()
	o.c.sock.Close() // a writer that waits for room gives up
}

// drain waits until every queued reply is written or dropped.
func (o *outbox) drain() {
	o.mu.Lock()
	for o.busy {
		o.idle.Wait()
	}
	o.mu.Unlock()
}

func (o *outbox) failure() error { o.mu.Lock(); defer o.mu.Unlock(); return o.cause }
