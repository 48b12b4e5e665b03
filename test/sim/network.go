package sim

import (
	"hast/extent"
	"hast/hastd/replica"
	"hast/hastd/role"
	"hast/proto"
	"hast/proto/wire"
)

// frame is one frame on its way.
type frame struct {
	head wire.Header
	body []byte
	vers []version // what the payload, or the zeroes, stand for
	due  Time
	came int  // the receiver's count of frames that its disk has to do with
	done bool // its disk has done it
}

// stream is one direction of one of a link's two connections: first in, first out.
type stream struct {
	q       []*frame
	last    Time
	pumping bool
}

// end is one node's side of a link.
type end struct {
	conn    replica.Conn
	inc     int  // incarnation of the worker that has it
	closing bool // the worker has closed it; EvPeerDown is on its way
	down    bool
}

// link is one pair of connections, data and control, from EvPeerUp to EvPeerDown on both sides.
type link struct {
	end     [2]end
	streams [2][2]stream // by sender, by connection
	dead    bool         // cut: nothing is taken any more
	born    Time
	silent  [2]bool // what this node sends is lost

	verdict     [2]role.Action // as sent
	target      bool           // START was sent, and makes the secondary's copy one that counts for nothing until its sync is done
	before      [2][]bool      // dirty bits at EvPeerUp (rule 4)
	established bool
	moved       int // blocks of data that the sync sent
	bound       int // blocks marked when the session began; -1: not counted
}

func (w *world) delay() Time {
	if w.opt.SlowNet && w.faults && w.rnd.one(4) {
		return w.rnd.skew(100*usec, 50*msec)
	}
	return w.rnd.skew(20*usec, 400*usec)
}

// dial tries for a connection as long as n wants one.
func (w *world) dial(n *node) {
	if !n.want || n.dialing || !n.alive {
		return
	}
	n.dialing = true
	inc := n.inc
	w.after(w.rnd.skew(200*usec, 1500*msec), func() {
		if n.inc != inc {
			return
		}
		n.dialing = false
		p := w.peerOf(n)
		if !n.want || n.link != nil || n.single {
			return
		}
		if w.partition || w.cutOff || !p.alive || p.stopping || n.stopping {
			w.dial(n)
			return
		}
		w.join(n, p)
	})
}

func (w *world) join(a, b *node) {
	if b.link != nil {
		old := b.link
		w.goDown(old, b.id, "replaced by a new connection")
		w.cut(old)
	}
	if a.link != nil || !a.alive || !b.alive {
		return
	}
	l := &link{bound: -1, born: w.now}
	for _, n := range [2]*node{a, b} {
		n.conns++
		l.end[n.id] = end{conn: n.conns, inc: n.inc}
		n.link = l
		if n == a {
			n.want = false
		}
	}
	w.ruleHandshakeBegins(l)
	if w.opt.Cut > 0 && w.faults && w.rnd.one(12) { // a handshake is short, and is to be lost at each of its steps
		w.after(w.rnd.skew(50*usec, 6*msec), func() { w.cut(l) })
	}
	if w.opt.GreetCut && w.faults && w.rnd.one(2) {
		w.after(w.rnd.skew(50*usec, 8*msec), func() { w.spoilHandshake(l) })
	}
	first, second := a, b
	if w.rnd.one(2) {
		first, second = b, a
	}
	w.tracef(-1, "link up %d/%d", l.end[0].conn, l.end[1].conn)
	for _, n := range [2]*node{first, second} {
		if n.link == l {
			n.step(&replica.Event{Kind: replica.EvPeerUp, Conn: l.end[n.id].conn})
		}
	}
}

// spoilHandshake ends a link soon after its beginning.
func (w *world) spoilHandshake(l *link) {
	n := w.nodes[w.rnd.n(2)]
	if n.link != l || !w.faults || w.rnd.one(2) {
		w.cut(l)
		return
	}
	w.crash(n)
}

// transmit takes a frame from node n.
func (w *world) transmit(n *node, conn replica.Conn, f *frame) {
	l := n.link
	if f.head.Type == wire.TypeSyncDone && w.super(n.id).Flags&extent.FlagFlushFailed == 0 {
		n.flushEIO = false // a target that has everything, on both disks, whether the source hears of it or not
	}
	if l == nil || l.end[n.id].conn != conn || l.end[n.id].closing || l.dead || l.silent[n.id] {
		return
	}
	w.seeFrame(l, n, f)
	kind := 0
	if f.head.Type >= wire.TypeAck {
		kind = 1
	}
	s := &l.streams[n.id][kind]
	f.due = max(s.last, w.now+w.delay())
	s.last = f.due
	s.q = append(s.q, f)
	if !s.pumping {
		s.pumping = true
		w.after(f.due-w.now, func() { w.pumpStream(l, n.id, kind) })
	}
}

// pumpStream delivers the first frame of a stream.
func (w *world) pumpStream(l *link, from, kind int) {
	s := &l.streams[from][kind]
	to := w.nodes[1-from]
	e := &l.end[to.id]
	if e.down || e.inc != to.inc || len(s.q) == 0 {
		s.q, s.pumping = nil, false
		return
	}
	f := s.q[0]
	if kind == 0 && to.role == proto.RoleSecondary && !to.hasTag() {
		w.after(200*usec, func() { w.pumpStream(l, from, kind) })
		return
	}
	s.q = s.q[1:]
	if len(s.q) > 0 {
		w.after(s.q[0].due-w.now, func() { w.pumpStream(l, from, kind) })
	} else {
		s.pumping = false
	}
	to.receive(e.conn, f)
}

// cut ends a link: of what is on its way some arrives, and each side notices in its own time.
func (w *world) cut(l *link) {
	if l.dead {
		return
	}
	l.dead = true
	for from := range l.streams {
		for kind := range l.streams[from] {
			s := &l.streams[from][kind]
			if n := w.rnd.n(len(s.q) + 1); w.rnd.one(2) {
				s.q = s.q[:n]
			}
		}
	}
	for i := range l.end {
		w.downAfter(l, i, w.rnd.skew(10*usec, 3*sec))
	}
}

func (w *world) downAfter(l *link, node int, d Time) {
	if l.end[node].down {
		return
	}
	w.after(d, func() { w.goDown(l, node, "connection lost") })
}

// goDown tells a worker that its connection is gone.
func (w *world) goDown(l *link, id int, why string) {
	e := &l.end[id]
	if e.down {
		return
	}
	e.down = true
	n := w.nodes[id]
	if n.inc != e.inc || n.link != l {
		return
	}
	n.link = nil
	n.step(&replica.Event{Kind: replica.EvPeerDown, Conn: e.conn, Text: why, Wall: w.wall()})
}

// disconnect is what a worker asks for.
func (w *world) disconnect(n *node, conn replica.Conn) {
	l := n.link
	if l == nil || l.end[n.id].conn != conn || l.end[n.id].closing {
		return
	}
	l.end[n.id].closing = true
	w.downAfter(l, n.id, w.rnd.skew(0, 2*msec))
	last := max(l.streams[n.id][0].last, l.streams[n.id][1].last, w.now)
	w.downAfter(l, 1-n.id, last-w.now+w.rnd.skew(10*usec, 50*msec))
}

// abandonLinks is what the peer of a node that died sees.
func (w *world) abandonLink(n *node, slow bool) {
	l := n.link
	n.link = nil
	if l == nil {
		return
	}
	l.end[n.id].down = true
	if slow {
		l.silent[n.id] = true
		l.dead = true
		w.downAfter(l, 1-n.id, w.rnd.skew(100*msec, 3*sec))
		return
	}
	w.cut(l)
}

// outage cuts the link for a while, or makes one direction of it silent first.
func (w *world) outage() {
	d := w.rnd.skew(usec, Time(w.opt.CutLong)*msec)
	l := w.nodes[0].link
	if l == nil {
		l = w.nodes[1].link
	}
	if w.rnd.one(3) {
		w.partition = true
		w.after(d, func() { w.partition = false })
	}
	w.tracef(-1, "outage")
	if l == nil || l.dead {
		return
	}
	if w.rnd.one(3) {
		l.silent[w.rnd.n(2)] = true
		w.after(w.rnd.skew(100*msec, 2*sec), func() { w.cut(l) })
		return
	}
	w.cut(l)
}
