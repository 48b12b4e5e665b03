package engine

import (
	"crypto/sha256"
	"crypto/subtle"
	"time"

	"hast/hastd/device"
	"hast/hastd/peer"
	"hast/hastd/replica"
	"hast/proto"
	"hast/proto/wire"
)

// batch is what a run of steps asks to be done without the lock.
type batch struct {
	link     *peer.Link
	flush    [2]bool
	replies  []*device.Request
	releases []uint32
	jobs     []job
	calls    []func()
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
	pool := n
	if n > 0 && e.inline(&b.jobs[n-1]) {
		pool--
	}
	for i := range pool {
		select {
		case e.jobs <- b.jobs[i]:
		case <-e.quit:
		}
	}
	var last job
	if pool < n {
		last = b.jobs[n-1]
	}
	clear(b.calls)
	*b = batch{replies: b.replies[:0], releases: b.releases[:0], jobs: b.jobs[:0], calls: b.calls[:0]}
	e.batches.Put(b)
	if pool < n {
		e.do(&last)
	}
}

// inlineMax is the largest write that its caller may do itself: 16 KiB take about as long as waking a goroutine
// twice. Whoever calls is the front-end's or the link's reader, and takes nothing in as long as it writes.
const inlineMax = 16 << 10

// inline reports whether j is better done by whoever brought it: it is short, and the only
// request there is, so that nobody waits behind it. Otherwise the disk would have a queue of one, whatever the client's depth.
func (e *Engine) inline(j *job) bool {
	return j.kind == jobDisk && j.op == proto.OpWrite && j.n <= inlineMax && e.table.inUse() <= 1
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
		e.diskOp(j, &ev)
		e.post(ev)
	case jobDigest:
		ev := replica.Event{Kind: replica.EvDigest, Tag: j.tag}
		e.digest(j, &ev)
		e.post(ev)
	case jobMeta:
		ev := replica.Event{Kind: replica.EvMeta}
		for i := range j.meta {
			if ev.Errno = e.disk.WriteMeta(j.meta[i].Data, j.meta[i].Off); ev.Errno != proto.OK {
				break
			}
		}
		if ev.Errno == proto.OK {
			ev.Errno = e.disk.FlushMeta()
		}
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
