package replica

import (
	"fmt"

	"hast/extent"
	"hast/hastd/role"
	"hast/proto"
	"hast/proto/wire"
)

// verdictState follows one connection's HELLO and VERDICT frames. Both nodes
// judge the same two HELLOs; unless the verdicts are mirror images neither acts (rule 7).
type verdictState struct {
	mine   role.Verdict
	judged bool
	theirs role.Action
	heard  bool
}

// verdictKind says how the last handshake ended, for "once per episode".
type verdictKind uint8

const (
	verdictNone verdictKind = iota
	verdictGood
	verdictBad
)

// helloNow describes this node as of this moment.
func (c *core) helloNow(r proto.Role, served bool) hello {
	return hello{
		Side: role.Side{
			Node: c.cfg.Node, Role: r,
			Resource: c.sb.Resource, Current: c.sb.Current, Base: c.sb.Base, History: c.sb.History,
			Data: c.sb.Data, Epoch: c.sb.Epoch, SyncID: c.sb.SyncID, SyncRole: c.sb.SyncRole,
			Marks: c.dirty.Count() > 0, Merged: c.sb.Flags&extent.FlagMerged != 0, Blank: c.sb.Current.IsZero(),
			Crashed: c.crashed, Rebooted: c.rebooted, Intact: c.intact, Served: served,
			Mode: c.crashMode(), DataSize: c.geo.DataSize, ExtentSize: c.geo.ExtentSize, Logical: c.geo.Logical,
			Forced: c.sb.Forced != 0, FlushFailed: c.sb.Flags&extent.FlagFlushFailed != 0,
		},
		GenSince: c.sb.GenSince, GenNode: c.sb.GenNode,
		Dirty: uint64(c.dirty.Count()) * proto.BlockSize,
		Hot:   c.sb.HotExtents,

		Boot: c.cfg.BootID,
	}
}

// laxest is the laxest mode in which this copy may have acknowledged what the peer lacks, or will: the superblock keeps it until nothing is marked any more.
func (c *core) laxest() proto.Mode { return max(c.sb.Mode, c.set.Mode) }

// crashMode is the mode that judges a crash: the laxest until then.
func (c *core) crashMode() proto.Mode {
	if c.crashed && c.sb.Mode.Valid() {
		return c.sb.Mode
	}
	return c.laxest()
}

// greet begins the handshake on the present connection.
func (c *core) greet(r proto.Role, served bool) {
	c.hasPeer = false
	c.greeted = c.now
	c.verdict = verdictState{}
	c.sent = c.helloNow(r, served)
	if c.lastRole != verdictBad {
		c.setLink(LinkHandshake, "")
	}
	c.send(wire.Header{Type: wire.TypeHello}, c.sent.encode(nil))
}

// overdue ends a handshake that does not end by itself (rule 14): keepalives alone would keep such a connection for ever.
func (c *core) overdue(done bool) {
	if c.conn != 0 && !done && c.greeted != 0 && c.now-c.greeted > handshakeLimit {
		c.greeted = 0
		c.hangUp("the handshake did not end within %d s; connecting again", handshakeLimit/Second)
	}
}

// onHello judges. It returns false if the connection is over.
func (c *core) onHello(body []byte) bool {
	h, err := decodeHello(body)
	if err != nil || c.hasPeer {
		c.hangUp("bad HELLO: %v", err)
		return false
	}
	c.peer, c.hasPeer = h, true
	c.peerData, c.peerName, c.peerRole = h.Data, h.Node, h.Role
	c.verdict.mine, c.verdict.judged = role.Decide(c.sent.Side, h.Side), true
	c.send(wire.Header{Type: wire.TypeVerdict}, encodeVerdict(nil, c.verdict.mine.Action))
	return c.compare()
}

func (c *core) onVerdict(body []byte) bool {
	a, err := decodeVerdict(body)
	if err != nil || c.verdict.heard {
		c.hangUp("bad VERDICT")
		return false
	}
	c.verdict.theirs, c.verdict.heard = a, true
	return c.compare()
}

// compare applies rule 7 once both verdicts are known.
func (c *core) compare() bool {
	v := &c.verdict
	if !v.judged || !v.heard {
		return true
	}
	if v.theirs.Mirror() != v.mine.Action {
		c.refuse(LinkRefused, ReportRefused, "this node concludes %q (%s), the peer %q: nothing is synced; are both nodes of the same version?",
			v.mine.Action, v.mine.Why, v.theirs)
		return false
	}
	return true
}

// agreed reports whether both verdicts are known and mirror each other.
func (c *core) agreed() bool {
	v := &c.verdict
	return v.judged && v.heard && v.theirs.Mirror() == v.mine.Action
}

// resumes reports whether the primary is the source of a session that both
// nodes remember, and was the primary when it began: its marks are complete then, and nothing has to be merged.
// Marks are made by a primary; with another one in between, or with a target as primary, both sides' count.
func (c *core) resumes() bool {
	source, target := &c.sent, &c.peer
	if c.peer.Role == proto.RolePrimary {
		source, target = target, source
	}
	a := c.verdict.mine.Action
	return (a == role.Source || a == role.Target) && !source.SyncID.IsZero() && source.SyncID == target.SyncID &&
		source.SyncRole == extent.SyncSource && target.SyncRole == extent.SyncTarget &&
		source.Epoch.Node == source.Node && target.Epoch.Node == source.Node
}

// refusal handles the verdicts under which nothing is synced. It returns true if it was one.
func (c *core) refusal() bool {
	v := c.verdict.mine
	switch v.Action {
	case role.NoSync, role.Source, role.SourceFull, role.Target, role.TargetFull:
		return false
	case role.SplitBrain:
		c.refuse(LinkSplitBrain, ReportSplitBrain, "%s", c.splitBrainText(v.Why))
	default:
		c.refuse(LinkRefused, ReportRefused, "%s", v.Why)
	}
	return true
}

// refuse ends the connection over a verdict and tells it once per episode: an episode lasts as long as both
// nodes' generations, and what is wrong with them, stay what they are.
func (c *core) refuse(l Link, k ReportKind, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	c.setLink(l, text)
	episode := [2]proto.ID{c.sb.Current, c.peer.Current}
	if c.lastRole != verdictBad || c.episode != episode || c.told != k {
		c.report(k, 0, "%s", text)
	}
	c.lastRole, c.episode, c.told = verdictBad, episode, k
	c.hangUp("%s", text)
}

// splitBrainText tells who wrote what since when, and what to do (HAST's recipe).
func (c *core) splitBrainText(why string) string {
	common := "none"
	if !c.sb.Base.IsZero() {
		common = c.sb.Base.Short()
	}
	line := func(h *hello) string {
		return fmt.Sprintf("%s wrote since %s (%d bytes marked, generation %s)", h.GenNode, stamp(h.GenSince), h.Dirty, h.Current.Short())
	}
	mine := c.helloNow(proto.RolePrimary, false)
	return fmt.Sprintf("split brain (%s): %s; %s; last common generation %s. Nothing was overwritten. "+
		"Choose the node whose writes are to be discarded and run there: hastctl role init %s && hastctl create --force %s && hastctl role secondary %s",
		why, line(&mine), line(&c.peer), common, c.cfg.Name, c.cfg.Name, c.cfg.Name)
}

// sendMarks sends the BITMAP frames for the blocks that this node knows to
// differ: dirty ones (active extents became dirty at load), or for a full sync everything written.
func (c *core) sendMarks(full bool) {
	b := c.dirty
	if full {
		b = extent.NewBitmap(c.geo.Blocks())
		b.Or(c.dirty)
		for e := extent.Extent(0); e < c.geo.Extents(); e++ {
			if !c.never.Test(e) {
				first, n := c.geo.Range(e)
				b.Set(first, n)
			}
		}
	}
	const body = 32 << 10 // half of what a control frame may carry
	for at, done := extent.Block(0), false; !done; {
		var out []byte
		from := at
		out, at, done = extent.AppendRuns(nil, b, from, body)
		h := wire.Header{Type: wire.TypeBitmap, Aux: uint64(from)}
		if done {
			h.Flags = wire.FlagLast
		}
		c.send(h, out)
	}
}

// merge adds the peer's marks to ours. A block that the peer wrote is written.
func (c *core) merge(h *wire.Header, body []byte, suspect bool) error {
	tmp := extent.NewBitmap(c.geo.Blocks())
	if _, err := extent.ApplyRuns(body, extent.Block(h.Aux), tmp); err != nil {
		return err
	}
	for at := extent.Block(0); ; {
		first, n := tmp.Next(at, c.geo.PerExtent())
		if n == 0 {
			return nil
		}
		at = first + n
		for e := c.geo.ExtentOf(first); e <= c.geo.ExtentOf(first+n-1); e++ {
			if c.never.Test(e) {
				c.markExtent(e)
			}
			if suspect {
				c.suspect.Set(e)
			}
		}
		c.mark(first, n)
	}
}

// fullMarks marks everything that was ever written here; a full sync compares it by digest.
func (c *core) fullMarks() {
	for e := extent.Extent(0); e < c.geo.Extents(); e++ {
		if !c.never.Test(e) {
			c.markExtent(e)
		}
	}
}

// stamp formats unix seconds as UTC without a clock.
func stamp(sec int64) string {
	if sec <= 0 {
		return "an unknown time"
	}
	days, rest := sec/86400, sec%86400
	z := days + 719468 // days since 0000-03-01, the usual civil-calendar arithmetic
	era := z / 146097
	doe := z - era*146097
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	d, m, y := doy-(153*mp+2)/5+1, mp+3, yoe+era*400
	if m > 12 {
		m, y = m-12, y+1
	}
	return fmt.Sprintf("%04d-%02d-%02dT%02d:%02d:%02dZ", y, m, d, rest/3600, rest/60%60, rest%60)
}
