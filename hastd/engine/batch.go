package engine

import (
	"crypto/sha256"
	"crypto/subtle"
	"time"

	"hast/hastd/device"
	"hast/hastd/peer"
	"hast/hastd/replica"
	"hast/hastd/store"
	"hast/hastd/store/aio"
	"hast/proto"
	"hast/proto/wire"

	"golang.org/x/sys/unix"
)

// batch is what a run of steps asks to be done without the lock.
type batch struct {
	lease    leaseState
	now      replica.Time // of the last step
	link     *peer.Link
	flush    [2]bool
	replies  []*device.Request
	releases []uint32
	jobs     []job
	calls    []func()
	disk     aio.Batch
}

type jobKind uint8

const (
	jobDisk jobKind = iota + 1
	jobDigest
	jobMeta
)

// job is one piece of work for the disk.
type job struct {
	kind         jobKind
	op           proto.Op
	fua, noUnmap bool
	tag          replica.Tag
	off          proto.Offset
	n            proto.Length
	key          [32]byte
	meta         []replica.MetaBlock
}

// perform carries b out. The wire comes first, so that the peer's disk works while ours does.
func (e *Engine) perform(b *batch) {
	for i, k := range [2]peer.Kind{peer.Data, peer.Control} {
		if b.flush[i] {
			b.link.Flush(k)
		}
	}
	if len(b.replies) > 0 {
		e.answer(b.replies)
	}
	for _, t := range b.releases {
		e.table.drop(t)
	}
	for _, f := range b.calls {
		f()
	}
	n := len(b.jobs)
	var last job
	inline := n > 0 && e.inline(&b.jobs[n-1])
	if inline {
		n--
		last = b.jobs[n]
		e.ages.begin(&last, b.now)
	}
	if n > 0 {
		e.handOut(b, b.jobs[:n])
	}
	clear(b.calls)
	*b = batch{replies: b.replies[:0], releases: b.releases[:0], jobs: b.jobs[:0], calls: b.calls[:0], disk: b.disk}
	e.batches.Put(b)
	if inline {
		e.do(&last)
	}
}

// handOut brings jobs on their way: reads and writes to the kernel's queue with one system call for all, the rest to the pool.
func (e *Engine) handOut(b *batch, jobs []job) {
	now := e.now()
	queue := e.queue != nil && !e.queueOff.Load()
	for i := range jobs {
		j := &jobs[i]
		e.ages.begin(j, now)
		if !queue || !e.queued(j, &b.disk) {
			e.toPool(j)
		}
	}
	if b.disk.Len() > 0 {
		e.queue.Submit(&b.disk, e.refused)
		b.disk.Reset()
	}
}

// queued puts j into the batch for the kernel's queue if it is of that kind. A sync's reads are not: looking whether
// all bytes are zero would keep whoever takes the completions.
func (e *Engine) queued(j *job, d *aio.Batch) bool {
	if j.kind != jobDisk || int(j.tag) >= e.table.app {
		return false
	}
	en := &e.table.entries[j.tag]
	switch j.op {
	case proto.OpRead:
		d.Read(en.buf[:j.n], int64(j.off), uint64(j.tag))
	case proto.OpWrite:
		d.Write(en.buf[:j.n], int64(j.off), j.fua, uint64(j.tag))
	default:
		return false
	}
	en.disk = diskIO{op: j.op, fua: j.fua, off: j.off, n: j.n}
	return true
}

// toPool hands j to the pool. It never waits: the channel has room for as many jobs as a machine can have.
func (e *Engine) toPool(j *job) {
	select {
	case e.jobs <- *j:
	case <-e.quit:
	}
}

// refuse takes back what the kernel's queue did not accept.
func (e *Engine) refuse(data uint64, why unix.Errno) {
	if why == unix.EOPNOTSUPP {
		e.leaveQueue()
	}
	e.again(uint32(data))
}

// leaveQueue gives the queue up for new requests: file system or device would wait in submission.
func (e *Engine) leaveQueue() {
	if !e.queueOff.Swap(true) {
		e.note("disk: asynchronous I/O without waiting is not possible on it; reads and writes are done by threads, which is slower")
	}
}

// again lets the pool do what the kernel's queue did not do, or not all of: it would have had to wait, or wants it in
// other pieces. To write the same bytes once more does no harm.
func (e *Engine) again(tag uint32) {
	d := &e.table.entries[tag].disk
	e.toPool(&job{kind: jobDisk, tag: replica.Tag(tag), op: d.op, fua: d.fua, off: d.off, n: d.n})
}

// reaped takes completions of the kernel's queue.
func (e *Engine) reaped(list []aio.Event) {
	now := e.now()
	e.inMu.Lock()
	for i := range list {
		tag := uint32(list[i].Data)
		d := &e.table.entries[tag].disk
		outcome, again := store.Outcome(list[i].Res, d.n)
		if again {
			if list[i].Res == -int64(unix.EOPNOTSUPP) {
				e.leaveQueue()
			}
			e.again(tag)
			continue
		}
		began := e.ages.end(replica.Tag(tag))
		if d.op == proto.OpWrite {
			e.local.Add(time.Duration(now) - time.Duration(began))
		}
		e.inbox = append(e.inbox, replica.Event{Kind: replica.EvDisk, Tag: replica.Tag(tag), Errno: outcome})
	}
	e.inMu.Unlock()
	e.pump()
}

// inlineMax is the largest write that its caller may do itself: 16 KiB take about as long as waking a goroutine
// twice. Whoever calls is the front-end's or the link's reader, and takes nothing in as long as it writes: on a disk that
// is stuck, a secondary's reader does not see that its primary has gone. It is one request, the only one there is, and
// without its end nothing else could be done about it anyway: neither a successor nor another connection starts before.
const inlineMax = 16 << 10

// A memsync primary waits for "received" alone, which no write may hold up, so there a secondary's reader never writes.
//
// A secondary starts a flush that its primary sent when every write before it is done, and starts nothing behind it until it is
// done (rule 1): whoever takes in what follows could do nothing with it, so he may as well flush.
//
// inline reports whether j is better done by whoever brought it: a short write or a flush that is the only
// request there is, so that nobody waits behind it, or such a flush of a secondary's. Otherwise the disk would have a queue of one, whatever the client's depth.
func (e *Engine) inline(j *job) bool {
	if j.kind != jobDisk || e.memsync.Load() {
		return false
	}
	switch j.op {
	case proto.OpWrite:
		return j.n <= inlineMax && e.table.inUse() <= 1
	case proto.OpFlush: // of a client that waits for it; the machine's own, when nobody asks for anything, are the pool's
		return e.table.inUse() == 1 || !e.cfg.Primary && int(j.tag) < e.table.app
	}
	return false
}

// work is one goroutine of the pool.
func (e *Engine) work() {
	for {
		select {
		case j := <-e.jobs:
			e.do(&j)
			e.pump()
		case <-e.quit:
			return
		}
	}
}

// do runs a job and posts its outcome.
func (e *Engine) do(j *job) {
	switch j.kind {
	case jobDisk:
		ev := replica.Event{Kind: replica.EvDisk, Tag: j.tag}
		if j.op == proto.OpFlush {
			e.flushing.Lock()
			defer e.flushing.Unlock()
		}
		e.diskOp(j, &ev)
		e.ages.end(j.tag)
		e.post(ev)
	case jobDigest:
		ev := replica.Event{Kind: replica.EvDigest, Tag: j.tag}
		e.digest(j, &ev)
		e.ages.end(j.tag)
		e.post(ev)
	case jobMeta:
		ev := replica.Event{Kind: replica.EvMeta}
		for i := range j.meta {
			if ev.Errno = e.disk.WriteMeta(j.meta[i].Data, j.meta[i].Off); ev.Errno != proto.OK {
				break
			}
		}
		if ev.Errno == proto.OK {
			e.flushing.Lock()
			defer e.flushing.Unlock()
			ev.Op, ev.Errno = proto.OpFlush, e.disk.FlushMeta()
		}
		e.ages.end(metaTag)
		e.post(ev)
	}
}

func (e *Engine) diskOp(j *job, ev *replica.Event) {
	switch j.op {
	case proto.OpRead:
		buf := e.table.entries[j.tag].buf[:j.n]
		ev.Errno = e.disk.Read(buf, j.off)
		if int(j.tag) >= e.table.app && ev.Errno == proto.OK && wire.AllZero(buf) {
			ev.Mask = 1
		}
	case proto.OpWrite:
		began := time.Now()
		ev.Errno = e.disk.Write(e.table.entries[j.tag].buf[:j.n], j.off, j.fua)
		e.local.Add(time.Since(began))
	case proto.OpZero:
		ev.Errno = e.disk.Zero(j.off, j.n, j.fua, j.noUnmap)
	case proto.OpFlush:
		ev.Errno = e.disk.Flush()
	}
}

// digest reads a range and makes a keyed digest of each of its blocks: SHA-256 of
// key and block, cut to 128 bits. A secondary compares them with what DIGEST brought.
func (e *Engine) digest(j *job, ev *replica.Event) {
	en := &e.table.entries[j.tag]
	buf := en.buf[:j.n]
	if ev.Errno = e.disk.Read(buf, j.off); ev.Errno != proto.OK {
		return
	}
	var in [32 + proto.BlockSize]byte
	copy(in[:], j.key[:])
	for i := 0; i*proto.BlockSize < len(buf); i++ {
		copy(in[32:], buf[i*proto.BlockSize:][:proto.BlockSize])
		sum := sha256.Sum256(in[:])
		d := en.digests[i*digestSize:][:digestSize]
		if e.cfg.Primary {
			copy(d, sum[:])
		} else if subtle.ConstantTimeCompare(d, sum[:digestSize]) == 1 {
			ev.Mask |= 1 << i
		}
	}
}
