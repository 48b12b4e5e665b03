package engine

import (
	"sync"
	"sync/atomic"
	"unsafe"

	"hast/hastd/device"
	"hast/hastd/replica"
	"hast/proto"
)

func offset(base, b []byte) int {
	return int(uintptr(unsafe.Pointer(unsafe.SliceData(b))) - uintptr(unsafe.Pointer(unsafe.SliceData(base))))
}

// entry is one tag of the request table. It is free again when nobody refers
// to it any more: machine, front-end, link.
type entry struct {
	req     device.Request
	refs    atomic.Int32
	buf     []byte // of the arena
	digests []byte // a digest for each block: what DIGEST carries
	blocks  int    // of digests
	// readSeq is the Seq of a READ whose DATA may be put into buf; 0: none. Set under the engine's lock, read by the link's receiver.
	readSeq atomic.Uint64
	began   int64
	disk    diskIO       // what the kernel's queue has of it
	sent    atomic.Int64 // when its WRITE was queued on the link; 0: it was answered
}

// diskIO is a read or write in the kernel's queue.
type diskIO struct {
	op  proto.Op
	fua bool
	off proto.Offset
	n   proto.Length
}

// table is the request table and its free list.
type table struct {
	entries []entry
	app     int // entries that can be had with get
	arena   *Arena
	mu      sync.Mutex
	cond    *sync.Cond
	free    []uint32
	next    uint64 // the number that the next one who waits will get
	serving uint64 // the number of the one whose turn it is; next: nobody waits
	closed  bool
	digests []byte
}

// digestSize is the size of one block's digest in bytes, 128 bits (architecture section 5).
const digestSize = 16

const maxDigests = replica.SyncPiece / proto.BlockSize

func newTable(app, sync_ int, arena *Arena) *table {
	t := &table{entries: make([]entry, app+sync_), app: app, arena: arena}
	t.cond = sync.NewCond(&t.mu)
	t.digests = make([]byte, len(t.entries)*maxDigests*digestSize)
	for i := len(t.entries) - 1; i >= 0; i-- {
		e := &t.entries[i]
		e.req.Tag = uint32(i)
		e.digests = t.digests[i*maxDigests*digestSize:][:maxDigests*digestSize]
		if i < app {
			t.free = append(t.free, uint32(i))
		} else {
			e.buf = arena.Get(replica.SyncPiece)
		}
	}
	return t
}

// get takes a free entry with a buffer of n bytes (n may be 0) and one reference. It waits if wait, and returns nil
// when there is none or the table is closed. Who waits is served in the order of arrival, and nobody overtakes: a large buffer would
// never be free as long as there is somebody to take the small pieces of it.
func (t *table) get(n int, wait bool) *entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next == t.serving {
		if e := t.try(n); e != nil || !wait {
			return e
		}
	}
	if !wait {
		return nil
	}
	mine := t.next
	t.next++
	var e *entry
	for !t.closed {
		if mine == t.serving {
			if e = t.try(n); e != nil {
				break
			}
		}
		t.cond.Wait()
	}
	t.serving++
	if t.next != t.serving {
		t.cond.Broadcast() // the next one may find what it needs, too
	}
	return e
}

// try takes an entry if there is one.
func (t *table) try(n int) *entry {
	k := len(t.free)
	if k == 0 || t.closed {
		return nil
	}
	var b []byte
	if n > 0 {
		if b = t.arena.Get(n); b == nil {
			return nil
		}
	}
	i := t.free[k-1]
	t.free = t.free[:k-1]
	e := &t.entries[i]
	e.req = device.Request{Tag: i, Buf: b}
	e.buf = b
	e.refs.Store(1)
	return e
}

// hold takes one more reference to an entry that may have none left, and then reports false.
func (t *table) hold(i uint32) bool {
	if int(i) >= t.app {
		return true // the sync's entries keep their buffers
	}
	for e := &t.entries[i]; ; {
		n := e.refs.Load()
		if n == 0 {
			return false
		}
		if e.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (t *table) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.cond.Broadcast()
}

// drop takes a reference away; with the last one the entry and its buffer are free.
func (t *table) drop(i uint32) {
	if int(i) >= t.app {
		return // the sync's entries keep their buffers
	}
	e := &t.entries[i]
	switch n := e.refs.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic("engine: an entry was given back twice")
	}
	b := e.buf
	e.buf, e.req.Buf, e.req.Owner = nil, nil, nil
	e.readSeq.Store(0)
	e.sent.Store(0)
	t.mu.Lock()
	if b != nil {
		t.arena.Put(b)
	}
	t.free = append(t.free, i)
	wake := t.next != t.serving
	t.mu.Unlock()
	if wake {
		t.cond.Broadcast()
	}
}

// inUse counts the entries that somebody refers to.
func (t *table) inUse() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.app - len(t.free)
}
