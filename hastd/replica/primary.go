package replica

import (
	"hast/extent"
	"hast/proto"
	"hast/proto/wire"
)

// Primary is the request machine of a resource in role primary.
//
// A write takes these steps; the functions stand in this order in write.go:
//
//	1 arrive   validate, wait while frozen
//	2 lock     the byte range, until both copies have it
//	3 pin      its extents in the activity map; wait until the map is stable (rule 2)
//	4 issue    frame to the peer, then the local disk
//	5 settle   acknowledge as the mode says; wait for the generation where one is due (rules 1, 6)
//	6 finish   into the open flush epoch, unpin, unlock
type Primary struct {
	core
	locks *extent.Locks
	reqs  []req

	// Flush epochs (rule 3): blocks written on both copies since the last flush
	// was issued, and those that the retiring flush covers.
	open, closing *extent.Bitmap
	openSince     Time
	// push holds dirty blocks of a sync target that are good here: both copies had them when the peer was lost, and
	// the peer may have lost its cache. They are sent, not fetched.
	push       *extent.Bitmap
	lastPeer   [2]proto.ID // peer's generation and session when push was last in force
	flushes    [InternalTags]flush
	flushLocal int // flushes whose local part is under way
	flushWait  tagQueue
	retiring   bool
	wantFlush  bool

	frozen   freeze
	frozenQ  tagQueue
	mapQ     tagQueue // pinned, waiting for the activity map
	roomQ    tagQueue // waiting for room in the activity map
	genQ     tagQueue // waiting for a generation to be stable
	granted  []uint32
	victims  []extent.Extent
	appBusy  int
	lastApp  Time
	maxSpan  int
	seq      uint64
	ackMode  proto.Mode // by which requests are acknowledged; modeVer has to be stable before it follows the settings
	modeVer  uint64
	ahead    bool   // writes were acknowledged that the lost peer may lack, and no generation says so yet
	unsure   bool   // no handshake yet in this worker's life: what the peer has not flushed is unknown
	genHold  bool   // a generation without the peer waits for a flush: see ensureGen
	genVer   uint64 // superblock version of the generation in force
	served   bool
	serveVer uint64

	promoted    bool
	permitted   bool // may be promoted without the peer
	step        hsStep
	stepVer     uint64
	established bool // application writes go to the peer
	peerWhole   bool // and the peer's copy is up to date
	stale       bool // our dirty blocks are stale here: we are the target
	local       bool // the local copy is in use
	lostStable  bool // the peer has recorded that ours is out
	lostGen     proto.ID
	peerBoot    proto.ID // of the peer's kernel when it was last established
	flushFailed bool     // rule 11, without a peer to go on with
	key         [32]byte
	session     start
	sync        syncState

	graceEnd    Time
	peerFail    failure
	peerWait    Time // see Status
	peerOut     bool // the peer has said that its copy failed
	noCopy      bool // neither copy is whole
	stopping    bool
	stopped     bool
	stopFlushed bool // the last flush was started
	sealed      uint64
	tickAt      Time
}

// freeze is the set of reasons for which application I/O waits.
type freeze uint16

const (
	frPromotion    freeze = 1 << iota // not promoted yet
	frGrace                           // a successor waits for the peer
	frStart                           // START is on its way
	frServe                           // FlagServed is on its way to the disk
	frPolicy                          // the peer is lost and on_peer_loss = "freeze"
	frInconsistent                    // our copy is stale and the peer is away (rule 8)
	frOutdated                        // a newer epoch exists (rule 5)
	frStop                            // stopping
	frNewGen                          // the local copy is out, and the peer has not recorded it yet: nothing would mark a write (rule 2)
)

// visible are the reasons that an operator has to know of.
const visible = frPolicy | frInconsistent | frOutdated

// hsStep is where the handshake stands after the verdicts, on the primary.
type hsStep uint8

const (
	hsNone    hsStep = iota
	hsMarksIn        // BITMAP frames awaited
	hsPages          // merged marks on their way to the disk
	hsSuper          // superblock on its way
	hsStarted        // START sent, STARTED awaited
	hsDone
)

// NewPrimary makes the machine; EvStart begins its work.
func NewPrimary(cfg Config) *Primary {
	m := &Primary{}
	m.init(cfg)
	m.locks = extent.NewLocks(cfg.AppTags + cfg.SyncTags)
	m.reqs = make([]req, cfg.AppTags+cfg.SyncTags)
	m.open = extent.NewBitmap(m.geo.Blocks())
	m.closing = extent.NewBitmap(m.geo.Blocks())
	m.push = extent.NewBitmap(m.geo.Blocks())
	m.maxSpan = m.hot.MaxSpan()
	m.local, m.unsure = true, true
	m.flushFailed = m.sb.Flags&extent.FlagFlushFailed != 0
	m.promoted = cfg.Successor
	m.ackMode = m.set.Mode
	if cfg.Successor {
		m.ackMode = min(m.sb.Mode, m.set.Mode)
	}
	m.served = cfg.Successor && m.sb.Flags&extent.FlagServed != 0
	m.stale = m.sb.Data == proto.DataInconsistent
	return m
}

// Step takes one event in and appends what is to be done to out.
func (m *Primary) Step(now Time, ev *Event, out *Effects) {
	m.now, m.out = now, out
	if ev.Wall != 0 {
		m.wall = ev.Wall
	}
	switch ev.Kind {
	case EvStart:
		m.onStart(ev)
	case EvIO:
		m.arrive(ev)
	case EvDisk:
		m.onDisk(ev)
	case EvDigest:
		m.onDigest(ev)
	case EvMeta:
		m.onMeta(ev)
	case EvPeerUp:
		m.onPeerUp(ev.Conn)
	case EvPeerDown:
		if ev.Conn == m.conn {
			m.peerLost(ev.Text)
			m.goAlone()
		}
	case EvFrame:
		if ev.Conn == m.conn {
			m.onFrame(ev)
		}
	case EvTick:
		m.onTick()
	case EvSettings:
		m.onSettings(ev.Settings)
	case EvPermit:
		m.onPermit(ev.Force)
	case EvLease:
		// Submissions and completions are held by the engine; nothing to decide here.
	case EvStop:
		m.onStop()
	default:
		panic("replica: unknown event")
	}
	m.pump()
}

// pump does what became possible: room in the map, flushes, the sync, the next metadata transaction.
func (m *Primary) pump() {
	if m.roomQ.len() > 0 {
		m.evict(max(int(m.sb.HotExtents)/8, m.maxSpan), 0)
	}
	if m.open.Count() >= flushLimit {
		m.wantFlush = true
	}
	m.pumpFlush()
	m.pumpSync()
	if m.stopping {
		m.pumpStop()
	}
	m.pumpMeta()
}

// Deadline is when EvTick is due.
func (m *Primary) Deadline() Time { return m.tickAt }

func (m *Primary) onStart(ev *Event) {
	m.setSeed(ev.Random)
	m.key = m.newKey()
	// Rule 8: what a copy was worth when it was last written says nothing about what
	// happened since, unless the device itself lived on.
	if !m.cfg.Successor && m.sb.Data == proto.DataUpToDate {
		m.setData(proto.DataConsistent)
	}
	if m.sb.Flags&extent.FlagClean != 0 {
		m.sb.Flags &^= extent.FlagClean
		m.touch()
	}
	if !m.promoted {
		m.frozen |= frPromotion
	}
	if m.cfg.Successor {
		m.sb.Flags |= extent.FlagPrimary
		m.sb.BootID = m.cfg.BootID
		m.touch()
		m.adoptMode()
		if m.sb.Flags&extent.FlagFrozen != 0 || m.set.Freeze && !m.set.Standalone {
			m.freeze(frPolicy, "this node restarted without its peer")
		}
		if m.stale {
			m.freeze(frInconsistent, "the local copy is inconsistent and the peer is away")
		}
		if m.sb.Data == proto.DataOutdated { // superseded before its predecessor died (rule 5)
			m.freeze(frOutdated, "this copy is outdated: a newer primary exists; make it secondary")
		}
		if m.cfg.Grace > 0 && !m.set.Standalone {
			m.frozen |= frGrace
			m.graceEnd = m.now + m.cfg.Grace
		}
	}
	if m.set.Standalone {
		m.goAlone()
	} else {
		m.dial()
	}
	m.tickAt = m.now + Second
}

// goAlone follows that no peer is configured, if none is: nothing waits for one.
func (m *Primary) goAlone() {
	if !m.set.Standalone || m.stopping {
		return
	}
	m.setLink(LinkNone, "")
	m.thaw(frPolicy | frGrace)
	if !m.promoted && !m.permitted {
		m.onPermit(false)
	}
}

// dial asks for the configured peer.
func (m *Primary) dial() {
	m.setLink(LinkConnecting, "")
	m.out.add().Kind = EfConnect
}

// onPermit promotes without a handshake: the peer is known not to be primary,
// or an operator answers for it (rule 8).
func (m *Primary) onPermit(force bool) {
	if m.promoted {
		return
	}
	switch {
	case m.sb.Data == proto.DataInconsistent:
		m.setLink(LinkRefused, "the local copy is inconsistent (an unfinished sync or a failed write): it can be primary only while an up-to-date peer is connected; start hastd on the peer")
	case m.sb.Data == proto.DataOutdated && !force:
		m.setLink(LinkRefused, "the local copy is known to be older than the peer's: start the peer, or accept the loss with --force")
	default:
		if force {
			m.sb.Forced = max(m.wall, 1)
		}
		m.promote(0)
		if m.set.Freeze && !m.set.Standalone && !force {
			m.freeze(frPolicy, "promoted without its peer")
		}
		m.setData(proto.DataUpToDate)
		m.stepVer = m.version
		m.permitted = true
		return
	}
	m.report(ReportRefused, 0, "%s", m.linkWhy)
}

// promote begins a new role epoch (rule 5): its number is above every one that this node has heard of.
func (m *Primary) promote(heard uint64) {
	m.sb.Epoch = proto.Epoch{Number: max(m.sb.Epoch.Number, heard) + 1, Node: m.cfg.Node}
	m.sb.Flags |= extent.FlagPrimary
	m.sb.Flags &^= extent.FlagServed
	m.sb.BootID = m.cfg.BootID
	if m.dirty.Count() == 0 && !m.crashed {
		m.sb.Mode = 0
	}
	m.sb.Mode = m.laxest()
	m.touch()
}

// promotedNow is called when the epoch is stable.
func (m *Primary) promotedNow() {
	m.promoted = true
	m.thaw(frPromotion)
}

func (m *Primary) onSettings(s *Settings) {
	alone := m.set.Standalone
	m.set = *s
	m.adoptMode()
	if !s.Freeze {
		m.thaw(frPolicy)
	}
	switch {
	case s.Standalone && m.conn != 0:
		m.hangUp("no peer is configured any more")
	case s.Standalone:
		m.goAlone()
	case alone && m.conn == 0 && !m.stopping:
		m.dial()
	}
}

// adoptMode acknowledges by the configured mode: a stricter one at once, a laxer one when the superblock says so, since
// whoever judges a crash has to know what may have been promised.
func (m *Primary) adoptMode() {
	m.ackMode = min(m.ackMode, m.set.Mode)
	if m.sb.Mode < m.set.Mode {
		m.sb.Mode = m.set.Mode
		m.modeVer = m.touch()
	} else if m.ackMode < m.set.Mode && m.modeVer == 0 {
		m.modeVer = m.version // stable already, or on its way
		m.modeStable()
	}
}

// modeStable follows a superblock: a laxer mode may acknowledge what waits.
func (m *Primary) modeStable() {
	if m.modeVer == 0 || m.stable < m.modeVer {
		return
	}
	m.modeVer, m.ackMode = 0, m.set.Mode
	for t := range m.reqs[:m.cfg.AppTags] {
		m.settle(Tag(t))
	}
	for i := range m.flushes {
		m.settleFlush(i)
	}
}

// tightenMode takes a laxer mode's word back once the peer lacks nothing that it acknowledged.
func (m *Primary) tightenMode() {
	if m.sb.Mode <= m.set.Mode || !m.established || !m.peerWhole || m.ahead || m.dirty.Count() > 0 {
		return
	}
	for i := range m.reqs[:m.cfg.AppTags] {
		if r := &m.reqs[i]; r.replied && r.peer == partPending {
			return
		}
	}
	for i := range m.flushes {
		if f := &m.flushes[i]; f.active && f.acked && f.peer == partPending {
			return
		}
	}
	m.sb.Mode = m.set.Mode
	m.touch()
}

// freeze holds application I/O. Frozen by policy is a durable state (architecture section 6).
func (m *Primary) freeze(why freeze, format string, args ...any) {
	if m.frozen&why != 0 {
		return
	}
	m.frozen |= why
	if why == frPolicy {
		m.sb.Flags |= extent.FlagFrozen
		m.touch()
	}
	if why&visible != 0 {
		m.report(ReportFrozen, 0, format, args...)
	}
}

// thaw takes a reason away; with the last one the waiting requests go on.
func (m *Primary) thaw(why freeze) {
	if m.frozen&why == 0 {
		return
	}
	was := m.frozen & visible
	m.frozen &^= why
	if why&was&frPolicy != 0 {
		m.sb.Flags &^= extent.FlagFrozen
		m.touch()
		m.afterPolicy()
	}
	if was != 0 && m.frozen&visible == 0 {
		m.report(ReportResumed, 0, "application I/O goes on")
	}
	for n := m.frozenQ.len(); n > 0 && m.frozenQ.len() > 0 && m.frozen == 0; n-- {
		t := m.frozenQ.pop()
		m.begin(t)
	}
}

// onMeta follows a metadata transaction: everything that waited for it.
func (m *Primary) onMeta(ev *Event) {
	switch m.metaDone(ev) {
	case metaRedone:
		return
	case metaDropped:
		m.flushLost("a flush of the metadata failed: %s", ev.Errno)
		return
	case metaLost:
		m.loseLocal("the metadata area failed: %s", ev.Errno)
		if y := &m.sync; y.cured && y.seal == sealSuper && m.stable < y.sealVer {
			m.flushFailed = true // on disk it still is
		}
		m.failWaiters()
		return
	}
	if m.serveVer != 0 && m.stable >= m.serveVer {
		m.serveVer = 0
		m.thaw(frServe)
	}
	if m.permitted && !m.promoted && m.stable >= m.stepVer {
		m.promotedNow()
	}
	for n := m.mapQ.len(); n > 0 && m.mapQ.len() > 0; n-- {
		t := m.mapQ.pop()
		if m.reqs[t].wait <= m.hot.Stable() {
			m.issue(t)
		} else {
			m.mapQ.push(t)
		}
	}
	m.drainGen()
	m.modeStable()
	m.stepHandshake()
}

// drainGen looks again at whatever waited for a generation.
func (m *Primary) drainGen() {
	for n := m.genQ.len(); n > 0 && m.genQ.len() > 0; n-- {
		t := m.genQ.pop()
		if int(t) < len(m.reqs) {
			m.reqs[t].inGenQ = false
			m.settle(t)
		} else {
			f := &m.flushes[int(t)-len(m.reqs)]
			f.inGenQ = false
			m.settleFlush(int(t) - len(m.reqs))
		}
	}
}

// failWaiters lets requests go on that waited for metadata which can't be written any more.
func (m *Primary) failWaiters() {
	for m.mapQ.len() > 0 {
		m.unmapped(m.mapQ.pop())
	}
	for m.roomQ.len() > 0 {
		m.unmapped(m.roomQ.pop())
	}
	m.drainGen()
	m.thaw(frServe)
	if m.step > hsMarksIn && m.step < hsStarted {
		m.hangUp("the primary's metadata area failed")
	}
}

func (m *Primary) onTick() {
	m.tickAt = m.now + Second
	if m.frozen&frGrace != 0 && m.now >= m.graceEnd && m.step != hsStarted {
		m.thaw(frGrace)
	}
	m.overdue(m.established)
	m.tightenMode()
	m.peerWait = m.waitForPeer()
	if m.open.Count() > 0 && m.now-m.openSince >= flushAge {
		m.wantFlush = true
	}
	if m.set.IdleClean > 0 && m.hot.Len() > 0 {
		m.evict(0, m.now-m.set.IdleClean)
	}
	if m.sync.active && m.now-m.lastPage >= pageLazy {
		m.lastPage = m.now
		m.wantAllPages()
	}
	if m.frozen&frGrace != 0 && m.graceEnd > m.now {
		m.tickAt = min(m.tickAt, m.graceEnd)
	}
}

// evict makes room in the activity map: need extents, or all that were idle
// since before. Only settled extents go (rule 3); for the rest it asks for what settles them.
func (m *Primary) evict(need int, before Time) {
	idle := before != 0
	m.hot.Victims(func(e extent.Extent, _ uint64, last int64) bool {
		if idle && Time(last) > before || !idle && need <= 0 {
			return false
		}
		first, n := m.geo.Range(e)
		switch {
		case m.open.Any(first, n) || m.closing.Any(first, n):
			m.wantFlush = true
		case !m.settled(e):
			m.wantPage(extent.PageOf(m.geo, e))
		default:
			m.victims = append(m.victims, e)
			need--
		}
		return true
	})
	for _, e := range m.victims {
		m.hot.Drop(e)
	}
	m.victims = m.victims[:0]
	m.retryRoom()
}

// retryRoom lets requests try again that found the activity map full.
func (m *Primary) retryRoom() {
	for n := m.roomQ.len(); n > 0 && m.roomQ.len() > 0 && m.hot.Room() > 0; n-- {
		m.pin(m.roomQ.pop())
	}
}

// onStop begins an orderly end.
func (m *Primary) onStop() {
	m.stopping = true
	m.frozen |= frStop
}

// pumpStop ends: requests, flush, pages, an empty map, the superblock, in this order.
func (m *Primary) pumpStop() {
	if m.stopped {
		return
	}
	if m.local && !m.metaFail {
		if m.drainable() > 0 || m.metaBusy {
			return
		}
		if m.open.Count() > 0 || m.closing.Count() > 0 {
			m.wantFlush = true
			m.pumpFlush()
			return
		}
		if m.flushLocal > 0 {
			return
		}
		if !m.stopFlushed && !m.flushFailed {
			m.stopFlushed = true // what was written without the peer, too
			m.flushNow()
			return
		}
		if !m.pagesClean() {
			m.wantAllPages()
			return
		}
		if m.hot.Len() > 0 {
			m.evict(int(m.sb.HotExtents), 0)
		}
		if m.hot.Drops() || m.hot.Dirty() {
			return
		}
		if m.sealed == 0 {
			if m.intact && !m.served {
				m.sb.Flags |= extent.FlagIntact // it was promoted, and nothing has come of it
			}
			m.sb.Flags &^= extent.FlagPrimary | extent.FlagServed | extent.FlagAllDirty
			m.sealed = m.touch()
		}
		if m.stable < m.sealed {
			return
		}
	}
	m.stopped = true
	m.hangUp("the primary stops")
	m.out.add().Kind = EfStopped
}

// drainable counts the requests that will end by themselves.
func (m *Primary) drainable() int {
	n := m.sync.inflight
	for i := range m.reqs[:m.cfg.AppTags] {
		r := &m.reqs[i]
		if r.state != stFree && r.state != stFrozen && !(r.state == stIssued && m.held(r)) {
			n++
		}
	}
	return n
}

// Status describes the machine.
func (m *Primary) Status() Status {
	s := m.status()
	s.Role = proto.RolePrimary
	s.Frozen = m.frozen&visible != 0
	s.Trouble = m.trouble()
	s.Promoted = m.promoted
	s.LocalLost = !m.local
	s.PeerFailed, s.PeerFailAt = m.peerFail.text, m.peerFail.at
	s.PeerWait = m.peerWait
	s.InFlight = m.appBusy
	s.Waiting = m.mapQ.len() + m.roomQ.len() + m.genQ.len()
	s.FrozenCount = m.frozenQ.len()
	y := &m.sync
	s.Syncing = y.session && m.established
	s.SyncSource = y.source
	s.SyncTotal, s.SyncMoved, s.SyncStarted = y.total, y.moved, y.started
	if left := s.DirtyBytes; left < y.total {
		s.SyncDone = y.total - left
	}
	return s
}

func (c *core) status() Status {
	return Status{
		Link: c.link, Why: c.linkWhy, Data: c.sb.Data, PeerData: c.peerData, PeerNode: c.peerName, PeerRole: c.peerRole,
		Mode: c.set.Mode, Epoch: c.sb.Epoch, Resource: c.sb.Resource, Current: c.sb.Current, Base: c.sb.Base,
		DirtyBytes: uint64(c.dirty.Count()) * proto.BlockSize, Since: c.since, Forced: c.sb.Forced != 0,
		HotExtents: c.hot.Len(), Counters: c.cnt, LocalError: c.diskErr.text, LocalErrAt: c.diskErr.at,
	}
}

// nextSeq names a frame after its tag; the upper half tells an answer to this frame from one to an earlier use of the tag.
func (m *Primary) nextSeq(t Tag) uint64 {
	m.seq++
	return m.seq<<32 | uint64(t)
}

func (m *Primary) onFrame(ev *Event) {
	switch h := &ev.Head; h.Type {
	case wire.TypeAck:
		m.onAck(h)
	case wire.TypeData:
		m.onData(h)
	case wire.TypeDigestResult:
		m.onDigestResult(h)
	case wire.TypeHello, wire.TypeVerdict, wire.TypeBitmap, wire.TypeStarted:
		m.onHandshake(ev)
	case wire.TypeNewGenOK:
		m.onNewGenOK()
	case wire.TypeSyncDoneOK:
		m.onSyncDoneOK()
	case wire.TypeBye:
		m.linkWhy = string(ev.Body)
	case wire.TypeKeepalive:
	default:
		m.hangUp("unexpected frame %d for a primary", h.Type)
	}
}
