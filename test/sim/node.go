package sim

import (
	"hast/extent"
	"hast/hastd/replica"
	"hast/proto"
	"hast/proto/wire"
)

// machine is what the two machines have in common.
type machine interface {
	Step(now replica.Time, ev *replica.Event, out *replica.Effects)
	Deadline() replica.Time
	Status() replica.Status
}

// Sizes of a worker's request table.
const (
	appTags  = 16
	syncTags = 3
)

// node is one machine: its disk, and what the daemon on it is doing.
type node struct {
	w    *world
	id   int
	name proto.Node
	disk *disk

	up    bool // the kernel runs
	power int  // counts losses of power
	boot  proto.ID

	role     proto.Role
	alive    bool // a worker runs
	inc      int  // counts workers
	m        machine
	out      replica.Effects
	terms    int  // counts promotions, and what ends the use of one
	promoted bool // the term as primary is established: successors go on with it
	stopping bool
	stopped  func() // waits for EfStopped

	link    *link
	conns   replica.Conn
	want    bool
	dialing bool

	bufs     [appTags + syncTags][]version
	used     [appTags]bool
	client   [appTags]*request // primary: whose tag it is
	nextTick Time
	front    front

	memory       [appTags]*frame // secondary: frames that the machine holds, by tag
	came         int             // counts them
	lastLoss     Time            // when its disk last lost something
	intact       bool            // in sync at the last look, and no worker ended since
	lostVolatile bool            // lost power as primary since
	flushLost    bool            // a flush failed here while the peer was away, and the peer has what that may have dropped
	localFailed  bool            // this worker was told of a failed local write, flush or metadata transaction
	flushEIO     bool            // rule 11: a flush failed here without a peer
	flushEIOAt   Time
	orderly      bool // it is ending by the operator's will
	metaFailed   bool // this worker was told of a failed metadata transaction
	lastDeath    Time // when a worker ended last, with what it held in memory
	term         bool // rulePromoted has judged this worker
	forced       bool
	splitSeen    bool
	single       bool // no peer is configured (remote = "none"); a primary only
	localOut     bool // the last worker had lost its local copy
}

func (n *node) hasTag() bool {
	for _, u := range n.used {
		if !u {
			return true
		}
	}
	return false
}

// inMemory returns the frame that a secondary carries out under tag t, if it does.
func (n *node) inMemory(t replica.Tag) *frame {
	if int(t) >= appTags {
		return nil
	}
	return n.memory[t]
}

func (n *node) takeTag() replica.Tag {
	for i, u := range n.used {
		if !u {
			n.used[i] = true
			return replica.Tag(i)
		}
	}
	panic("sim: no tag")
}

// start begins a worker in a role.
func (n *node) start(r proto.Role, successor bool) {
	w := n.w
	if !n.up || n.alive || n.disk.busy() {
		panic("sim: a worker is started where none can be")
	}
	l, err := load(n.disk.meta, w.lay)
	if err != nil {
		w.fail("metadata", "node %s can't load its metadata: %v", n.name, err)
		return
	}
	if l.super.Flags&extent.FlagFlushFailed == 0 {
		n.disk.reveal()
	}
	n.role, n.alive, n.inc = r, true, n.inc+1
	n.link, n.conns, n.want, n.dialing, n.stopping, n.stopped, n.nextTick = nil, 0, false, false, false, nil, 0
	n.used, n.client = [appTags]bool{}, [appTags]*request{}
	n.localFailed, n.metaFailed, n.term, n.forced = false, false, false, false
	n.memory = [appTags]*frame{}
	cfg := replica.Config{Node: n.name, Name: "sim", BootID: n.boot, Layout: w.lay, AppTags: appTags, SyncTags: syncTags,
		Settings: w.settings(n), Super: l.super, SuperSlot: l.slot, Dirty: l.dirty, Never: l.never, Active: l.active, AllActive: l.all, MapSeq: l.mapSeq,
		Successor: successor}
	if successor {
		cfg.Grace = w.rnd.skew(200*msec, 3*sec)
	}
	w.tracef(n.id, "start %s successor=%v data=%s flags=%s epoch=%s gen=%s base=%s", r, successor, l.super.Data, l.super.Flags, l.super.Epoch, l.super.Current.Short(), l.super.Base.Short())
	if r == proto.RolePrimary {
		n.m = replica.NewPrimary(cfg)
	} else {
		n.m = replica.NewSecondary(cfg)
	}
	n.step(&replica.Event{Kind: replica.EvStart, Wall: w.wall(), Random: [4]uint64{w.rnd.next(), w.rnd.next(), w.rnd.next(), w.rnd.next()}})
}

// die ends the worker at once; its disk operations end by themselves.
func (n *node) die() {
	if !n.alive {
		return
	}
	n.w.tracef(n.id, "worker dies")
	if n.flushEIO && (n.metaFailed || n.disk.metaN > 0) && n.w.super(n.id).Flags&extent.FlagFlushFailed == 0 {
		n.forgetful() // the record was on its way, or there is nothing to record it on
	}
	n.w.workerEnds(n)
	n.localOut = n.m.Status().LocalLost
	n.alive, n.inc, n.m, n.stopped = false, n.inc+1, nil, nil
	n.w.abandonLink(n, n.w.rnd.one(3))
}

// step gives the machine one event and carries out what it asks for.
func (n *node) step(ev *replica.Event) {
	w := n.w
	if !n.alive {
		return
	}
	w.steps++
	if w.trace != nil {
		w.traceEvent(n, ev)
	}
	n.out.Reset()
	n.m.Step(w.now, ev, &n.out)
	inc := n.inc
	for i := range n.out.List {
		e := &n.out.List[i]
		if w.trace != nil {
			w.traceEffect(n, e)
		}
		n.do(e)
		if n.inc != inc {
			return
		}
	}
	n.plan()
}

// plan arranges for the next tick.
func (n *node) plan() {
	d := n.m.Deadline()
	if n.nextTick != 0 && n.nextTick <= d && n.nextTick > n.w.now {
		return
	}
	d = max(d, n.w.now+1)
	n.nextTick = d
	inc := n.inc
	n.w.after(d-n.w.now, func() {
		if n.inc == inc && n.nextTick == d {
			n.nextTick = 0
			n.step(&replica.Event{Kind: replica.EvTick, Wall: n.w.wall()})
		}
	})
}

func (n *node) do(e *replica.Effect) {
	w := n.w
	switch e.Kind {
	case replica.EfReply:
		n.replied(e.Tag, e.Errno)
	case replica.EfRelease:
		if r := n.client[e.Tag]; r != nil && !r.done {
			w.fail("contract", "node %s releases tag %d unanswered", n.name, e.Tag)
		}
		n.used[e.Tag] = false
		n.memory[e.Tag] = nil
		n.client[e.Tag] = nil
	case replica.EfDisk:
		n.submit(e)
	case replica.EfDigest:
		n.digest(e)
	case replica.EfSend:
		n.send(e)
	case replica.EfMeta:
		n.persist(e.Meta)
	case replica.EfConnect:
		n.want = !n.single
		w.dial(n)
	case replica.EfDisconnect:
		w.disconnect(n, e.Conn)
	case replica.EfReport:
		if e.Report.Kind == replica.ReportSplitBrain {
			n.splitSeen = true
		}
		w.ruleFrozenBeginsNone(n, &e.Report)
	case replica.EfStopped:
		if f := n.stopped; f != nil {
			n.stopped = nil
			w.after(0, f)
		}
	}
}

// submit carries out an EfDisk.
func (n *node) submit(e *replica.Effect) {
	w := n.w
	first, cnt := w.span(e.Off, e.Len)
	op := &diskOp{tag: uint32(e.Tag), op: e.Op, first: first, n: cnt, fua: e.FUA}
	if e.Op == proto.OpWrite || e.Op == proto.OpZero {
		op.vers = w.slice(cnt)
		copy(op.vers, n.content(e.Tag, e.Op, cnt))
		w.ruleMarkedFirst(n, e, first, cnt)
	}
	if e.Op == proto.OpRead && n.role == proto.RolePrimary && int(e.Tag) >= appTags {
		w.syncing(first, cnt)
	}
	w.ruleStreamOrder(n, e)
	inc, tag := n.inc, e.Tag
	n.disk.submit(op, func(errno proto.Errno) {
		if n.inc != inc {
			if errno != proto.OK && (op.op == proto.OpFlush || op.fua) {
				n.forgetful()
			}
			return
		}
		if f := n.inMemory(tag); f != nil {
			f.done = true
		}
		ev := replica.Event{Kind: replica.EvDisk, Tag: tag, Errno: errno}
		if op.op == proto.OpRead && errno == proto.OK {
			buf := n.bufs[tag][:cnt]
			copy(buf, n.disk.cache[first:first+cnt])
			if allZero(buf) {
				ev.Mask = 1
			}
		}
		if errno != proto.OK && op.op != proto.OpRead {
			if op.fua {
				n.failedLocally(proto.OpFlush) // write and flush in one
			} else {
				n.failedLocally(op.op)
			}
		}
		n.step(&ev)
	})
}

// forgetful: a flush failed, and whoever was told has gone before it could be written down. What the disk
// dropped nobody knows of then; no software would survive it, so the plan gives up what no flush had covered.
func (n *node) forgetful() {
	n.flushEIO = false
	n.disk.reveal()
	for _, o := range n.w.oracles {
		o.dropVolatile()
	}
}

// failedLocally notes what the worker is about to hear.
func (n *node) failedLocally(op proto.Op) {
	n.localFailed = true
	w := n.w
	if n.role != proto.RolePrimary {
		if p := w.peerOf(n); op == proto.OpFlush && (w.super(p.id).Data == proto.DataInconsistent || p.flushLost || !w.oracleOf(n).holds(p)) {
			w.oracleOf(n).dropVolatile() // it may have been the only copy of what it has just lost
		}
		return
	}
	if op == proto.OpFlush && n.m.Status().Link != replica.LinkConnected {
		n.flushEIO, n.flushEIOAt = true, w.now
	}
	alone := n.m.Status().Link != replica.LinkConnected
	p, o := w.peerOf(n), w.oracleOf(n)
	switch {
	case n.link != nil && !(w.lags() && alone) && w.super(p.id).Data == proto.DataUpToDate && o.holds(p):
		n.flushLost = n.flushLost || op == proto.OpFlush && alone // if the handshake ends as it began
	case op == proto.OpFlush && w.standsBy(p, n) && !(n.link != nil && n.link.target):
		n.flushLost = true // it is the source when they meet, and then has to be as good as now
	default:
		o.dropVolatile() // there was no other copy
		if n.link != nil {
			w.onlyReceived(p)
		}
	}
	if w.lags() {
		w.oracleOf(n).rebase(w.peerOf(n)) // the peer's copy stands in; what was under way to it is async's lag
	}
}

// standsBy reports whether p, which is not connected, has everything that n may have lost by a failed flush, and is known to: it is of n's generation,
// and the mode waited for its disk (rule 23.1 of the verdicts).
func (w *world) standsBy(p, n *node) bool {
	sp, sn := w.super(p.id), w.super(n.id)
	return w.opt.Mode == proto.ModeFullsync && !w.lags() && !w.everSplit && sp.Current == sn.Current && !sp.Current.IsZero() &&
		(sp.Data == proto.DataUpToDate || sp.Data == proto.DataConsistent) && sp.Flags&extent.FlagFlushFailed == 0 &&
		!p.flushLost && !p.lostVolatile && !p.localFailed && w.oracleOf(n).holds(p)
}

// onlyReceived follows the loss of what memsync's flushes leave to the peer's memory, when the peer's is the only copy that is left: a person decides
// then (safety.md, "and then the peer, too").
func (w *world) onlyReceived(p *node) {
	if w.opt.Mode == proto.ModeMemsync && w.super(p.id).Data == proto.DataUpToDate {
		w.oracleOf(p).rebase(p)
	}
}

// justAlone reports whether n is a primary that has lost its peer, and has recorded nothing of it yet.
func (w *world) justAlone(n *node) bool {
	return n.alive && n.role == proto.RolePrimary && n.link == nil && w.super(n.id).Flags&extent.FlagConnected != 0
}

// greeting reports whether n's worker is agreeing on something with its peer: a session, or that a sync is done. What failed since one
// side said how things stand is in nobody's words.
func (w *world) greeting(n *node) bool {
	if w.opt.GreetError == 0 || !n.alive || n.link == nil {
		return false
	}
	s := n.m.Status()
	return s.Link == replica.LinkHandshake || s.Syncing && s.DirtyBytes == 0
}

// lags reports whether acknowledged writes may be under way to the peer only.
func (w *world) lags() bool { return w.opt.Mode == proto.ModeAsync || w.opt.ModeChange }

func allZero(v []version) bool {
	for _, x := range v {
		if x&zeroBit == 0 {
			return false
		}
	}
	return true
}

// content returns what a tag's buffer holds; for zeroes of the front-end, the version that stands for them.
func (n *node) content(t replica.Tag, op proto.Op, cnt int) []version {
	if op == proto.OpZero && int(t) < appTags {
		if r := n.client[t]; r != nil {
			out := n.w.slice(cnt)
			for i := range out {
				out[i] = r.ver
			}
			return out
		}
	}
	return n.bufs[t][:cnt]
}

func (n *node) digest(e *replica.Effect) {
	first, cnt := n.w.span(e.Off, e.Len)
	inc, tag := n.inc, e.Tag
	n.disk.submit(&diskOp{tag: uint32(tag), op: proto.OpRead, first: first, n: cnt}, func(errno proto.Errno) {
		if n.inc != inc {
			return
		}
		ev := replica.Event{Kind: replica.EvDigest, Tag: tag, Errno: errno}
		buf, got := n.bufs[tag][:cnt], n.disk.cache[first:first+cnt]
		if n.role == proto.RolePrimary {
			copy(buf, got)
		} else if errno == proto.OK {
			for b := 0; b < cnt/8; b++ {
				equal := true
				for s := b * 8; s < b*8+8; s++ {
					equal = equal && buf[s] == got[s]
				}
				if equal {
					ev.Mask |= 1 << b
				}
			}
		}
		n.step(&ev)
	})
}

func (n *node) persist(blocks []replica.MetaBlock) {
	list := make([]metaWrite, len(blocks))
	for i, b := range blocks {
		list[i] = metaWrite{b.Off, append([]byte(nil), b.Data...)}
	}
	inc := n.inc
	n.disk.submitMeta(list, func(op proto.Op, errno proto.Errno) {
		if n.inc != inc {
			if errno != proto.OK && op == proto.OpFlush {
				n.forgetful()
			}
			return
		}
		if errno != proto.OK {
			n.metaFailed = true
			n.failedLocally(op)
		}
		if n.localFailed {
			// Where something failed, the order in which marks get to the disk matters between any two transactions.
			n.w.ruleDifferencesMarked("after a metadata transaction of " + n.name.String())
		}
		n.step(&replica.Event{Kind: replica.EvMeta, Op: op, Errno: errno})
	})
}

// send carries out an EfSend. The payload is taken at once: a machine leaves it alone until the peer has answered.
func (n *node) send(e *replica.Effect) {
	w := n.w
	f := &frame{head: e.Head}
	if e.Body != nil {
		f.body = append([]byte(nil), e.Body...)
	}
	_, cnt := w.span(e.Head.Offset, e.Head.Length)
	switch h := &e.Head; {
	case h.Type == wire.TypeZero:
		f.vers = append(w.slice(0), n.content(replica.Tag(uint32(h.Seq)), proto.OpZero, cnt)...)
	case e.Payload:
		f.vers = append(w.slice(0), n.bufs[e.Tag][:cnt]...)
		if h.Type == wire.TypeData && h.Flags&wire.FlagSync != 0 && allZero(f.vers) {
			f.head.Compression = wire.CompressionHole
		}
	}
	if n.role == proto.RolePrimary && (e.Head.Type == wire.TypeWrite || e.Head.Type == wire.TypeZero) {
		first, _ := w.span(e.Head.Offset, e.Head.Length)
		w.ruleMarkedFrame(n, &e.Head, first, cnt)
	}
	w.transmit(n, e.Conn, f)
}

// receive hands a frame to the machine, with its payload in a tag's buffer.
func (n *node) receive(conn replica.Conn, f *frame) {
	ev := replica.Event{Kind: replica.EvFrame, Conn: conn, Head: f.head, Body: f.body}
	if n.role == proto.RolePrimary {
		if f.head.Type == wire.TypeData {
			ev.Tag = replica.Tag(uint32(f.head.Seq))
			if int(ev.Tag) < len(n.bufs) {
				copy(n.bufs[ev.Tag], f.vers)
			}
		}
		if f.head.Type == wire.TypeStarted {
			n.w.ruleHandshakeKeepsMarks(n.link)
		}
	} else if f.head.Type < wire.TypeAck {
		ev.Tag = n.takeTag()
		copy(n.bufs[ev.Tag], f.vers)
		n.came++
		f.came = n.came
		n.memory[ev.Tag] = f
	}
	n.step(&ev)
}

func (w *world) settings(n *node) replica.Settings {
	return replica.Settings{Mode: w.mode, Freeze: w.opt.Freeze, Standalone: n.single, IdleClean: 2 * sec}
}

// Metadata area of a new copy.
func (n *node) create() {
	d := n.disk
	create(d.metaStable, n.w.lay, n.w.geo, hotExtents, proto.IDFromWords(n.w.rnd.next(), n.w.rnd.next()))
	copy(d.meta, d.metaStable)
	d.metaLog = d.metaLog[:0]
	d.metaGen++
}

const hotExtents = extent.MinHot
