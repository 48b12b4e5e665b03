package replica

import (
	"hast/extent"
	"hast/hastd/role"
	"hast/proto"
	"hast/proto/wire"
)

// Secondary is the request machine of a resource in role secondary: it carries
// out the primary's frames in an order that keeps rule 1 (a flush is complete before anything after it starts),
// and records its own failures before it reports them (rule 6).
type Secondary struct {
	core
	reqs    []sreq
	queue   tagQueue // arrived, not started: a flush is under way or waits
	running int      // disk operations under way, flushes included
	writes  int      // of those, writes
	flushOn bool
	acks    tagQueue // done, waiting for metadata (first write into an extent, or a failure's record)

	step    hsStep
	stepVer uint64
	started bool
	session start
	dead    bool // this copy failed a write or a flush
	failVer uint64
	pending Conn   // a connection that waits for the old one's frames to be carried out
	early   []byte // HELLO of it
	doneVer uint64
	done    bool // SYNC_DONE is being recorded
	newGen  bool

	stopping, stopped bool
	stopFlush         part // of the disk, before the last superblock
	startFlush        part // of the disk, before this copy becomes a source
	sealed            uint64
	tickAt            Time
}

// sreq is one frame being carried out.
type sreq struct {
	atDisk    bool // asked of the disk, and not answered to the primary
	used      bool
	head      wire.Header
	conn      Conn
	errno     proto.Errno
	rewritten bool   // a read whose data is being written back
	fresh     bool   // its extent was never written before
	ver       uint64 // failure record to wait for
}

// NewSecondary makes the machine; EvStart begins its work.
func NewSecondary(cfg Config) *Secondary {
	m := &Secondary{}
	m.init(cfg)
	m.reqs = make([]sreq, cfg.AppTags)
	return m
}

// Step takes one event in and appends what is to be done to out.
func (m *Secondary) Step(now Time, ev *Event, out *Effects) {
	m.now, m.out = now, out
	if ev.Wall != 0 {
		m.wall = ev.Wall
	}
	switch ev.Kind {
	case EvStart:
		m.onStart(ev)
	case EvDisk:
		m.onDisk(ev.Tag, ev.Errno)
	case EvDigest:
		m.onDigest(ev)
	case EvMeta:
		m.onMeta(ev)
	case EvPeerUp:
		m.pending, m.early = ev.Conn, m.early[:0]
	case EvPeerDown:
		m.onPeerDown(ev)
	case EvFrame:
		m.onFrame(ev)
	case EvTick:
		m.onTick()
	case EvSettings:
		m.set = *ev.Settings
	case EvLease, EvPermit:
	case EvStop:
		m.stopping = true
		m.hangUp("the secondary stops")
	default:
		panic("replica: unexpected event for a secondary")
	}
	m.pump()
}

// Deadline is when EvTick is due.
func (m *Secondary) Deadline() Time { return m.tickAt }

func (m *Secondary) onTick() {
	m.tickAt = m.now + Second
	m.overdue(m.started)
	if m.now-m.lastPage >= pageLazy {
		m.lastPage = m.now
		m.wantAllPages()
	}
}

func (m *Secondary) onStart(ev *Event) {
	m.setSeed(ev.Random)
	// Rule 8: after a start this copy may not be the newest any more.
	if m.sb.Data == proto.DataUpToDate {
		m.setData(proto.DataConsistent)
	}
	if m.sb.Flags&extent.FlagClean != 0 {
		m.sb.Flags &^= extent.FlagClean
		m.touch()
	}
	m.setLink(LinkWaiting, "")
	m.tickAt = m.now + Second
}

func (m *Secondary) pump() {
	m.startQueued()
	// A new connection is answered only when everything from the old one is on disk (architecture section 6).
	if m.pending != 0 && m.conn == 0 && m.running == 0 && m.queue.len() == 0 && m.acks.len() == 0 && !m.stopping {
		m.conn, m.pending = m.pending, 0
		m.step, m.started = hsNone, false
		if m.metaFail {
			m.hangUp("the secondary's metadata area failed: replace its disk and create the resource anew")
		} else {
			m.greet(proto.RoleSecondary, false)
			if len(m.early) > 0 && m.onHello(m.early) {
				m.judge()
			}
		}
		m.early = m.early[:0]
	}
	if m.stopping {
		m.pumpStop()
	}
	m.pumpMeta()
}

func (m *Secondary) onPeerDown(ev *Event) {
	if ev.Conn == m.pending {
		m.pending = 0
	}
	if ev.Conn != m.conn {
		return
	}
	was := m.started
	m.conn, m.started, m.step, m.hasPeer = 0, false, hsNone, false
	m.done, m.newGen = false, false
	if m.link == LinkHandshake || m.link == LinkConnected {
		m.setLink(LinkWaiting, ev.Text)
	}
	if was {
		m.report(ReportDisconnect, 0, "connection to the primary lost: %s", ev.Text)
	}
}

func (m *Secondary) onFrame(ev *Event) {
	h := &ev.Head
	if ev.Conn == m.pending && m.pending != 0 && h.Type == wire.TypeHello {
		m.early = append(m.early[:0], ev.Body...) // judged when the old connection's frames are carried out
		return
	}
	data := h.Type < wire.TypeAck
	if ev.Conn != m.conn || !data && m.conn == 0 {
		if data {
			m.release(ev.Tag)
		}
		return
	}
	if data {
		m.onRequest(ev)
		return
	}
	switch {
	case h.Type == wire.TypeHello:
		if !m.metaFail && m.onHello(ev.Body) {
			m.judge()
		}
	case h.Type == wire.TypeVerdict:
		if m.onVerdict(ev.Body) {
			m.judge()
		}
	case h.Type == wire.TypeStart && m.agreed() && m.step == hsNone:
		m.onStartFrame(ev.Body)
	case h.Type == wire.TypeNewGen && m.started && !m.newGen:
		m.onNewGen(ev.Body)
	case h.Type == wire.TypeSyncDone && m.started && !m.done:
		m.onSyncDone(ev.Body)
	case h.Type == wire.TypeBye:
		m.linkWhy = string(ev.Body)
	case h.Type == wire.TypeKeepalive:
	default:
		m.hangUp("unexpected frame %d for a secondary", h.Type)
	}
}

func (m *Secondary) judge() {
	if !m.agreed() || m.refusal() {
		return
	}
	if m.peer.Role != proto.RolePrimary {
		m.refuse(LinkRefused, ReportRefused, "the peer is %s, not primary", m.peer.Role)
		return
	}
	if m.resumes() {
		return // the primary has our marks from the session's beginning
	}
	// Rule 4: our marks go to the primary and stay here as well.
	switch m.verdict.mine.Action {
	case role.Source, role.Target, role.TargetFull:
		m.sendMarks(false)
	case role.SourceFull:
		m.sendMarks(true)
	}
}

// onStartFrame records what the primary begins with; nothing is taken from it before that is stable.
func (m *Secondary) onStartFrame(body []byte) {
	s, err := decodeStart(body)
	if err != nil || s.Action != m.verdict.mine.Action {
		m.hangUp("bad START")
		return
	}
	if s.Epoch.Number < m.sb.Epoch.Number || s.Epoch.Number == m.sb.Epoch.Number && s.Epoch.Node != m.sb.Epoch.Node {
		m.refuse(LinkRefused, ReportRefused, "the primary's epoch %s is not newer than %s (rule 5)", s.Epoch, m.sb.Epoch)
		return
	}
	if s.Action == role.NoSync && !m.sb.Current.IsZero() && s.Current != m.sb.Current {
		m.hangUp("bad START: nothing to sync, yet another generation")
		return
	}
	m.dead = false // what failed is recorded: HELLO said inconsistent, and START syncs it
	m.session = s
	m.sb.Epoch = s.Epoch
	if m.dirty.Count() == 0 && !m.crashed {
		m.sb.Mode = 0
	}
	m.sb.Mode = max(m.sb.Mode, s.Mode)
	m.sb.Flags &^= extent.FlagMerged
	if m.sb.Resource.IsZero() {
		m.sb.Resource = s.Resource
	}
	if s.Whole && s.Action == role.Target && m.intact && s.Current == m.sb.Current {
		s.Action, m.session.Action = role.NoSync, role.NoSync
	} else if s.Whole && s.Action != role.NoSync {
		m.hangUp("bad START: this copy can't stay up to date")
		return
	}
	intact := m.intact
	m.touched()
	m.intact = intact && s.Action == role.NoSync // nothing is written before the service begins
	switch s.Action {
	case role.NoSync:
		m.sb.Current = s.Current
		m.sb.Base, m.sb.SyncID, m.sb.SyncRole = proto.ID{}, proto.ID{}, 0
		m.sb.Flags |= extent.FlagConnected
		// Nothing is marked on either copy, so nothing was unflushed when a flush failed (rule 11).
		m.sb.Flags &^= extent.FlagPrimary | extent.FlagServed | extent.FlagCrashed | extent.FlagRebooted | extent.FlagFlushFailed
		m.sb.GenSince, m.sb.GenNode = m.peer.GenSince, m.peer.GenNode
		if m.peer.Current != s.Current { // begun since HELLO: the first one of two blank copies
			m.sb.GenSince, m.sb.GenNode = m.wall, m.peer.Node
		}
		m.setData(proto.DataUpToDate)
	case role.Target, role.TargetFull:
		m.sb.SyncID, m.sb.SyncRole = s.Session, 2
		m.sb.Flags &^= extent.FlagConnected
		m.setData(proto.DataInconsistent)
	default:
		m.sb.SyncID, m.sb.SyncRole = s.Session, 1
		// The target's disk says inconsistent by now, so a crash of ours decides nothing while this goes on. When the target has everything,
		// and SYNC_DONE is lost, it would: against the writes that the target took as a primary since (rule 23.4 of the verdicts).
		m.crashed, m.rebooted = false, false
		m.sb.Flags &^= extent.FlagPrimary | extent.FlagServed | extent.FlagCrashed | extent.FlagRebooted
		m.setData(proto.DataUpToDate)
		if m.startFlush != partPending {
			m.startFlush = partPending // what a target fetches has to survive here
			m.disk(m.stopTag(), proto.OpFlush, 0, 0, false, false)
		}
	}
	m.step = hsSuper
	m.stepVer = m.touch()
}

func (m *Secondary) onMeta(ev *Event) {
	switch m.metaDone(ev) {
	case metaRedone:
		return
	case metaDropped:
		if m.started {
			m.outOfSync(true)
			m.report(ReportLocalLost, 0, "a flush of the metadata failed: %s; this copy is inconsistent until it is synced", ev.Errno)
		} else {
			m.doubted()
		}
		m.step, m.verdict = hsNone, verdictState{} // no service on this connection
		m.hangUp("the secondary's disk can't flush: %s", ev.Errno)
		return
	case metaLost:
		// Rule 6: we can't record, so the primary has to: for it we are lost.
		m.report(ReportLocalLost, 0, "the metadata area failed: %s", ev.Errno)
		m.dead = true
		for m.acks.len() > 0 {
			m.finish(m.acks.pop())
		}
		m.hangUp("the secondary's metadata area failed: %s", ev.Errno)
		return
	}
	m.tryService()
	for n := m.acks.len(); n > 0 && m.acks.len() > 0; n-- {
		t := m.acks.pop()
		if m.recorded(&m.reqs[t]) {
			m.answer(t)
		} else {
			m.acks.push(t)
		}
	}
	if m.done && m.stable >= m.doneVer && m.marksStable() {
		m.done = false
		m.intact = true
		m.crashed, m.rebooted = false, false
		m.peerData, m.diskErr = proto.DataUpToDate, failure{} // no metadata, no SYNC_DONE
		m.send(wire.Header{Type: wire.TypeSyncDoneOK}, nil)
		m.report(ReportSyncDone, 0, "sync complete")
	}
	if m.newGen && m.stable >= m.doneVer {
		m.newGen = false
		m.send(wire.Header{Type: wire.TypeNewGenOK}, nil)
	}
}

// marksStable reports whether the pages and the map that SYNC_DONE cleared are on disk. Marks that came back with a restart would count as much as
// those of the primary, although this copy has nothing that the primary lacks (rule 23.5 of the verdicts).
func (m *Secondary) marksStable() bool {
	return m.wanted == 0 && !m.hot.Drops() && (!m.metaBusy || len(m.metaPages) == 0 && !m.metaMap)
}

// tryService begins when what START asked for is stable.
func (m *Secondary) tryService() {
	if m.step == hsSuper && m.stable >= m.stepVer && m.conn != 0 && m.startFlush != partPending {
		m.beginService()
	}
}

func (m *Secondary) beginService() {
	m.step, m.started = hsDone, true
	m.lastRole = verdictGood
	m.setLink(LinkConnected, "")
	m.peerData = proto.DataUpToDate // START says so, but to a source
	switch m.session.Action {
	case role.NoSync:
		m.intact, m.crashed, m.rebooted = true, false, false
	case role.Source, role.SourceFull:
		m.peerData = proto.DataInconsistent
	}
	m.send(wire.Header{Type: wire.TypeStarted}, nil)
	m.report(ReportConnect, 0, "connected to %s", m.peer.Node)
}

func (m *Secondary) onNewGen(body []byte) {
	if m.dead {
		return // our own failure is on its way to the primary: there is no whole copy to begin one with
	}
	l, err := decodeLineage(body)
	if err != nil || l.Current.IsZero() || m.sb.Data != proto.DataUpToDate {
		m.hangUp("bad NEWGEN")
		return
	}
	m.pushHistory(m.sb.Current)
	m.sb.Current, m.sb.Base = l.Current, proto.ID{}
	m.sb.GenSince, m.sb.GenNode = l.GenSince, l.GenNode
	m.sb.Flags &^= extent.FlagConnected
	m.newGen = true
	m.doneVer = m.touch()
	m.report(ReportGeneration, 0, "generation %s begins: the primary's own copy is out", l.Current.Short())
}

// onSyncDone: both copies are equal. A target adopts the source's generation and past; either clears its marks (rule 4).
func (m *Secondary) onSyncDone(body []byte) {
	l, err := decodeLineage(body)
	if err != nil || m.session.Action == role.NoSync || m.dead {
		m.hangUp("bad SYNC_DONE")
		return
	}
	switch m.session.Action {
	case role.Target, role.TargetFull:
		m.sb.Current, m.sb.History = l.Current, l.History
		m.sb.GenSince, m.sb.GenNode = l.GenSince, l.GenNode
		m.setData(proto.DataUpToDate)
	default:
		if l.Current != m.sb.Current {
			m.hangUp("bad SYNC_DONE: the target is at another generation")
			return
		}
	}
	m.sb.Base, m.sb.SyncID, m.sb.SyncRole = proto.ID{}, proto.ID{}, 0
	m.sb.Flags |= extent.FlagConnected
	m.sb.Flags &^= extent.FlagFlushFailed | extent.FlagPrimary | extent.FlagServed | extent.FlagCrashed | extent.FlagRebooted
	m.clearMarks()
	m.session.Action = role.NoSync
	m.done = true
	m.doneVer = m.touch()
}

// clearMarks empties bitmap and map; both go to disk before SYNC_DONE is answered.
func (m *Secondary) clearMarks() {
	for at := extent.Block(0); ; {
		first, n := m.dirty.Next(at, m.geo.PerExtent())
		if n == 0 {
			break
		}
		at = first + n
		for e := m.geo.ExtentOf(first); e <= m.geo.ExtentOf(first+n-1); e++ {
			m.pageMod[extent.PageOf(m.geo, e)] = true
		}
	}
	m.dirty.Reset()
	m.suspect.Reset()
	m.sb.Flags &^= extent.FlagAllDirty
	m.wantAllPages()
	m.hot.Each(func(e extent.Extent) { m.hot.Drop(e) })
}

// Requests.

func (m *Secondary) onRequest(ev *Event) {
	h := &ev.Head
	r := &m.reqs[ev.Tag]
	if r.used {
		panic("replica: tag is in use")
	}
	if !m.started || !m.acceptable(h) {
		m.release(ev.Tag)
		m.hangUp("a request (type %d, %d bytes at %d) outside of the session or the device", h.Type, h.Length, h.Offset)
		return
	}
	*r = sreq{used: true, head: *h, conn: ev.Conn}
	if h.Flags&wire.FlagWantReceived != 0 && !m.dead {
		m.ack(r, wire.FlagReceived)
	}
	m.queue.push(ev.Tag)
}

func (m *Secondary) acceptable(h *wire.Header) bool {
	switch h.Type {
	case wire.TypeFlush:
		return true
	case wire.TypeWrite, wire.TypeZero, wire.TypeRead, wire.TypeDigest:
	default:
		return false
	}
	l := proto.Offset(m.geo.Logical)
	end := h.Offset + proto.Offset(h.Length)
	return h.Length > 0 && h.Offset%l == 0 && end%l == 0 && end >= h.Offset && end <= m.geo.DataSize
}

// startQueued starts frames in their order up to the next flush, which waits for
// every write before it and holds back everything behind it.
func (m *Secondary) startQueued() {
	for m.queue.len() > 0 && !m.flushOn {
		t := m.queue.front()
		r := &m.reqs[t]
		if r.head.Type == wire.TypeFlush {
			if m.writes > 0 {
				return
			}
			m.flushOn = true
		}
		if r.head.Type == wire.TypeRead && m.writes > 0 && m.beingWritten(&r.head) {
			return // memsync and async have acknowledged what is under way to this disk: a read sees it (rule 10)
		}
		m.queue.pop()
		m.run(t, r)
	}
}

// beingWritten reports whether a write of a part of h's range is under way.
func (m *Secondary) beingWritten(h *wire.Header) bool {
	for i := range m.reqs {
		w := &m.reqs[i]
		if w.atDisk && (w.head.Type == wire.TypeWrite || w.head.Type == wire.TypeZero) &&
			w.head.Offset < h.Offset+proto.Offset(h.Length) && h.Offset < w.head.Offset+proto.Offset(w.head.Length) {
			return true
		}
	}
	return false
}

func (m *Secondary) run(t Tag, r *sreq) {
	h := &r.head
	m.running++
	r.atDisk = true
	switch h.Type {
	case wire.TypeFlush:
		m.cnt.Flushes++
		m.disk(t, proto.OpFlush, 0, 0, false, false)
	case wire.TypeRead:
		m.cnt.Reads++
		m.cnt.ReadBytes += uint64(h.Length)
		m.disk(t, proto.OpRead, h.Offset, h.Length, false, false)
	case wire.TypeDigest:
		e := m.out.add()
		e.Kind, e.Tag, e.Off, e.Len, e.Key = EfDigest, t, h.Offset, h.Length, m.session.Key
	default:
		m.writes++
		m.firstWrite(r)
		op := proto.OpWrite
		if h.Type == wire.TypeZero || h.Flags&wire.FlagSync != 0 && h.Compression == wire.CompressionHole {
			op = proto.OpZero
			m.cnt.Zeroes++
			m.cnt.ZeroBytes += uint64(h.Length)
		} else {
			m.cnt.Writes++
			m.cnt.WriteBytes += uint64(h.Length)
		}
		m.disk(t, op, h.Offset, h.Length, h.Flags&wire.FlagFUA != 0, h.Flags&wire.FlagNoUnmap != 0)
	}
}

// firstWrite notes extents that are written for the first time. The note is
// stable before the write is acknowledged: a copy that is a source later must not leave such an extent out (rule 16).
func (m *Secondary) firstWrite(r *sreq) {
	first := extent.Extent(uint64(r.head.Offset) / uint64(m.geo.ExtentSize))
	last := extent.Extent((uint64(r.head.Offset) + uint64(r.head.Length) - 1) / uint64(m.geo.ExtentSize))
	for e := first; e <= last; e++ {
		m.written(e)
		if m.unsaved.Test(e) {
			r.fresh = true
			m.wantPage(extent.PageOf(m.geo, e))
		}
	}
}

func (m *Secondary) onDisk(t Tag, errno proto.Errno) {
	if t == m.stopTag() && m.stopFlush != partPending {
		m.startFlush = partDone
		if errno != proto.OK {
			m.dropped(errno)
			m.doubted()
			m.step, m.verdict = hsNone, verdictState{} // no service on this connection
			m.hangUp("the secondary's disk can't flush: %s", errno)
			return
		}
		m.tryService()
		return
	}
	if t == m.stopTag() {
		m.stopFlush = partDone
		if errno != proto.OK {
			m.dropped(errno)
			m.doubted()
		}
		return
	}
	r := &m.reqs[t]
	m.running--
	r.errno = errno
	switch r.head.Type {
	case wire.TypeRead:
		if !r.rewritten && errno == proto.OK && r.head.Flags&wire.FlagSync != 0 && m.sb.Flags&extent.FlagFlushFailed != 0 {
			// What we read may be in a cache that has lost its way to the disk: a source writes it anew (rule 11).
			r.rewritten = true
			m.running++
			m.writes++
			m.disk(t, proto.OpWrite, r.head.Offset, r.head.Length, false, false)
			return
		}
		if r.rewritten {
			m.writes--
			if errno != proto.OK {
				m.cnt.LocalWriteErrors++
				m.diskFailed("a write at %d (%d bytes) failed: %s", r.head.Offset, r.head.Length, errno)
				m.fail(r)
			}
		}
		m.answerRead(t, r)
		return
	case wire.TypeFlush:
		m.flushOn = false
		if errno != proto.OK {
			m.dropped(errno)
		}
	default:
		m.writes--
		if errno != proto.OK {
			m.cnt.LocalWriteErrors++
			m.diskFailed("a %s at %d (%d bytes) failed: %s", opName(r.head.Type), r.head.Offset, r.head.Length, errno)
		}
	}
	if errno != proto.OK {
		m.fail(r)
	}
	if m.metaFail {
		m.finish(t)
	} else if m.recorded(r) {
		m.answer(t)
	} else {
		m.acks.push(t)
	}
}

// fail records, before the primary hears of it, that this copy failed (rules 6, 11).
func (m *Secondary) fail(r *sreq) {
	fua := r.head.Type != wire.TypeRead && r.head.Flags&wire.FlagFUA != 0 // write and flush in one
	if fua {
		m.metaDoubt = m.metaBusy
	}
	r.ver = m.outOfSync(r.head.Type == wire.TypeFlush || fua)
	m.report(ReportLocalLost, 0, "a %s at %d (%d bytes) failed: %s; this copy is inconsistent until it is synced", opName(r.head.Type), r.head.Offset, r.head.Length, r.errno)
}

// outOfSync says that this copy lacks something, and returns the version to wait for. flush: a flush failed.
func (m *Secondary) outOfSync(flush bool) uint64 {
	m.dead = true
	m.done, m.newGen = false, false // the primary hears of the failure instead
	m.touched()
	m.setData(proto.DataInconsistent)
	if flush {
		m.sb.Flags |= extent.FlagFlushFailed
	}
	m.failVer = m.touch()
	return m.failVer
}

// doubted follows a flush that failed out of service. What was acknowledged as flushed is safe; the rest is marked, by the primary or, if this
// copy was one, by its activity map. So the copy is in doubt where there are marks, and not worthless: after a crash it may be the only one
// that has what async acknowledged, and the next verdict weighs that.
func (m *Secondary) doubted() {
	m.touched()
	m.sb.Flags |= extent.FlagFlushFailed
	m.touch()
}

func opName(t wire.Type) string {
	switch t {
	case wire.TypeFlush:
		return "flush"
	case wire.TypeZero:
		return "write of zeroes"
	}
	return "write"
}

// recorded reports whether what r's answer depends on is stable.
func (m *Secondary) recorded(r *sreq) bool {
	if r.ver > m.stable || m.dead && m.failVer > m.stable {
		return false // whatever is answered now says that this copy failed
	}
	if !r.fresh {
		return true
	}
	first := extent.Extent(uint64(r.head.Offset) / uint64(m.geo.ExtentSize))
	last := extent.Extent((uint64(r.head.Offset) + uint64(r.head.Length) - 1) / uint64(m.geo.ExtentSize))
	for e := first; e <= last; e++ {
		if m.unsaved.Test(e) {
			m.wantPage(extent.PageOf(m.geo, e))
			return false
		}
	}
	return true
}

// answer acknowledges a write or a flush; a copy that failed acknowledges nothing well any more.
func (m *Secondary) answer(t Tag) {
	r := &m.reqs[t]
	if m.dead && r.errno == proto.OK {
		r.errno = proto.EIO
	}
	m.ack(r, 0)
	m.finish(t)
}

func (m *Secondary) finish(t Tag) {
	m.reqs[t] = sreq{}
	m.release(t)
}

func (m *Secondary) ack(r *sreq, flags uint8) {
	if r.conn != m.conn {
		return
	}
	m.send(wire.Header{Type: wire.TypeAck, Flags: flags, Seq: r.head.Seq, Offset: r.head.Offset, Length: r.head.Length, Aux: uint64(r.errno)}, nil)
}

func (m *Secondary) answerRead(t Tag, r *sreq) {
	if r.errno != proto.OK {
		m.cnt.LocalReadErrors++
		m.diskFailed("a read at %d (%d bytes) failed: %s", r.head.Offset, r.head.Length, r.errno)
	}
	if r.conn == m.conn {
		h := wire.Header{Type: wire.TypeData, Flags: r.head.Flags & wire.FlagSync, Seq: r.head.Seq, Offset: r.head.Offset, Length: r.head.Length, Aux: uint64(r.errno)}
		if r.errno == proto.OK {
			m.sendPayload(h, t)
		} else {
			m.send(h, nil)
		}
	}
	m.finish(t)
}

func (m *Secondary) onDigest(ev *Event) {
	r := &m.reqs[ev.Tag]
	m.running--
	if m.sb.Flags&extent.FlagFlushFailed != 0 {
		ev.Mask = 0 // what reads the same need not be on the disk (rule 11)
	}
	if r.conn == m.conn {
		m.send(wire.Header{Type: wire.TypeDigestResult, Flags: wire.FlagSync, Seq: r.head.Seq, Offset: r.head.Offset,
			Length: proto.Length(ev.Errno), Aux: ev.Mask}, nil)
	}
	m.finish(ev.Tag)
}

// stopTag is the flush of an orderly stop; it has no buffer.
func (m *Secondary) stopTag() Tag { return Tag(m.cfg.AppTags + m.cfg.SyncTags) }

// pumpStop ends in order: frames, flush, pages, superblock.
func (m *Secondary) pumpStop() {
	if m.stopped {
		return
	}
	if !m.metaFail {
		if m.running > 0 || m.queue.len() > 0 || m.acks.len() > 0 || m.metaBusy {
			return
		}
		if m.startFlush == partPending {
			return
		}
		if m.stopFlush == partNone {
			m.stopFlush = partPending
			m.disk(m.stopTag(), proto.OpFlush, 0, 0, false, false)
		}
		if m.stopFlush == partPending {
			return
		}
		if !m.pagesClean() {
			m.wantAllPages()
			return
		}
		if m.sealed == 0 {
			m.sb.Flags &^= extent.FlagAllDirty
			if m.intact && m.sb.Data != proto.DataInconsistent {
				m.sb.Flags |= extent.FlagIntact
			}
			m.sealed = m.touch()
		}
		if m.stable < m.sealed {
			return
		}
	}
	m.stopped = true
	m.out.add().Kind = EfStopped
}

// Status describes the machine.
func (m *Secondary) Status() Status {
	s := m.status()
	s.Role = proto.RoleSecondary
	s.InFlight = m.running
	s.Waiting = m.queue.len() + m.acks.len()
	s.Syncing = m.started && m.session.Action != role.NoSync
	s.SyncSource = m.session.Action == role.Source || m.session.Action == role.SourceFull
	return s
}
