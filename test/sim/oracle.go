package sim

import (
	"math"

	"hast/hastd/replica"
	"hast/proto"
)

const never = Time(math.MaxInt64)

// fate is what is known of one write: when it was issued, and when it was over:
// acknowledged, failed, or given up with the client that waited for it. A write
// that was not acknowledged has happened before its end, or it has not happened at all.
type fate struct {
	first, n int
	inv, end Time
}

// oracle knows what clients were promised, sector by sector: the newest
// acknowledged write's begin. Whatever ended before that is too old to be read.
type oracle struct {
	w      *world
	floor  []Time // promised as long as no cache is lost
	stable []Time // promised for good: covered by a flush
	// volatile are the acknowledged writes that no flush covers yet, the oldest first; base is how many came before.
	volatile []version
	base     int
	// barriers are the last acknowledged flushes; drops counts how often promises were given up.
	barriers []barrier
	drops    int
}

// barrier is an acknowledged flush: what was promised when it was issued, and when it was acknowledged. Whatever was issued after that
// comes after all of it on the peer's disk, too.
type barrier struct {
	at    Time
	floor []Time
}

const maxBarriers = 16

// barred notes an acknowledged flush, and gives back the memory of the oldest.
func (o *oracle) barred(r *request, now Time) {
	if r.floor == nil || r.drops != o.drops {
		return
	}
	if len(o.barriers) == maxBarriers {
		o.w.spare = append(o.w.spare, o.barriers[0].floor)
		o.barriers = append(o.barriers[:0], o.barriers[1:]...)
	}
	o.barriers = append(o.barriers, barrier{now, r.floor})
}

// promises returns a copy of what is promised now.
func (o *oracle) promises() []Time {
	w := o.w
	if n := len(w.spare); n > 0 {
		f := w.spare[n-1]
		w.spare = w.spare[:n-1]
		copy(f, o.floor)
		return f
	}
	return append(make([]Time, 0, len(o.floor)), o.floor...)
}

func newOracle(w *world) *oracle {
	return &oracle{w: w, floor: make([]Time, w.sectors), stable: make([]Time, w.sectors)}
}

func (w *world) oracleOf(n *node) *oracle { return w.oracles[n.id] }

// written notes that a write was issued.
func (w *world) written(r *request) {
	i := int(r.ver &^ zeroBit)
	for len(w.fates) <= i {
		w.fates = append(w.fates, fate{})
	}
	w.fates[i] = fate{r.first, r.n, r.inv, never}
}

func (w *world) fate(v version) *fate { return &w.fates[v&^zeroBit] }

// ended notes that nobody waits for r any more.
func (o *oracle) ended(r *request, now Time) {
	if r.op == proto.OpWrite || r.op == proto.OpZero {
		if f := o.w.fate(r.ver); f.end == never {
			f.end = now
		}
	}
}

// promised notes an acknowledged write.
func (o *oracle) promised(r *request, now Time) {
	o.w.fate(r.ver).end = now
	for s := r.first; s < r.first+r.n; s++ {
		o.floor[s] = max(o.floor[s], r.inv)
		if r.fua {
			o.stable[s] = max(o.stable[s], r.inv)
		}
	}
	if !r.fua {
		o.volatile = append(o.volatile, r.ver)
	}
}

// flushed notes an acknowledged flush that covers the first seen writes.
func (o *oracle) flushed(seen int) {
	k := min(seen-o.base, len(o.volatile))
	if k <= 0 {
		return
	}
	for _, v := range o.volatile[:k] {
		f := o.w.fate(v)
		for s := f.first; s < f.first+f.n; s++ {
			o.stable[s] = max(o.stable[s], f.inv)
		}
	}
	o.volatile = append(o.volatile[:0], o.volatile[k:]...)
	o.base += k
}

// dropVolatile gives up what no flush covered: the fault plan allowed it to be lost.
func (o *oracle) dropVolatile() {
	o.base += len(o.volatile)
	o.volatile = o.volatile[:0]
	o.barriers, o.drops = o.barriers[:0], o.drops+1
	copy(o.floor, o.stable)
}

// rebase lowers the promises to what a node holds: the others were given up by the mode or by an operator.
func (o *oracle) rebase(n *node) {
	o.base += len(o.volatile)
	o.volatile = o.volatile[:0]
	o.barriers, o.drops = o.barriers[:0], o.drops+1
	marks := o.w.stableMarks(n.id)
	for s := range o.floor {
		if marks.err == nil && marks.never[s/8/o.w.perExtent] { // it has something there by chance, and does not count it (rule 16)
			o.floor[s], o.stable[s] = 0, 0
			continue
		}
		end := o.w.fate(n.disk.cache[s]).end
		o.floor[s] = min(o.floor[s], end)
		o.stable[s] = min(o.stable[s], end, o.w.fate(n.disk.stable[s]).end)
	}
}

// holds reports whether a node's disk shows everything that was promised.
func (o *oracle) holds(n *node) bool {
	for s, f := range o.floor {
		if o.w.fate(n.disk.cache[s]).end < f {
			return false
		}
	}
	return true
}

// keeps reports whether a node has everything that was promised on stable storage.
func (o *oracle) keeps(n *node) bool {
	for s, f := range o.floor {
		if o.w.fate(n.disk.stable[s]).end < f {
			return false
		}
	}
	return true
}

func (o *oracle) clone() *oracle {
	c := *o
	c.floor = append([]Time(nil), o.floor...)
	c.stable = append([]Time(nil), o.stable...)
	c.volatile = append([]version(nil), o.volatile...)
	c.barriers = nil
	return &c
}

// judge takes the answer to a request: the checkers of acknowledgements and reads.
func (w *world) judge(n *node, r *request, errno proto.Errno, buf []version) {
	o := w.oracleOf(n)
	if errno != proto.OK {
		w.ruleNoErrors(n, errno)
		o.ended(r, w.now)
		if r.op != proto.OpFlush {
			w.spot = r.first // who was told of an error looks at the same place again
		}
		return
	}
	if r.op != proto.OpRead {
		w.ruleOneWriter(n, r)
		w.ruleFlushFinal(n, r)
	}
	switch r.op {
	case proto.OpRead:
		w.ruleReadCurrent(n, r, buf)
	case proto.OpFlush:
		w.ruleFlushAck(n, o, r)
		o.flushed(r.seen)
		o.barred(r, w.now)
		w.afterFlush(n)
	default:
		o.promised(r, w.now)
		if n.alive && n.m.Status().LocalLost && w.peerOf(n).lastLoss >= r.inv {
			o.dropVolatile() // the only copy lost its cache while the answer was on its way
		}
		w.ruleWriteAck(n, r)
		if n.m.Status().Link != replica.LinkConnected {
			w.acksSinceSplit[n.id]++ // before it noticed that the peer was gone, the peer had answered, or it was async's lag
		}
	}
}
