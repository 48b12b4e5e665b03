package replica

import (
	"hast/extent"
	"hast/proto"
	"hast/proto/wire"
)

// flush is one flush under way: for the application, for the marks, or both.
// Requests that arrive while the local disk is flushing share the next one.
type flush struct {
	active      bool
	inGenQ      bool
	acked       bool
	received    bool
	retire      bool // covers the closing set
	forGen      bool // precedes a new generation: see ensureGen
	local, peer part
	errno       proto.Errno
	seq         uint64
	asked       Time // of the peer
	gen         bool // to be acknowledged without the peer only in a generation without it
	apps        tagQueue
}

func (m *Primary) flushTag(i int) Tag { return Tag(len(m.reqs) + i) }

// pumpFlush starts a flush if somebody wants one and no local flush is under way.
func (m *Primary) pumpFlush() {
	if m.flushFailed {
		for m.flushWait.len() > 0 { // rule 11: final, until a sync has rewritten what is in doubt
			m.answer(m.flushWait.pop(), proto.EIO)
		}
	}
	own := m.wantFlush && !m.retiring && m.open.Count() > 0 || m.genHold && m.local && !m.genFlushing()
	if m.flushWait.len() == 0 && !own || m.flushLocal > 0 {
		return
	}
	m.flushNow()
}

// flushNow starts a flush if an entry is free.
func (m *Primary) flushNow() {
	for i := range m.flushes {
		if !m.flushes[i].active {
			m.startFlush(i)
			return
		}
	}
}

// genFlushing reports whether the flush that a new generation waits for is under way.
func (m *Primary) genFlushing() bool {
	for i := range m.flushes {
		if f := &m.flushes[i]; f.active && f.forGen && f.local == partPending {
			return true
		}
	}
	return false
}

func (m *Primary) startFlush(i int) {
	f := &m.flushes[i]
	apps := f.apps
	*f = flush{active: true, apps: m.flushWait}
	m.flushWait = apps
	m.wantFlush = false
	if !m.retiring && m.open.Count() > 0 && m.established && m.local {
		m.open, m.closing = m.closing, m.open
		f.retire, m.retiring = true, true
	}
	if m.established {
		m.sendFlush(i)
	} else if f.gen = f.apps.len() > 0 && m.apart(); f.gen {
		m.ensureGen()
	}
	f.forGen = m.genHold
	if m.local {
		f.local = partPending
		m.flushLocal++
		m.disk(m.flushTag(i), proto.OpFlush, 0, 0, false, false)
	} else {
		f.local = partFailed
	}
	m.settleFlush(i)
}

func (m *Primary) sendFlush(i int) {
	f := &m.flushes[i]
	f.peer, f.received, f.asked = partPending, false, m.now
	f.seq = m.nextSeq(m.flushTag(i))
	h := wire.Header{Type: wire.TypeFlush, Seq: f.seq}
	if m.ackMode == proto.ModeMemsync {
		h.Flags |= wire.FlagWantReceived
	}
	m.send(h, nil)
}

func (m *Primary) flushedLocal(i int, errno proto.Errno) {
	f := &m.flushes[i]
	m.flushLocal--
	f.local = partDone
	if errno != proto.OK {
		m.dropped(errno)
		f.local = partFailed
		if !m.flushLost("a flush failed: %s", errno) {
			f.errno = proto.EIO
		}
	} else if !m.local {
		f.local = partFailed
	}
	if f.forGen && m.genHold {
		f.forGen = false
		m.genFlushed()
	}
	m.settleFlush(i)
}

// flushLost gives the local copy up, or, if there is no other that is whole, what it may have dropped. It returns false
// in the latter case.
func (m *Primary) flushLost(format string, errno proto.Errno) bool {
	if !m.local || m.established && m.peerWhole {
		// Said of a copy that is out already, too: the sync that brings it back must not take what reads equal for stored (rule 11).
		m.sb.Flags |= extent.FlagFlushFailed
		m.touch()
	}
	if !m.local {
		return true
	}
	if m.loseLocal(format, errno) {
		return true
	}
	m.failFlush()
	return false
}

// apart reports whether the peer may lack something that is stable here.
func (m *Primary) apart() bool { return m.dirty.Count() > 0 || m.unsure }

// failFlush records that blocks which were acknowledged may be gone, when there
// is no peer that has them (rule 11): every block since the last good flush is marked, and the word stays on disk.
func (m *Primary) failFlush() {
	m.flushFailed = true
	m.foldEpochs()
	m.sb.Flags |= extent.FlagFlushFailed
	m.touch()
	for i := range m.reqs[:m.cfg.AppTags] {
		// What the disk took since, and nobody was told of yet, may be gone with the rest.
		r := &m.reqs[i]
		r.tainted = r.state == stIssued && r.local == partDone
		if !r.replied && (r.tainted || r.from < r.off) { // or it did so with earlier pieces of a request
			r.errno = proto.EIO
			m.settle(Tag(i))
		}
	}
	for i := range m.flushes {
		if f := &m.flushes[i]; f.active && f.local == partPending {
			f.errno = proto.EIO // whatever it says: what it was to cover may be gone
		}
	}
	for i := m.cfg.AppTags; i < len(m.reqs); i++ {
		m.reqs[i].tainted = true // pieces under way are moved again, after they are rewritten here
	}
	m.push.Reset()
	if m.conn != 0 && m.sync.seal != sealNone {
		// The end of this session would end what the failure has left, and it came after the last block was rewritten.
		m.unseal()
		m.hangUp("a flush failed on the primary at the end of a sync; connecting again")
	} else if m.conn != 0 && m.step < hsDone {
		// HELLO did not say so, and it decides which copy is the source: the peer has what this one may have dropped. After START, too: a session
		// in which nothing was sent has changed nothing.
		m.step, m.verdict = hsNone, verdictState{}
		m.hangUp("a flush failed on the primary during the handshake; connecting again")
	}
	m.report(ReportLocalLost, 0, "a flush failed and no up-to-date peer is connected: writes are refused until this copy is attached anew or synced")
}

// unseal takes back that a session ends. A target is one again: the peer was the source and has all that it may have dropped.
func (m *Primary) unseal() {
	y := &m.sync
	y.seal, y.active = sealNone, false
	if y.source {
		return
	}
	m.stale = true
	m.sb.SyncID, m.sb.SyncRole = m.session.Session, 2
	m.setData(proto.DataInconsistent)
}

func (m *Primary) flushedPeer(i int, h *wire.Header) {
	f := &m.flushes[i]
	if !f.active || f.seq != h.Seq || f.peer != partPending {
		m.hangUp("an ACK for a flush that is not under way (seq %d)", h.Seq)
		return
	}
	if h.Flags&wire.FlagReceived != 0 {
		f.received = true
		m.settleFlush(i)
		return
	}
	if h.Aux != 0 {
		m.cnt.RemoteFlushErrors++
		m.peerFailed("a flush failed on the peer: %s", proto.Errno(h.Aux))
		return
	}
	f.peer = partDone
	m.settleFlush(i)
}

// settleFlush acknowledges as the mode says and retires the epoch once both copies flushed.
func (m *Primary) settleFlush(i int) {
	f := &m.flushes[i]
	if !f.active {
		return
	}
	if !f.acked && f.local != partPending && m.flushAckable(i, f) {
		f.acked = true
		for f.apps.len() > 0 {
			m.answer(f.apps.pop(), f.errno)
		}
	}
	if !f.acked || f.local == partPending || f.peer == partPending {
		return
	}
	if f.retire {
		m.retiring = false
		if f.local == partDone && f.peer == partDone {
			m.retire()
		}
	}
	f.active = false
}

func (m *Primary) flushAckable(i int, f *flush) bool {
	switch {
	case f.errno != proto.OK:
		return true
	case m.stale && m.peer.FlushFailed && m.established:
		f.errno = proto.EIO // rule 11: the only whole copy may not keep what it has taken, until the sync has rewritten it
		return true
	case f.local == partFailed:
		return f.peer == partDone && m.lostStable
	case f.peer == partPending:
		return !m.stale && (m.ackMode == proto.ModeAsync || m.ackMode == proto.ModeMemsync && f.received)
	case f.peer == partDone:
		return true
	}
	if m.flushFailed { // rule 11
		f.errno = proto.EIO
		return true
	}
	// Without the peer: the data is stable here; the peer's copy has to be disqualified first.
	if f.apps.len() == 0 {
		return true
	}
	if m.frozen&(visible|frStart) != 0 {
		return false
	}
	if !f.gen || m.absentGen() {
		return true
	}
	if m.metaFail {
		f.errno = proto.EIO
		return true
	}
	if !f.inGenQ {
		f.inGenQ = true
		m.genQ.push(m.flushTag(i))
	}
	return false
}

// retire is the only place where a mark goes (rule 3): both copies flushed after these blocks' last writes.
func (m *Primary) retire() {
	if m.dirty.Count() > 0 {
		for at := extent.Block(0); ; {
			first, n := m.closing.Next(at, m.geo.PerExtent())
			if n == 0 {
				break
			}
			at = first + n
			m.push.Clear(first, n)
			if m.dirty.Clear(first, n) > 0 {
				m.pagesTouched(first, n)
			}
		}
	}
	m.closing.Reset()
	m.sync.barren = 0
}

func (m *Primary) pagesTouched(first, n extent.Block) {
	last := m.geo.ExtentOf(first + n - 1)
	for e := m.geo.ExtentOf(first); e <= last; e++ {
		m.pageMod[extent.PageOf(m.geo, e)] = true
	}
}

// foldEpochs marks every block that is not known to be stable on both copies.
func (m *Primary) foldEpochs() {
	for _, set := range [2]*extent.Bitmap{m.open, m.closing} {
		for at := extent.Block(0); ; {
			first, n := set.Next(at, m.geo.PerExtent())
			if n == 0 {
				break
			}
			at = first + n
			m.mark(first, n)
			if m.stale {
				m.push.Set(first, n)
			}
		}
		set.Reset()
	}
	for i := range m.flushes {
		m.flushes[i].retire = false
	}
	m.retiring = false
}
