package sim

import (
	"hast/hastd/replica"
	"hast/proto"
)

// request is one request of a client.
type request struct {
	op    proto.Op
	first int
	n     int
	fua   bool
	ver   version
	inv   Time
	// floor is, for a read, what every sector must at least show (rule 10); for a flush, what was promised before it, and drops
	// tells whether that was given up since.
	floor []Time
	drops int
	laxer proto.Mode // the laxest mode since it was issued
	sent  bool
	done  bool
	seen  int // flush: how many acknowledged writes it covers
}

// front is one node's front-end: the device that its clients use. It outlives the worker.
type front struct {
	attached bool
	out      []*request // not answered yet
}

// issue sends the next request of a client to a node that serves.
func (w *world) issue() {
	w.issuing = false
	if w.opsLeft == 0 {
		return
	}
	if n := w.server(); n != nil && len(n.front.out) < w.opt.Depth {
		w.opsLeft--
		r := w.draw(n)
		n.front.out = append(n.front.out, r)
		n.offer(r)
	}
	d := w.rnd.skew(5*usec, 20*msec)
	if w.rnd.one(40) {
		d = w.rnd.skew(10*msec, 9*sec)
	}
	if w.chasing() {
		d = w.rnd.skew(5*usec, 500*usec) // a piece is under way for a millisecond
	}
	w.issuing = true
	w.after(d, w.issue)
}

// chasing reports whether clients are to write where a sync is at work.
func (w *world) chasing() bool { return w.opt.Chase && w.syncAt > 0 && w.now-w.syncAt < 5*msec }

// syncing notes where a sync is at work.
func (w *world) syncing(first, n int) { w.syncSpot, w.syncLen, w.syncAt = first, n, w.now }

// server picks a node whose device is there; with split brain there may be two.
func (w *world) server() *node {
	a, b := w.nodes[0].front.attached, w.nodes[1].front.attached
	switch {
	case a && b:
		if w.split && w.left >= 0 && w.super(w.left).Data != proto.DataOutdated {
			return w.nodes[1-w.left]
		}
		return w.nodes[w.rnd.n(2)]
	case a:
		return w.nodes[0]
	case b:
		return w.nodes[1]
	}
	return nil
}

// draw invents a request.
func (w *world) draw(n *node) *request {
	r := &w.rnd
	q := &request{inv: w.now, laxer: w.mode}
	step := int(w.opt.Logical / sector)
	units := w.sectors / step
	at, cnt := r.n(units), 1
	if r.one(3) || w.opt.AloneError > 0 && !r.one(12) {
		at = w.spot/step + r.n(24*8/step)
	}
	if r.one(20) {
		w.spot = r.n(w.sectors)
	}
	switch r.n(6) {
	case 0:
		cnt = r.between(1, 8)
	case 1:
		cnt = r.between(1, 40)
	}
	k := r.n(100)
	if w.chasing() && r.one(2) {
		at, k = max(0, w.syncSpot+r.n(w.syncLen))/step, k%58 // in the piece; written, not read
	}
	if k >= 85 && w.opt.AloneError > 0 && !r.one(6) {
		k = 0 // where a flush is to lose something, there has to be something to lose, which neither a client nor a full map had flushed
	}
	switch {
	case k < 52:
		q.op = proto.OpWrite
		q.fua = r.one(12)
	case k < 58:
		q.op, cnt = proto.OpZero, cnt*r.between(1, 3)
		q.fua = r.one(12)
		if r.one(10) {
			cnt = units / r.between(1, 6)
		}
	case k < 85:
		q.op = proto.OpRead
	default:
		q.op = proto.OpFlush
		return q
	}
	at %= units
	q.first, q.n = at*step, min(cnt, units-at)*step
	if q.op != proto.OpZero {
		q.n = min(q.n, 512/step*step)
	}
	if q.op != proto.OpRead {
		w.lastVer++
		q.ver = w.lastVer
		if q.op == proto.OpZero {
			q.ver |= zeroBit
		}
		w.written(q)
	}
	return q
}

// offer gives a request to the worker, now or when it has room.
func (n *node) offer(r *request) {
	if !n.alive || n.role != proto.RolePrimary || n.stopping || r.sent {
		return
	}
	if !n.hasTag() {
		n.w.after(500*usec, func() { n.offerLater(r) })
		return
	}
	t := n.takeTag()
	r.sent = true
	n.client[t] = r
	w, o := n.w, n.w.oracleOf(n)
	ev := replica.Event{Kind: replica.EvIO, Tag: t, Op: r.op, Off: proto.Offset(w.skip+r.first) * sector, Len: proto.Length(r.n) * sector, FUA: r.fua}
	switch r.op {
	case proto.OpRead:
		if r.floor == nil {
			r.floor = append(w.times(0), o.floor[r.first:r.first+r.n]...)
		}
	case proto.OpWrite:
		for i := range n.bufs[t][:r.n] {
			n.bufs[t][i] = r.ver
		}
	case proto.OpFlush:
		if r.seen == 0 {
			r.seen = o.base + len(o.volatile)
			if w.opt.PowerLoss > 0 && r.floor == nil {
				r.floor, r.drops = o.promises(), o.drops
			}
		}
	}
	n.step(&ev)
}

func (n *node) offerLater(r *request) {
	for _, q := range n.front.out {
		if q == r {
			n.offer(r)
			return
		}
	}
}

// replied takes the answer to a request.
func (n *node) replied(t replica.Tag, errno proto.Errno) {
	w, r := n.w, n.client[t]
	if r == nil {
		w.fail("contract", "node %s answers tag %d, which has no request", n.name, t)
		return
	}
	if r.done {
		w.fail("contract", "node %s answers a request twice", n.name)
		return
	}
	r.done = true
	for i, q := range n.front.out {
		if q == r {
			n.front.out = append(n.front.out[:i], n.front.out[i+1:]...)
			break
		}
	}
	w.acked++
	w.judge(n, r, errno, n.bufs[t])
}

// resend gives a successor what its predecessor left unanswered.
func (n *node) resend() {
	for _, r := range n.front.out {
		r.sent = false
	}
	for _, r := range append([]*request(nil), n.front.out...) {
		n.offer(r)
	}
}

// detach takes the device away: what was not answered never will be.
func (n *node) detach() {
	for _, r := range n.front.out {
		n.w.oracleOf(n).ended(r, n.w.now)
	}
	n.front = front{}
	n.single = false
}
