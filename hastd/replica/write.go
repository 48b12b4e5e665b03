package replica

import (
	"hast/extent"
	"hast/proto"
	"hast/proto/wire"
)

// reqState is where a request stands. The zero value is a free entry.
type reqState uint8

const (
	stFree   reqState = iota
	stFrozen          // in frozenQ
	stLock            // waits for its range lock
	stRoom            // in roomQ
	stMap             // in mapQ
	stIssued          // parts are under way, or it waits for a generation
	stRead            // local read under way
	stRemote          // read asked of the peer
	stRepair          // read answered by the peer, being written here
	stFlush           // member of a flush
	stSync            // a sync piece
)

// part is how one copy's share of a request stands.
type part uint8

const (
	partNone    part = iota // not asked of this copy
	partPending             // asked
	partDone
	partFailed // the copy is lost; its marks cover the request
)

// req is one entry of the request table.
type req struct {
	state          reqState
	op             proto.Op
	fua, noUnmap   bool
	replied        bool
	received       bool // the peer holds it in memory
	pinned, locked bool
	inGenQ         bool
	repair         bool // a read whose data is to be rewritten locally
	local, peer    part
	errno          proto.Errno
	off            proto.Offset
	n              proto.Length
	from, end      proto.Offset // of the whole request; a zero request goes piece by piece
	ext            extent.Extent
	exts           int
	wait           uint64 // activity map commit
	seq            uint64
	mask           uint64 // sync: blocks still to move
	subOff         proto.Offset
	subLen         proto.Length
	stage          syncStage
	asked          Time // of the peer
	out            bool // sync: this piece is sent, though we may be a target
	tainted        bool // our flush failed while it was under way: what it wrote here may be gone
}

// 1 arrive

func (m *Primary) arrive(ev *Event) {
	r := &m.reqs[ev.Tag]
	if r.state != stFree {
		panic("replica: tag is in use")
	}
	*r = req{state: stFrozen, op: ev.Op, fua: ev.FUA, noUnmap: ev.NoUnmap, off: ev.Off, n: ev.Len, from: ev.Off, end: ev.Off + proto.Offset(ev.Len)}
	m.count(r)
	m.appBusy++
	m.lastApp = m.now
	if !m.valid(r) {
		m.answer(ev.Tag, proto.EINVAL)
		return
	}
	if m.noCopy {
		m.answer(ev.Tag, proto.EIO)
		return
	}
	if !m.served && m.frozen == 0 {
		m.serve()
	}
	if m.frozen != 0 {
		m.frozenQ.push(ev.Tag)
		return
	}
	m.begin(ev.Tag)
}

// serve records, before the first request is answered, that this term has
// served: from now on this copy is never made a sync target under its users.
func (m *Primary) serve() {
	m.served = true
	m.sb.Flags |= extent.FlagServed
	m.sb.Flags &^= extent.FlagMerged // marks are its own from now on
	m.touched()
	m.serveVer = m.touch()
	m.frozen |= frServe
}

func (m *Primary) count(r *req) {
	switch r.op {
	case proto.OpRead:
		m.cnt.Reads++
		m.cnt.ReadBytes += uint64(r.n)
	case proto.OpWrite:
		m.cnt.Writes++
		m.cnt.WriteBytes += uint64(r.n)
	case proto.OpZero:
		m.cnt.Zeroes++
		m.cnt.ZeroBytes += uint64(r.n)
	case proto.OpFlush:
		m.cnt.Flushes++
	}
}

func (m *Primary) valid(r *req) bool {
	if r.op == proto.OpFlush {
		return true
	}
	l := proto.Offset(m.geo.Logical)
	if r.n == 0 || r.off%l != 0 || r.end%l != 0 || r.end < r.off || r.end > m.geo.DataSize {
		return false
	}
	switch r.op {
	case proto.OpRead:
		return r.n <= proto.MaxRequest
	case proto.OpWrite:
		_, exts := m.span(r.off, r.n)
		return r.n <= proto.MaxRequest && exts <= m.maxSpan
	case proto.OpZero:
		return true
	}
	return false
}

func (m *Primary) span(off proto.Offset, n proto.Length) (extent.Extent, int) {
	first := extent.Extent(uint64(off) / uint64(m.geo.ExtentSize))
	last := extent.Extent((uint64(off) + uint64(n) - 1) / uint64(m.geo.ExtentSize))
	return first, int(last-first) + 1
}

func (m *Primary) begin(t Tag) {
	r := &m.reqs[t]
	if !m.served {
		m.serve()
	}
	if m.frozen != 0 {
		r.state = stFrozen
		m.frozenQ.push(t)
		return
	}
	switch r.op {
	case proto.OpRead:
		m.read(t)
	case proto.OpFlush:
		r.state = stFlush
		m.flushWait.push(t)
	default:
		m.piece(t)
	}
}

// piece cuts a zero request to what the activity map takes at once.
func (m *Primary) piece(t Tag) {
	r := &m.reqs[t]
	if r.op == proto.OpZero {
		max := proto.Offset(m.maxSpan) * proto.Offset(m.geo.ExtentSize)
		stop := (r.off/proto.Offset(m.geo.ExtentSize))*proto.Offset(m.geo.ExtentSize) + max
		r.n = proto.Length(min(r.end, stop) - r.off)
	}
	m.lock(t)
}

// 2 lock

func (m *Primary) lock(t Tag) {
	r := &m.reqs[t]
	r.state, r.locked = stLock, true
	if m.locks.Acquire(uint32(t), extent.Span{Off: uint64(r.off), End: uint64(r.off) + uint64(r.n)}) {
		m.pin(t)
	}
}

// unlock releases t's range and lets those go on that waited for it.
func (m *Primary) unlock(t Tag) {
	if !m.reqs[t].locked {
		return
	}
	m.reqs[t].locked = false
	base := len(m.granted)
	m.granted = m.locks.Release(uint32(t), m.granted)
	for i := base; i < len(m.granted); i++ {
		m.pin(Tag(m.granted[i]))
	}
	m.granted = m.granted[:base]
}

// 3 pin

func (m *Primary) pin(t Tag) {
	r := &m.reqs[t]
	if !m.local || m.metaFail {
		m.unmapped(t)
		return
	}
	r.ext, r.exts = m.span(r.off, r.n)
	wait, ok := m.hot.Begin(r.ext, r.exts)
	if !ok {
		r.state = stRoom
		m.roomQ.push(t)
		return
	}
	r.pinned = true
	if wait > 0 {
		r.state, r.wait = stMap, wait
		m.mapQ.push(t)
		return
	}
	m.issue(t)
}

// unmapped goes on with a request whose activity can't be marked here: to the peer alone, or not at all.
func (m *Primary) unmapped(t Tag) {
	if m.local {
		m.reqs[t].errno = proto.EIO
	}
	m.issue(t)
}

// 4 issue

func (m *Primary) issue(t Tag) {
	r := &m.reqs[t]
	r.state = stIssued
	if r.repair {
		m.askPeer(t)
		return
	}
	if r.errno == proto.OK && m.flushFailed {
		r.errno = proto.EIO // rule 11: without a copy that is known to keep what it is given
	}
	if r.errno != proto.OK {
		m.settle(t)
		return
	}
	if m.frozen&^frStop != 0 && !m.established || m.frozen&frNewGen != 0 {
		m.park(t)
		return
	}
	m.firstWrite(r)
	if m.established {
		r.peer = partPending
		m.sendWrite(t)
	} else {
		m.markReq(r)
		m.ensureGen()
	}
	if m.local && !m.partialStale(r) {
		r.local = partPending
		m.disk(t, r.op, r.off, r.n, r.fua, r.noUnmap)
	} else {
		// Rule 10: a part of a stale block is not written over it; the peer alone takes it
		// and the block stays stale here.
		r.local = partFailed
		m.markReq(r)
	}
	m.settle(t)
}

// park puts a request back that found the door closed on its way.
func (m *Primary) park(t Tag) {
	r := &m.reqs[t]
	m.unpin(r)
	r.state = stFrozen
	m.frozenQ.push(t)
	m.unlock(t)
}

// firstWrite marks the rest of never-written extents: their blocks differ between the nodes (rule 16).
func (m *Primary) firstWrite(r *req) {
	if !m.local {
		return
	}
	for i := 0; i < r.exts; i++ {
		e := r.ext + extent.Extent(i)
		if m.written(e) {
			first, n := m.geo.Range(e)
			m.mark(first, n)
			m.unsettle(first, n) // a repaired read may have put a part of a block there
		}
	}
}

// partialStale reports whether r covers only part of a block that is stale here.
func (m *Primary) partialStale(r *req) bool {
	first, n := m.geo.Touched(r.off, r.n)
	cf, cn := m.geo.Covered(r.off, r.n)
	if !m.stale || cn == n {
		return false
	}
	if cn == 0 {
		return m.staleIn(first, n)
	}
	return first < cf && m.staleIn(first, 1) || first+n > cf+cn && m.staleIn(first+n-1, 1)
}

func (m *Primary) sendWrite(t Tag) {
	r := &m.reqs[t]
	r.seq, r.asked = m.nextSeq(t), m.now
	r.received = false
	h := wire.Header{Type: wire.TypeWrite, Seq: r.seq, Offset: r.off, Length: r.n}
	if m.ackMode == proto.ModeMemsync {
		h.Flags |= wire.FlagWantReceived
	}
	if r.fua || m.stale {
		// A target's own copy is no help if the source loses its cache and this worker its memory, so the source keeps what is acknowledged.
		h.Flags |= wire.FlagFUA
	}
	if r.op == proto.OpWrite {
		m.sendPayload(h, t)
		return
	}
	h.Type = wire.TypeZero
	if r.noUnmap {
		h.Flags |= wire.FlagNoUnmap
	}
	m.send(h, nil)
}

// markReq marks every block that r touches.
func (m *Primary) markReq(r *req) {
	first, n := m.geo.Touched(r.off, r.n)
	for e := m.geo.ExtentOf(first); e <= m.geo.ExtentOf(first+n-1); e++ {
		if m.written(e) { // on one copy only, as yet: the rest of it differs too (rule 16)
			m.mark(m.geo.Range(e))
		}
	}
	m.mark(first, n)
	m.unsettle(first, n)
}

// unsettle takes back that blocks are the same on both copies.
func (m *Primary) unsettle(first, n extent.Block) {
	m.open.Clear(first, n)
	m.closing.Clear(first, n)
	m.push.Clear(first, n)
}

// staleIn reports whether one of the blocks is older here than on the peer.
func (m *Primary) staleIn(first, n extent.Block) bool {
	if !m.stale {
		return false
	}
	for end := first + n; first < end; first++ {
		at, k := m.dirty.Next(first, 1)
		if k == 0 || at >= end {
			return false
		}
		if first = at; !m.push.Test(at) && !m.open.Test(at) && !m.closing.Test(at) {
			return true
		}
	}
	return false
}

// ensureGen sees to it that a generation begins if the peer may still believe to have the newest (rule 6).
// What both copies had taken, unflushed, would be gone with the next loss of power here, and the peer that has it
// disqualified: so our disk is flushed first, and a generation begins only if that succeeds.
func (m *Primary) ensureGen() {
	if m.established || m.genHold || m.genBegun() || m.frozen&(visible|frStart) != 0 {
		return // what is frozen begins none; afterPolicy asks again
	}
	if m.genHold = m.local && !m.sb.Current.IsZero() && !m.metaFail; !m.genHold {
		m.beginGen()
	}
}

// genBegun reports whether this copy is of a generation that the peer's is not known to have.
func (m *Primary) genBegun() bool {
	return !m.sb.Current.IsZero() && m.sb.Flags&extent.FlagConnected == 0
}

// genFlushed follows the flush before a generation.
func (m *Primary) genFlushed() {
	m.genHold = false
	// The peer may be back, or about to take over what waits; then nothing is acknowledged without it.
	if !m.established && !m.flushFailed && m.frozen&(visible|frStart) == 0 {
		m.beginGen()
	}
	m.drainGen()
}

func (m *Primary) beginGen() {
	old := m.sb.Current
	m.ahead = false
	m.touched()
	m.pushHistory(old)
	if !old.IsZero() {
		m.sb.Base = old
	}
	m.sb.Current = m.newID()
	if m.sb.Resource.IsZero() {
		m.sb.Resource = m.newID()
	}
	m.sb.GenSince, m.sb.GenNode = m.wall, m.cfg.Node
	m.sb.Flags &^= extent.FlagConnected
	m.genVer = m.touch()
	m.report(ReportGeneration, 0, "generation %s begins without the peer, after %s", m.sb.Current.Short(), old.Short())
}

// absentGen reports whether the generation is stable that disqualifies the peer's copy.
func (m *Primary) absentGen() bool {
	m.ensureGen()
	return m.genBegun() && m.stable >= m.genVer
}

// 5 settle

// held reports whether r waits for a person or the peer rather than for something that ends by itself.
func (m *Primary) held(r *req) bool {
	return r.peer == partFailed && r.local != partPending && m.frozen&visible != 0 && !r.replied
}

func (m *Primary) settle(t Tag) {
	r := &m.reqs[t]
	if r.state != stIssued {
		return
	}
	if !r.replied && r.local != partPending {
		switch {
		case r.errno != proto.OK:
			r.replied = r.peer != partPending
		case r.local == partFailed:
			// The peer has the only copy of this write.
			r.replied = r.peer == partDone && (m.local || m.lostStable)
		case r.peer == partPending:
			r.replied = !m.stale && (m.ackMode == proto.ModeAsync || m.ackMode == proto.ModeMemsync && r.received)
		case r.peer == partDone:
			r.replied = true
		default:
			r.replied = m.absentOK(t, r)
		}
		if r.replied && (r.errno != proto.OK || r.off+proto.Offset(r.n) >= r.end) {
			m.reply(t, r.errno)
		}
	}
	if r.replied && r.local != partPending && r.peer != partPending {
		m.finish(t)
	}
}

// absentOK reports whether r may be acknowledged without the peer: the
// generation that disqualifies the peer's copy is stable (rules 1, 6), and nothing is frozen.
func (m *Primary) absentOK(t Tag, r *req) bool {
	if m.flushFailed { // rule 11
		r.errno = proto.EIO
		return true
	}
	if m.frozen&visible != 0 || m.frozen&frStart != 0 {
		return false
	}
	if m.absentGen() {
		return true
	}
	if m.metaFail {
		r.errno = proto.EIO
		return true
	}
	if !r.inGenQ {
		r.inGenQ = true
		m.genQ.push(t)
	}
	return false
}

// 6 finish

func (m *Primary) finish(t Tag) {
	r := &m.reqs[t]
	if r.errno == proto.OK && r.local == partDone && r.peer == partDone {
		if r.tainted {
			m.markReq(r)
		} else {
			m.onBoth(r.off, r.n)
		}
	} else if r.errno != proto.OK && r.exts > 0 && (r.local != partNone || r.peer != partNone) {
		m.markReq(r) // what a failed write left behind is unknown
	}
	m.unpin(r)
	if r.errno == proto.OK && r.off+proto.Offset(r.n) < r.end {
		m.unlock(t)
		r.off += proto.Offset(r.n)
		r.local, r.peer, r.replied, r.exts = partNone, partNone, false, 0
		if m.frozen != 0 {
			r.n = proto.Length(r.end - r.off)
			r.state = stFrozen
			m.frozenQ.push(t)
			return
		}
		m.piece(t)
		return
	}
	m.unlock(t)
	m.free(t)
}

// onBoth notes that both copies have the range, unflushed (rule 3).
func (m *Primary) onBoth(off proto.Offset, n proto.Length) {
	if m.open.Count() == 0 {
		m.openSince = m.now
	}
	first, cnt := m.geo.Touched(off, n)
	cf, cn := m.geo.Covered(off, n)
	if cn == cnt {
		m.open.Set(first, cnt)
		return
	}
	m.open.Set(cf, cn)
	for _, b := range [2]extent.Block{first, first + cnt - 1} {
		if (b < cf || b >= cf+cn) && (!m.dirty.Test(b) || m.open.Test(b) || m.closing.Test(b)) {
			m.open.Set(b, 1) // rule 10: a partial write does not end a block's being stale
		}
	}
}

func (m *Primary) unpin(r *req) {
	if !r.pinned {
		return
	}
	r.pinned = false
	m.hot.End(r.ext, r.exts, 0, int64(m.now))
	if m.roomQ.len() > 0 {
		m.retryRoom()
	}
}

// answer replies and frees a request that holds nothing.
func (m *Primary) answer(t Tag, errno proto.Errno) {
	m.reply(t, errno)
	m.free(t)
}

func (m *Primary) free(t Tag) {
	if int(t) < m.cfg.AppTags {
		m.appBusy--
	}
	m.reqs[t] = req{}
	m.release(t)
}

// Completions.

func (m *Primary) onDisk(ev *Event) {
	t := ev.Tag
	if int(t) >= len(m.reqs) {
		m.flushedLocal(int(t)-len(m.reqs), ev.Errno)
		return
	}
	switch r := &m.reqs[t]; r.state {
	case stIssued:
		m.wroteLocal(t, r, ev.Errno)
	case stRead:
		m.readLocal(t, ev.Errno)
	case stRepair:
		m.repaired(t, ev.Errno)
	case stSync:
		m.syncDisk(t, ev)
	default:
		panic("replica: disk answer for an idle request")
	}
}

func (m *Primary) wroteLocal(t Tag, r *req, errno proto.Errno) {
	if r.fua && errno != proto.OK && errno != proto.ENOSPC {
		// Write and flush in one, and nobody says which of them failed: what the disk had in its cache may be gone (rule 11).
		m.cnt.LocalWriteErrors++
		m.diskFailed("a write with FUA at %d (%d bytes) failed: %s", r.off, r.n, errno)
		m.metaDoubt = m.metaBusy
		if m.flushLost("a write with FUA failed: %s", errno) {
			r.local = partFailed
		} else {
			r.local, r.errno = partDone, proto.EIO
		}
		m.settle(t)
		return
	}
	r.local = partDone
	if errno != proto.OK {
		m.cnt.LocalWriteErrors++
		m.diskFailed("a write at %d (%d bytes) failed: %s", r.off, r.n, errno)
		if m.local && !m.loseLocal("a write at %d (%d bytes) failed: %s", r.off, r.n, errno) {
			r.errno = proto.EIO
			if errno == proto.ENOSPC {
				r.errno = proto.ENOSPC
			}
		} else {
			r.local = partFailed
		}
	} else if !m.local {
		r.local = partFailed // it arrived on a copy that counts no more
	}
	m.settle(t)
}

func (m *Primary) onAck(h *wire.Header) {
	t := Tag(uint32(h.Seq))
	errno := proto.Errno(h.Aux)
	if int(t) >= len(m.reqs) {
		m.flushedPeer(int(t)-len(m.reqs), h)
		return
	}
	r := &m.reqs[t]
	if r.seq != h.Seq || r.peer != partPending || r.state != stIssued && r.state != stSync {
		m.hangUp("an ACK for a request that is not under way (seq %d)", h.Seq)
		return
	}
	if h.Flags&wire.FlagReceived != 0 {
		r.received = true
		m.settle(t)
		return
	}
	if errno != proto.OK {
		m.cnt.RemoteWriteErrors++
		m.peerFailed("a write at %d (%d bytes) failed on the peer: %s", r.off, r.n, errno)
		return
	}
	r.peer = partDone
	if r.state == stSync {
		m.syncAcked(t)
		return
	}
	m.settle(t)
}

// Reads.

// read serves a read from the local copy, or from the peer where ours is stale or out (rule 10).
func (m *Primary) read(t Tag) {
	r := &m.reqs[t]
	first, n := m.geo.Touched(r.off, r.n)
	if m.local && !m.staleIn(first, n) {
		r.state = stRead
		m.disk(t, proto.OpRead, r.off, r.n, false, false)
		return
	}
	m.askPeer(t)
}

func (m *Primary) askPeer(t Tag) {
	r := &m.reqs[t]
	if !m.established {
		if r.repair {
			m.endRepair(t, proto.EIO)
			return
		}
		r.state = stFrozen // never a stale block: wait for the peer (rule 8)
		m.frozenQ.push(t)
		return
	}
	r.state, r.peer = stRemote, partPending
	r.seq, r.asked = m.nextSeq(t), m.now
	m.cnt.RemoteReads++
	m.send(wire.Header{Type: wire.TypeRead, Seq: r.seq, Offset: r.off, Length: r.n}, nil)
}

func (m *Primary) readLocal(t Tag, errno proto.Errno) {
	r := &m.reqs[t]
	first, n := m.geo.Touched(r.off, r.n)
	if errno == proto.OK && !m.local {
		m.askPeer(t) // our copy went out meanwhile, and may have dropped what was written there (rule 10)
		return
	}
	if errno != proto.OK {
		m.diskFailed("a read at %d (%d bytes) failed: %s", r.off, r.n, errno)
	}
	if errno == proto.OK && m.flushFailed && m.dirty.Any(first, n) {
		errno = proto.EIO // rules 10, 11: the disk may have dropped what was written there
	}
	if errno == proto.OK {
		m.answer(t, proto.OK)
		return
	}
	m.cnt.LocalReadErrors++
	if !m.established || !m.local || !m.stale && m.dirty.Any(first, n) {
		if m.established && !m.local {
			m.askPeer(t)
			return
		}
		m.answer(t, proto.EIO)
		return
	}
	// Nothing to repair where nothing was ever written (rule 16): the peer's garbage will do.
	if ext, exts := m.span(r.off, r.n); exts > m.maxSpan || m.neverIn(ext, exts) {
		m.askPeer(t)
		return
	}
	// The peer's block is good: read it there and repair ours, as a write would, under lock and mark.
	r.repair = true
	m.lock(t)
}

func (m *Primary) neverIn(first extent.Extent, n int) bool {
	for e := first; e < first+extent.Extent(n); e++ {
		if m.never.Test(e) {
			return true
		}
	}
	return false
}

func (m *Primary) onData(h *wire.Header) {
	t := Tag(uint32(h.Seq))
	if int(t) >= len(m.reqs) || m.reqs[t].seq != h.Seq || m.reqs[t].peer != partPending {
		m.hangUp("DATA for a read that is not under way (seq %d)", h.Seq)
		return
	}
	r := &m.reqs[t]
	errno := proto.Errno(h.Aux)
	r.peer = partDone
	switch r.state {
	case stSync:
		m.syncData(t, h)
	case stRemote:
		if errno != proto.OK {
			m.cnt.RemoteReadErrors++
		}
		if r.repair {
			m.endRemote(t, errno)
			return
		}
		m.answer(t, errno)
	default:
		m.hangUp("DATA for a request that is no read")
	}
}

// endRemote answers a read from the peer's data and rewrites the local block with it.
func (m *Primary) endRemote(t Tag, errno proto.Errno) {
	r := &m.reqs[t]
	if errno != proto.OK {
		m.endRepair(t, proto.EIO)
		return
	}
	m.reply(t, proto.OK)
	r.replied = true
	if !m.local {
		m.endRepair(t, proto.OK)
		return
	}
	r.state = stRepair
	m.disk(t, proto.OpWrite, r.off, r.n, false, false)
}

func (m *Primary) repaired(t Tag, errno proto.Errno) {
	r := &m.reqs[t]
	if errno == proto.OK {
		m.cnt.ReadRepairs++
		m.onBoth(r.off, r.n)
		m.report(ReportReadRepair, uint64(r.n), "%d bytes at %d could not be read and were rewritten from the peer", r.n, r.off)
	} else {
		m.markReq(r)
		m.diskFailed("a block at %d could neither be read nor rewritten: %s", r.off, errno)
		m.loseLocal("a block at %d could neither be read nor rewritten: %s", r.off, errno)
	}
	m.endRepair(t, proto.OK)
}

func (m *Primary) endRepair(t Tag, errno proto.Errno) {
	r := &m.reqs[t]
	if !r.replied {
		m.reply(t, errno)
	}
	m.unpin(r)
	m.unlock(t)
	m.free(t)
}
