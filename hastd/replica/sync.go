package replica

import (
	"math/bits"

	"hast/extent"
	"hast/hastd/role"
	"hast/proto"
	"hast/proto/wire"
)

// syncState is the sync of dirty blocks. A session makes a copy whole again; without one (a fill)
// only never-written blocks are made equal, and nobody's copy is in question.
type syncState struct {
	session  bool
	told     bool // its beginning was reported
	source   bool // we send
	active   bool // pieces may start
	rewrite  bool // a copy's flush failed: blocks are written anew even where they read the same (rule 11)
	seal     sealStep
	sealVer  uint64
	cured    bool // the end of a session ended what a failed flush had left here, too
	cursor   extent.Block
	barren   Time // no piece was found; look again then
	pause    Time // a disk failed a piece; try again then
	inflight int
	total    uint64
	moved    uint64
	started  Time
	tokens   int64
	refill   Time
}

// sealStep is how far the end of a session is: both superblocks have to say the same.
type sealStep uint8

const (
	sealNone  sealStep = iota
	sealSuper          // our superblock is on its way
	sealSent           // SYNC_DONE sent
)

// syncStage is where one piece stands.
type syncStage uint8

const (
	sgDigest  syncStage = iota // digests are being computed, then compared
	sgRead                     // source: local read
	sgSent                     // source: frame on its way
	sgFetch                    // target: read asked of the peer
	sgStore                    // target: local write
	sgRewrite                  // source: what was read is written back, because our own flush had failed (rule 11)
	sgAborted                  // the connection is gone; a disk operation is still under way
)

const barrenWait = 20 * Time(1e6) // locked or unflushed blocks: look again after this

func (m *Primary) startSync(a role.Action) {
	y := &m.sync
	*y = syncState{active: true, inflight: y.inflight, refill: m.now, started: m.now}
	y.rewrite = m.peer.FlushFailed || m.sb.Flags&extent.FlagFlushFailed != 0
	y.source = a != role.Target && a != role.TargetFull
	y.session = a != role.NoSync && !m.session.Whole
	if !m.local {
		y.active, y.session = false, false
		return
	}
	y.total = uint64(m.dirty.Count()) * proto.BlockSize
	y.told = y.total > 0
	if y.told {
		m.report(ReportSyncStart, y.total, "sync of %d bytes %s %s begins", y.total, direction(y.source), m.peer.Node)
	}
}

func direction(source bool) string {
	if source {
		return "to"
	}
	return "from"
}

// abortSync ends the pieces; a disk operation that is under way is waited for, its result ignored.
func (m *Primary) abortSync() {
	y := &m.sync
	if y.told && y.seal != sealSent {
		m.report(ReportSyncIntr, uint64(m.dirty.Count())*proto.BlockSize, "sync interrupted; %d bytes remain", uint64(m.dirty.Count())*proto.BlockSize)
	}
	y.active, y.session, y.told, y.seal = false, false, false, sealNone
	for i := m.cfg.AppTags; i < len(m.reqs); i++ {
		r := &m.reqs[i]
		if r.state != stSync {
			continue
		}
		first, n := m.geo.Touched(r.off, r.n)
		m.mark(first, n)
		if r.stage == sgSent || r.stage == sgFetch || r.stage == sgDigest && r.peer == partPending {
			m.dropPiece(Tag(i))
		} else {
			r.stage = sgAborted
		}
	}
}

func (m *Primary) dropPiece(t Tag) {
	m.unpin(&m.reqs[t])
	m.unlock(t)
	m.reqs[t] = req{}
	m.sync.inflight--
}

// window is how many pieces may be in flight: application I/O goes first.
func (m *Primary) window() int {
	if m.appBusy > 0 {
		return 2
	}
	return m.cfg.SyncTags
}

// pumpSync starts pieces, and ends the session when nothing is dirty any more.
func (m *Primary) pumpSync() {
	y := &m.sync
	if !y.active || !m.established || !m.local || m.stopping {
		return
	}
	if m.dirty.Count() == 0 {
		if y.inflight == 0 && y.session {
			m.seal()
		} else if y.inflight == 0 && y.told {
			m.syncDone()
		}
		return
	}
	if m.now < y.barren || m.now < y.pause {
		return
	}
	for y.inflight < m.window() && m.affordable() {
		t, ok := m.freePiece()
		if !ok {
			return
		}
		first, n := m.nextPiece()
		if n == 0 {
			y.barren = m.now + barrenWait
			m.tickAt = min(m.tickAt, y.barren)
			if y.inflight == 0 && m.open.Count() > 0 {
				m.wantFlush = true
				m.pumpFlush()
			}
			return
		}
		m.startPiece(t, first, n)
	}
}

// affordable applies the configured rate.
func (m *Primary) affordable() bool {
	y, rate := &m.sync, m.set.SyncRate
	if rate == 0 {
		return true
	}
	dt := min(m.now-y.refill, Second)
	y.tokens = min(y.tokens+int64(float64(rate)*float64(dt)/float64(Second)), int64(rate)/10+SyncPiece)
	y.refill = m.now
	if y.tokens <= 0 {
		m.tickAt = min(m.tickAt, m.now+Second/100)
		return false
	}
	return true
}

func (m *Primary) freePiece() (Tag, bool) {
	for i := m.cfg.AppTags; i < len(m.reqs); i++ {
		if m.reqs[i].state == stFree {
			return Tag(i), true
		}
	}
	return 0, false
}

// nextPiece finds dirty blocks that have not been moved yet and that nobody holds. It looks at a bounded
// number of runs, wrapping once.
func (m *Primary) nextPiece() (extent.Block, extent.Block) {
	y := &m.sync
	at, wrapped, start := y.cursor, false, y.cursor
	for looked := 0; looked < 256; looked++ {
		first, n := m.dirty.Next(at, SyncPiece/proto.BlockSize)
		if n == 0 || wrapped && first >= start {
			if wrapped || start == 0 {
				y.cursor = 0
				return 0, 0
			}
			at, wrapped = 0, true
			continue
		}
		first, n = m.fresh(first, n)
		if n == 0 {
			at = first
			continue
		}
		y.cursor = first + n
		if !m.locks.Busy(blockSpan(first, n)) {
			return first, n
		}
		at = first + n
	}
	y.cursor = at
	return 0, 0
}

// fresh cuts a run to its first part that waits for no flush, within one
// extent. n == 0: none; first is where to go on.
func (m *Primary) fresh(first, n extent.Block) (extent.Block, extent.Block) {
	ef, en := m.geo.Range(m.geo.ExtentOf(first))
	n = min(n, ef+en-first)
	for n > 0 && (m.open.Test(first) || m.closing.Test(first)) {
		first++
		n--
	}
	for i := extent.Block(1); i < n; i++ {
		if m.push.Test(first+i) != m.push.Test(first) || m.open.Test(first+i) || m.closing.Test(first+i) {
			n = i
		}
	}
	return first, n
}

func blockSpan(first, n extent.Block) extent.Span {
	return extent.Span{Off: uint64(first) * proto.BlockSize, End: uint64(first+n) * proto.BlockSize}
}

func (m *Primary) startPiece(t Tag, first, n extent.Block) {
	y := &m.sync
	r := &m.reqs[t]
	*r = req{state: stSync, off: proto.Offset(first) * proto.BlockSize, n: proto.Length(n) * proto.BlockSize}
	r.mask = ^uint64(0) >> (64 - uint(n))
	y.inflight++
	y.tokens -= int64(r.n)
	r.locked = true
	r.out = m.sync.source || m.push.Test(first)
	if !m.locks.Acquire(uint32(t), blockSpan(first, n)) {
		panic("replica: a sync piece has to wait for its lock")
	}
	// A piece needs no pin: its blocks are dirty, and a dirty block's extent stays in the map until the bit is on disk.
	if m.suspect.Test(m.geo.ExtentOf(first)) && !m.sync.rewrite && r.out == m.sync.source {
		r.stage = sgDigest
		e := m.out.add()
		e.Kind, e.Tag, e.Off, e.Len, e.Key = EfDigest, t, r.off, r.n, m.key
		return
	}
	m.nextSub(t)
}

// nextSub moves the next run of blocks of a piece that differ.
func (m *Primary) nextSub(t Tag) {
	r := &m.reqs[t]
	if r.mask == 0 || !m.local {
		m.dropPiece(t)
		return
	}
	skip := bits.TrailingZeros64(r.mask)
	run := bits.TrailingZeros64(^(r.mask >> uint(skip)))
	if run == 64 {
		r.mask = 0
	} else {
		r.mask &^= (1<<uint(run) - 1) << uint(skip)
	}
	r.subOff = r.off + proto.Offset(skip)*proto.BlockSize
	r.subLen = proto.Length(run) * proto.BlockSize
	if r.out {
		r.stage = sgRead
		m.disk(t, proto.OpRead, r.subOff, r.subLen, false, false)
		return
	}
	r.stage, r.peer = sgFetch, partPending
	r.seq = m.nextSeq(t)
	m.send(wire.Header{Type: wire.TypeRead, Flags: wire.FlagSync, Seq: r.seq, Offset: r.subOff, Length: r.subLen}, nil)
}

func (m *Primary) onDigest(ev *Event) {
	t := ev.Tag
	r := &m.reqs[t]
	if r.state != stSync {
		panic("replica: digests for an idle tag")
	}
	if r.stage == sgAborted || !m.local {
		m.dropPiece(t)
		return
	}
	if ev.Errno != proto.OK {
		m.nextSub(t) // unreadable: try to move it all the same
		return
	}
	r.seq, r.peer = m.nextSeq(t), partPending
	m.sendPayload(wire.Header{Type: wire.TypeDigest, Flags: wire.FlagSync, Seq: r.seq, Offset: r.off, Length: r.n}, t)
}

func (m *Primary) onDigestResult(h *wire.Header) {
	t := Tag(uint32(h.Seq))
	if int(t) >= len(m.reqs) || m.reqs[t].seq != h.Seq || m.reqs[t].state != stSync || m.reqs[t].stage != sgDigest || m.reqs[t].peer != partPending {
		m.hangUp("DIGEST_RESULT for a comparison that is not under way")
		return
	}
	r := &m.reqs[t]
	r.peer = partNone
	equal := h.Aux & r.mask
	if h.Length != 0 || m.sb.Flags&extent.FlagFlushFailed != 0 { // the peer could not read its blocks: they are moved
		equal = 0
	}
	first, _ := m.geo.Touched(r.off, r.n)
	for b := equal; b != 0; {
		i := bits.TrailingZeros64(b)
		b &= b - 1
		m.moved(first+extent.Block(i), 1)
		m.cnt.SyncEqualBytes += proto.BlockSize
	}
	r.mask &^= equal
	m.nextSub(t)
}

// moved notes blocks that are equal on both copies now, though perhaps unflushed: only retire ends their mark (rule 3).
func (m *Primary) moved(first, n extent.Block) {
	if m.open.Count() == 0 {
		m.openSince = m.now
	}
	m.open.Set(first, n)
}

// syncDisk takes a piece's disk operation in.
func (m *Primary) syncDisk(t Tag, ev *Event) {
	r := &m.reqs[t]
	if !m.local && r.stage != sgAborted {
		// Our copy went out meanwhile: what it returned may be older than what the peer has.
		r.stage = sgAborted
	}
	switch r.stage {
	case sgAborted:
		m.dropPiece(t)
	case sgRead:
		if ev.Errno != proto.OK {
			m.cnt.LocalReadErrors++
			m.skipPiece(t, "reading", ev.Errno)
			return
		}
		if m.flushFailed { // what we read may be in a cache that has lost its way to the disk
			r.stage = sgRewrite
			m.disk(t, proto.OpWrite, r.subOff, r.subLen, false, false)
			return
		}
		m.sendPiece(t, ev.Mask == 1)
	case sgRewrite:
		if ev.Errno != proto.OK {
			m.skipPiece(t, "writing", ev.Errno)
			return
		}
		m.sendPiece(t, false)
	case sgStore:
		if ev.Errno != proto.OK {
			m.cnt.LocalWriteErrors++
			m.skipPiece(t, "writing", ev.Errno)
			return
		}
		m.subDone(t)
	default:
		panic("replica: disk answer for a sync piece that asked for none")
	}
}

// skipPiece leaves a piece's marks alone and pauses the sync: it can't finish while the disk fails (rule 3).
func (m *Primary) skipPiece(t Tag, doing string, errno proto.Errno) {
	r := &m.reqs[t]
	m.diskFailed("%s %d bytes at %d failed in a sync: %s", doing, r.subLen, r.subOff, errno)
	m.report(ReportPeerError, uint64(r.subLen), "sync: %s %d bytes at %d on the local disk failed; the blocks stay marked", doing, r.subLen, r.subOff)
	m.sync.pause = m.now + retrySync
	m.dropPiece(t)
}

func (m *Primary) sendPiece(t Tag, zero bool) {
	r := &m.reqs[t]
	r.stage, r.peer, r.seq = sgSent, partPending, m.nextSeq(t)
	h := wire.Header{Type: wire.TypeWrite, Flags: wire.FlagSync, Seq: r.seq, Offset: r.subOff, Length: r.subLen}
	if zero {
		h.Type = wire.TypeZero
		m.cnt.SyncZeroBytes += uint64(r.subLen)
		m.send(h, nil)
		return
	}
	m.sync.moved += uint64(r.subLen)
	m.cnt.SyncBytes += uint64(r.subLen)
	m.sendPayload(h, t)
}

func (m *Primary) syncAcked(t Tag) {
	if m.reqs[t].stage != sgSent {
		m.hangUp("an ACK for a sync piece that sent nothing")
		return
	}
	m.subDone(t)
}

// syncData stores what a target's fetch brought.
func (m *Primary) syncData(t Tag, h *wire.Header) {
	r := &m.reqs[t]
	if r.stage != sgFetch || h.Aux == 0 && h.Length != r.subLen {
		m.hangUp("DATA that the sync did not ask for")
		return
	}
	if h.Aux != 0 {
		m.cnt.RemoteReadErrors++
		m.report(ReportPeerError, uint64(r.subLen), "sync: the peer could not read %d bytes at %d; the blocks stay marked", r.subLen, r.subOff)
		m.sync.pause = m.now + retrySync
		m.dropPiece(t)
		return
	}
	r.stage = sgStore
	if h.Compression == wire.CompressionHole {
		m.cnt.SyncZeroBytes += uint64(r.subLen)
		m.disk(t, proto.OpZero, r.subOff, r.subLen, false, false)
		return
	}
	m.sync.moved += uint64(r.subLen)
	m.cnt.SyncBytes += uint64(r.subLen)
	m.disk(t, proto.OpWrite, r.subOff, r.subLen, false, false)
}

func (m *Primary) subDone(t Tag) {
	r := &m.reqs[t]
	r.peer = partNone
	if r.tainted {
		m.dropPiece(t)
		return
	}
	first, n := m.geo.Touched(r.subOff, r.subLen)
	m.moved(first, n)
	m.nextSub(t)
}

// seal ends a session. As a source we first record that the peer may be at our
// generation from now on: should SYNC_DONE's answer be lost, the next write without the peer begins a new one.
// As a target we adopt the source's generation and past.
func (m *Primary) seal() {
	y := &m.sync
	if y.seal != sealNone {
		return
	}
	y.seal = sealSuper
	m.sb.Flags |= extent.FlagConnected
	m.sb.Flags &^= extent.FlagAllDirty
	if !y.source {
		m.sb.Flags &^= extent.FlagFlushFailed
		y.cured = m.flushFailed
		m.flushFailed = m.flushFailed && m.metaFail // what can't be taken back on disk stands
		m.pushHistory(m.sb.Current)
		m.sb.Current, m.sb.History, m.sb.Base = m.peer.Current, m.peer.History, proto.ID{}
		m.sb.GenSince, m.sb.GenNode = m.peer.GenSince, m.peer.GenNode
		m.sb.SyncID, m.sb.SyncRole = proto.ID{}, 0
		m.setData(proto.DataUpToDate)
		m.stale = false
	}
	m.suspect.Reset()
	m.push.Reset()
	y.sealVer = m.touch()
}

// stepSync sends SYNC_DONE once our superblock is stable.
func (m *Primary) stepSync() {
	y := &m.sync
	if y.seal != sealSuper || m.stable < y.sealVer || !m.established {
		return
	}
	y.seal = sealSent
	l := lineage{Current: m.sb.Current, History: m.sb.History, GenSince: m.sb.GenSince, GenNode: m.sb.GenNode}
	m.send(wire.Header{Type: wire.TypeSyncDone}, l.encode(nil))
}

func (m *Primary) onSyncDoneOK() {
	y := &m.sync
	if y.seal != sealSent {
		m.hangUp("an answer to no SYNC_DONE")
		return
	}
	m.sb.Base, m.sb.SyncID, m.sb.SyncRole = proto.ID{}, proto.ID{}, 0
	m.sb.Flags &^= extent.FlagFlushFailed // every block in doubt was rewritten, and both copies flushed
	m.flushFailed = false
	m.reconciled()
	m.touch()
	m.wantAllPages()
	m.peerWhole = true
	m.peerData = proto.DataUpToDate
	m.peerFail = failure{}
	if !m.metaFail {
		m.diskErr = failure{}
	}
	m.syncDone()
	*y = syncState{active: true, inflight: y.inflight, source: true, refill: m.now}
}

// syncDone tells the end of what syncstart announced.
func (m *Primary) syncDone() {
	y := &m.sync
	if y.told {
		m.report(ReportSyncDone, y.moved, "sync complete: %d bytes moved, %d marked", y.moved, y.total)
	}
	y.told = false
	m.suspect.Reset()
}
