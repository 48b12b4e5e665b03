package replica

import (
	"fmt"

	"hast/extent"
	"hast/hastd/role"
	"hast/proto"
	"hast/proto/wire"
)

// The primary's side of the connection: handshake, loss of the peer, loss of the local copy.

func (m *Primary) onPeerUp(c Conn) {
	if m.conn != 0 {
		panic("replica: a second connection")
	}
	m.conn = c
	m.step = hsNone
	m.greet(proto.RolePrimary, m.served)
}

func (m *Primary) onHandshake(ev *Event) {
	switch {
	case ev.Head.Type == wire.TypeHello:
		if m.onHello(ev.Body) {
			m.judge()
		}
	case ev.Head.Type == wire.TypeVerdict:
		if m.onVerdict(ev.Body) {
			m.judge()
		}
	case ev.Head.Type == wire.TypeBitmap && m.step == hsMarksIn:
		if err := m.merge(&ev.Head, ev.Body, m.peerSuspect()); err != nil {
			m.hangUp("bad BITMAP: %v", err)
			return
		}
		if ev.Head.Flags&wire.FlagLast != 0 {
			m.beginPages()
		}
	case ev.Head.Type == wire.TypeStarted && m.step == hsStarted:
		m.establish()
	default:
		m.hangUp("unexpected frame %d in the handshake", ev.Head.Type)
	}
}

// peerSuspect reports whether the peer's marks are worth a comparison: those of a crash and of a full sync are.
func (m *Primary) peerSuspect() bool {
	a := m.verdict.mine.Action
	return m.peer.Crashed || a == role.SourceFull || a == role.TargetFull || m.stale
}

// judge acts on a pair of mirrored verdicts.
func (m *Primary) judge() {
	if !m.agreed() || m.step != hsNone {
		return
	}
	if m.superseded() {
		return
	}
	if m.refusal() {
		if m.verdict.mine.Action == role.Refused && m.peer.Data == proto.DataInconsistent && (m.stale || !m.local) {
			m.noCopyLeft()
		}
		return
	}
	if !m.local && m.peer.Boot != m.peerBoot {
		// It had the only copy, and its cache is gone: what was acknowledged since its last flush may be missing,
		// and our users have seen it.
		m.refuse(LinkRefused, ReportRefused, "%s restarted while it had the only whole copy: acknowledged writes may be lost. Stop the users of this device, then hastctl role init %s and role primary on the better node", m.peer.Node, m.cfg.Name)
		return
	}
	if m.metaFail && m.local {
		m.refuse(LinkRefused, ReportRefused, "the metadata area of %s failed, so nothing that a sync needs can be recorded: replace its disk, or stop and start %s there", m.cfg.Node, m.cfg.Name)
		return
	}
	if m.peer.Role != proto.RoleSecondary {
		m.refuse(LinkRefused, ReportRefused, "the peer is %s, not secondary", m.peer.Role)
		return
	}
	if !m.served && m.peer.Epoch.Number >= m.sb.Epoch.Number && m.peer.Epoch != m.sb.Epoch && (m.promoted || m.permitted) {
		// Our term's number was taken before we had permitted anything under it: take a higher one.
		m.promote(m.peer.Epoch.Number)
	}
	a := m.verdict.mine.Action
	m.session = start{Action: a.Mirror(), Whole: m.peerIsWhole()}
	if a == role.NoSync {
		m.beginPages()
		return
	}
	if m.session.Whole {
		m.step = hsMarksIn // there are none; the frame that says so comes all the same
		return
	}
	if id := [2]proto.ID{m.peer.Current, m.peer.SyncID}; id != m.lastPeer {
		m.push.Reset() // the peer has gone on, so what we have is not the newest
	}
	if m.resumes() {
		m.session.Session = m.sb.SyncID
		m.beginPages()
		return
	}
	m.session.Session = m.newID()
	if a == role.SourceFull {
		m.fullMarks()
	}
	if m.dirty.Count() == 0 && !m.served {
		// What the peer has marked it may have alone (async's lag). The superblock comes before the pages: should this handshake be cut
		// short, the marks do not make a source of this copy in the next one.
		m.sb.Flags |= extent.FlagMerged
		m.touch()
	}
	m.step = hsMarksIn
}

// peerIsWhole reports whether the peer's copy stays up to date while our marks
// are worked off: it is of our generation, has applied everything that it was sent, and the mode waited for it, so that what
// differs was never acknowledged. Its blocks may be brought to our state in any order: writes that were under way
// together have none among themselves.
func (m *Primary) peerIsWhole() bool {
	return m.verdict.mine.Action == role.Source && m.peer.Intact && !m.peer.Marks && !m.peer.Crashed && !m.peer.FlushFailed &&
		m.peer.Current == m.sb.Current && m.laxest() != proto.ModeAsync
}

// superseded handles rule 5: an authenticated peer knows a newer epoch than the one we serve in.
func (m *Primary) superseded() bool {
	if !m.served || m.peer.Epoch.Number <= m.sb.Epoch.Number {
		return false
	}
	switch m.verdict.mine.Action {
	case role.SplitBrain, role.Unrelated:
		return false // we hold writes that the other side lacks: not merely outdated
	}
	m.freeze(frOutdated, "the peer knows epoch %s, newer than ours (%s): this copy is outdated and serves no more; make it secondary", m.peer.Epoch, m.sb.Epoch)
	m.setData(proto.DataOutdated)
	m.refuse(LinkRefused, ReportRefused, "superseded by epoch %s: hastctl role secondary %s", m.peer.Epoch, m.cfg.Name)
	return true
}

// beginPages makes merged marks stable before the session is recorded: from
// then on the peer's marks are not asked for again.
func (m *Primary) beginPages() {
	m.step = hsPages
	if m.verdict.mine.Action != role.NoSync && !m.metaFail {
		m.wantAllPages()
	}
	m.stepHandshake()
}

// stepHandshake goes on where a metadata transaction was awaited.
func (m *Primary) stepHandshake() {
	switch m.step {
	case hsPages:
		if !m.metaFail && m.verdict.mine.Action != role.NoSync && (m.wanted > 0 || m.metaBusy && len(m.metaPages) > 0) {
			return
		}
		m.beginSuper()
	case hsSuper:
		// With our own metadata gone there is nothing to make stable here; the peer has the only copy.
		if m.stable >= m.stepVer || m.metaFail && !m.local {
			m.sendStart()
		}
	}
	m.stepSync()
}

// beginSuper makes stable what START announces.
func (m *Primary) beginSuper() {
	if m.changed() {
		return
	}
	a := m.verdict.mine.Action
	m.sb.Flags &^= extent.FlagFrozen // of a former term; thaw ends this one's
	m.sb.Flags &^= extent.FlagMerged
	if !m.promoted && !m.permitted {
		m.promote(m.peer.Epoch.Number)
		m.thaw(frPolicy)
	}
	if m.sb.Resource.IsZero() {
		m.sb.Resource = m.peer.Resource
		if m.sb.Resource.IsZero() {
			m.sb.Resource = m.newID()
		}
	}
	switch {
	case a == role.NoSync || m.session.Whole:
		if m.sb.Current.IsZero() {
			m.sb.Current = m.newID()
			m.sb.GenSince, m.sb.GenNode = m.wall, m.cfg.Node
		}
		if a == role.NoSync { // nothing is marked, so nothing was unflushed when a flush failed (rule 11)
			m.sb.Flags &^= extent.FlagFlushFailed
			m.flushFailed = false
		}
		m.sb.Base, m.sb.SyncID, m.sb.SyncRole = proto.ID{}, proto.ID{}, 0
		m.sb.Flags |= extent.FlagConnected
		m.setData(proto.DataUpToDate)
	case a == role.Source || a == role.SourceFull:
		m.sb.SyncID, m.sb.SyncRole = m.session.Session, 1
		m.setData(proto.DataUpToDate)
	default:
		m.sb.SyncID, m.sb.SyncRole = proto.ID{}, 0
		if m.local { // a copy that is out takes part in no session
			m.sb.SyncID, m.sb.SyncRole = m.session.Session, 2
		}
		m.setData(proto.DataInconsistent)
		m.stale = true
		m.touched()
	}
	m.step = hsSuper
	m.stepVer = m.touch()
	m.frozen |= frStart
	m.sent.Current, m.sent.Base = m.sb.Current, m.sb.Base
	m.stepHandshakeIfStable()
}

// stepHandshakeIfStable goes on at once where no transaction will come.
func (m *Primary) stepHandshakeIfStable() {
	if m.metaFail {
		m.stepHandshake()
	}
}

// changed ends a handshake whose HELLO is no longer true: something was
// written, or a generation began, while it went on. The next one judges the new facts.
func (m *Primary) changed() bool {
	a := m.verdict.mine.Action
	switch {
	case m.sb.Current != m.sent.Current || m.sb.Base != m.sent.Base:
	case a == role.NoSync && m.dirty.Count() > 0:
	case (a == role.Target || a == role.TargetFull) && m.served && !m.sent.Served:
	default:
		return false
	}
	m.hangUp("the primary's state changed during the handshake; connecting again")
	return true
}

func (m *Primary) sendStart() {
	if m.sb.Current != m.sent.Current || m.verdict.mine.Action == role.NoSync && m.dirty.Count() > 0 {
		m.hangUp("the primary's state changed during the handshake; connecting again")
		return
	}
	m.step = hsStarted
	m.session.Epoch = m.sb.Epoch
	m.session.Resource, m.session.Current, m.session.Mode, m.session.Key = m.sb.Resource, m.sb.Current, m.set.Mode, m.key
	m.send(wire.Header{Type: wire.TypeStart}, m.session.encode(nil))
}

// establish begins replication.
func (m *Primary) establish() {
	m.step = hsDone
	m.established, m.unsure, m.peerOut, m.noCopy = true, false, false, false
	m.peerBoot = m.peer.Boot
	m.lastRole = verdictGood
	m.setLink(LinkConnected, "")
	a := m.verdict.mine.Action
	m.lastPeer = [2]proto.ID{m.peer.Current, m.session.Session}
	m.peerWhole = a == role.NoSync || m.session.Whole
	m.peerData = m.peer.Data
	switch {
	case m.peerWhole:
		m.peerData = proto.DataUpToDate
		m.reconciled()
		m.touch()
		m.stale = false
	case a == role.Source || a == role.SourceFull:
		m.peerData = proto.DataInconsistent
	case a == role.Target || a == role.TargetFull:
		m.peerData = proto.DataUpToDate // it has recorded so before it said STARTED
	}
	if !m.local {
		m.peerWhole = true // it wrote on while ours was out
		// NEWGEN may not have reached it; until it has, nothing is acknowledged (rule 6).
		m.lostStable = !m.lostGen.IsZero() && m.peer.Current == m.lostGen
		if !m.lostStable {
			g := lineage{Current: m.newID(), GenSince: m.wall, GenNode: m.cfg.Node}
			m.lostGen = g.Current
			m.send(wire.Header{Type: wire.TypeNewGen}, g.encode(nil))
			m.frozen |= frNewGen
		}
	}
	m.report(ReportConnect, 0, "connected to %s", m.peer.Node)
	m.startSync(a)
	if !m.promoted {
		m.promotedNow()
	}
	m.resend()
	m.thaw(frStart | frGrace | frInconsistent | frPolicy)
}

// resend gives the peer the writes that it missed and that are not acknowledged yet.
func (m *Primary) resend() {
	for i := range m.reqs[:m.cfg.AppTags] {
		r := &m.reqs[i]
		if r.state == stIssued && !r.replied && r.peer != partPending && r.errno == proto.OK {
			r.peer = partPending
			m.sendWrite(Tag(i))
		}
	}
	for i := range m.flushes {
		if f := &m.flushes[i]; f.active && !f.acked && f.errno == proto.OK && f.peer != partPending {
			m.sendFlush(i)
		}
	}
}

// peerFailed is a failure that the peer reported of its own copy; it has
// recorded it (rule 6). For us it is a lost peer.
func (m *Primary) peerFailed(format string, args ...any) {
	m.peerFail = failure{fmt.Sprintf(format, args...), m.now}
	m.peerOut = true
	m.report(ReportPeerError, 0, "%s", m.peerFail.text)
	m.hangUp("%s", m.peerFail.text)
}

// peerLost is the one way in which a peer goes: everything not known to be stable there is marked.
func (m *Primary) peerLost(why string) {
	was := m.established
	m.conn, m.established, m.peerWhole, m.hasPeer, m.step = 0, false, false, false, hsNone
	if m.link == LinkHandshake || m.link == LinkConnected {
		m.setLink(LinkConnecting, why)
	}
	if was {
		m.regainLocal()
		m.foldEpochs()
		m.report(ReportDisconnect, uint64(m.dirty.Count())*proto.BlockSize, "connection to the peer lost: %s", why)
		m.loseParts()
		m.abortSync()
		m.frozen &^= frNewGen // asked anew when the peer is back
		if m.set.Freeze {
			m.freeze(frPolicy, "the peer is lost: application I/O waits (on_peer_loss = freeze)")
		}
	}
	if (m.stale || !m.local) && m.promoted { // even if the sync that made it a target never began
		m.freeze(frInconsistent, "the peer is lost and the local copy is not whole: application I/O waits for the peer")
	}
	m.thaw(frStart)
	m.afterPolicy()
	if !m.stopping {
		m.out.add().Kind = EfConnect
	}
}

// loseParts marks what was under way to the peer: whether it arrived, and whether it stays there, is unknown.
func (m *Primary) loseParts() {
	for i := range m.reqs[:m.cfg.AppTags] {
		r := &m.reqs[i]
		if r.state == stIssued && r.peer != partNone {
			m.markReq(r) // done on the peer, but not flushed there, counts as well
			// Acknowledged, and perhaps on this copy alone: should the other one go on, it must not pass for the newer (rule 6).
			m.ahead = m.ahead || r.replied && r.errno == proto.OK && r.peer == partPending && !r.received
			r.peer = partFailed
		} else if r.state == stRemote && r.peer == partPending {
			r.peer = partNone
			if r.repair {
				m.endRepair(Tag(i), proto.EIO)
			} else {
				m.read(Tag(i))
			}
		}
	}
	for i := range m.flushes {
		if f := &m.flushes[i]; f.active && f.peer != partNone {
			f.peer = partFailed
		}
	}
}

// afterPolicy acknowledges, as far as nothing is frozen, what lost its peer.
func (m *Primary) afterPolicy() {
	if m.established {
		return
	}
	if m.ahead && (m.frozen&visible == 0 || !m.local) {
		// Without a local copy to go on with, this makes the next handshake refuse: acknowledged writes are on neither
		// copy for certain, so a person has to choose.
		if m.ensureGen(); !m.local && !m.genBegun() {
			m.beginGen()
		}
	}
	for i := range m.reqs[:m.cfg.AppTags] {
		r := &m.reqs[i]
		if r.state != stIssued || r.peer == partPending {
			continue
		}
		if !r.replied && r.errno == proto.OK && m.frozen&visible == 0 {
			m.ensureGen()
		}
		m.settle(Tag(i))
	}
	for i := range m.flushes {
		f := &m.flushes[i]
		if !f.active || f.peer == partPending {
			continue
		}
		if !f.acked && f.apps.len() > 0 && m.apart() {
			f.gen = true
			if m.frozen&visible == 0 {
				m.ensureGen()
			}
		}
		m.settleFlush(i)
	}
}

// regainLocal goes back to the local copy when the peer's failed before it had recorded that ours is out: nothing was
// acknowledged on the peer's word alone, so ours has everything that ever was. The requests that failed end with an error.
func (m *Primary) regainLocal() {
	if m.local || m.lostStable || !m.peerOut || m.metaFail {
		return
	}
	m.local, m.lostGen = true, proto.ID{}
	m.setData(proto.DataUpToDate)
	m.report(ReportLocalLost, 0, "both copies failed: the errors are passed on, and the local copy is used again")
	for i := range m.reqs[:m.cfg.AppTags] {
		if r := &m.reqs[i]; r.state == stIssued && r.local == partFailed && !r.replied {
			r.errno = proto.EIO
		}
	}
	if m.sb.Flags&extent.FlagFlushFailed != 0 {
		for i := range m.flushes {
			if f := &m.flushes[i]; f.active && !f.acked && f.local == partFailed {
				f.errno = proto.EIO
			}
		}
		m.failFlush()
	}
}

// noCopyLeft answers application I/O with errors: neither copy is whole, so there is nothing to wait for.
func (m *Primary) noCopyLeft() {
	if m.noCopy {
		return
	}
	m.noCopy = true
	m.report(ReportLocalLost, 0, "neither copy is whole: reads and writes fail. Stop the users of this device; create %s anew on one node and restore it", m.cfg.Name)
	for m.frozenQ.len() > 0 {
		m.answer(m.frozenQ.pop(), proto.EIO)
	}
	for i := range m.reqs[:m.cfg.AppTags] {
		if r := &m.reqs[i]; r.state == stIssued && !r.replied && r.errno == proto.OK {
			r.errno = proto.EIO
			m.settle(Tag(i))
		}
	}
	for i := range m.flushes {
		if f := &m.flushes[i]; f.active && !f.acked {
			f.errno = proto.EIO
			m.settleFlush(i)
		}
	}
}

// loseLocal takes the local copy out, if the peer's is whole and can stand in.
// The peer begins the generation (rule 6); until it says that this is stable nothing is acknowledged.
func (m *Primary) loseLocal(format string, args ...any) bool {
	if !m.local {
		return true
	}
	if !m.established || !m.peerWhole {
		return false
	}
	why := fmt.Sprintf(format, args...)
	m.local, m.lostStable = false, false
	m.foldEpochs()
	m.setData(proto.DataInconsistent)
	m.report(ReportLocalLost, 0, "the local copy is out: %s. The peer serves; replace the disk, then role init and role primary, or move the service", why)
	g := lineage{Current: m.newID(), GenSince: m.wall, GenNode: m.cfg.Node}
	m.lostGen = g.Current
	m.send(wire.Header{Type: wire.TypeNewGen}, g.encode(nil))
	m.frozen |= frNewGen
	for m.mapQ.len() > 0 {
		m.issue(m.mapQ.pop())
	}
	for m.roomQ.len() > 0 {
		m.issue(m.roomQ.pop())
	}
	for i := range m.reqs[:m.cfg.AppTags] {
		if r := &m.reqs[i]; r.state == stIssued && r.local == partDone {
			r.local = partFailed
			m.settle(Tag(i))
		}
	}
	return true
}

func (m *Primary) onNewGenOK() {
	if m.local || m.lostStable {
		m.hangUp("an answer to no NEWGEN")
		return
	}
	m.lostStable = true
	m.report(ReportGeneration, 0, "generation %s begins on the peer without the local copy", m.lostGen.Short())
	for i := range m.reqs[:m.cfg.AppTags] {
		m.settle(Tag(i))
	}
	for i := range m.flushes {
		m.settleFlush(i)
	}
	m.thaw(frNewGen)
}
