package replica

import (
	"fmt"
	"slices"
	"testing"

	"hast/extent"
	"hast/proto"
	"hast/proto/wire"
)

// pair is the smallest world in which the two machines can be watched: two
// disks without caches, two connections without loss, events in one queue. test/sim has the faults.
type pair struct {
	t     *testing.T
	now   Time
	a, b  *node
	conn  Conn
	queue []func()
	log   []string
}

type stepper interface {
	Step(Time, *Event, *Effects)
	Status() Status
}

type node struct {
	p       *pair
	name    string
	m       stepper
	primary bool
	disk    []uint64 // version of each block
	super   extent.Superblock
	slot    int
	dirty   *extent.Bitmap
	never   *extent.Extents
	active  []extent.Extent
	buf     map[Tag][]uint64
	next    Tag
	conn    Conn
	replies map[Tag]proto.Errno
	fail    map[proto.Op]proto.Errno // of the next data operation
	stopped bool
	reports []string
	sent    uint64 // payload bytes
	want    bool
	out     Effects
	alive   int  // incarnation
	badMeta bool // the flush of the next metadata transaction fails
	held    map[proto.Op]bool
	parked  []func()
	byes    []string // what the peer said when it hung up
}

const (
	testBlocks = 128
	testApp    = 32
	testSync   = 4
)

var testGeo = extent.Geometry{DataSize: testBlocks * 4096, ExtentSize: 64 << 10, Logical: 4096}

func newPair(t *testing.T) *pair {
	p := &pair{t: t, now: 1000 * Second}
	p.a, p.b = p.newNode("a", 1), p.newNode("b", 2)
	return p
}

func (p *pair) newNode(name string, seed byte) *node {
	n := &node{p: p, name: name, disk: make([]uint64, testBlocks), buf: map[Tag][]uint64{}, replies: map[Tag]proto.Errno{}, fail: map[proto.Op]proto.Errno{}, held: map[proto.Op]bool{}}
	n.super = extent.Superblock{MetaID: proto.ID{seed}, Name: "data", Geometry: testGeo, HotExtents: 16, Data: proto.DataConsistent, Mode: proto.ModeFullsync}
	n.dirty, n.never = extent.NewBitmap(testGeo.Blocks()), extent.NewExtents(testGeo.Extents())
	n.never.SetAll()
	for i := range n.disk {
		n.disk[i] = uint64(seed) << 56 // garbage that differs
	}
	return n
}

func (n *node) start(primary, successor bool) {
	n.alive++
	n.primary, n.stopped, n.conn = primary, false, 0
	n.buf = map[Tag][]uint64{}
	cfg := Config{Node: proto.MakeNode(n.name), Name: "data", BootID: proto.ID{9}, Layout: extent.LayoutFor(testGeo, 16),
		AppTags: testApp, SyncTags: testSync, Settings: Settings{Mode: proto.ModeFullsync, IdleClean: 10 * Second},
		Super: n.super, SuperSlot: n.slot, Dirty: extent.NewBitmap(testGeo.Blocks()), Never: extent.NewExtents(testGeo.Extents()),
		Active: append([]extent.Extent(nil), n.active...), Successor: successor}
	cfg.Dirty.Or(n.dirty)
	for e := extent.Extent(0); e < testGeo.Extents(); e++ {
		if n.never.Test(e) {
			cfg.Never.Set(e)
		}
	}
	if primary {
		n.m = NewPrimary(cfg)
	} else {
		n.m = NewSecondary(cfg)
	}
	n.step(&Event{Kind: EvStart, Wall: 1, Random: [4]uint64{uint64(n.alive), uint64(n.name[0])}})
}

func (n *node) step(ev *Event) {
	n.out.Reset()
	n.m.Step(n.p.now, ev, &n.out)
	list := append([]Effect(nil), n.out.List...)
	for i := range list {
		n.do(list[i])
	}
}

func (n *node) later(f func()) {
	alive := n.alive
	n.p.queue = append(n.p.queue, func() {
		if n.alive == alive {
			f()
		}
	})
}

func (n *node) peer() *node {
	if n.p.a == n {
		return n.p.b
	}
	return n.p.a
}

func (n *node) do(e Effect) {
	switch e.Kind {
	case EfReply:
		if _, dup := n.replies[e.Tag]; dup {
			n.p.t.Fatalf("%s: tag %d answered twice", n.name, e.Tag)
		}
		n.replies[e.Tag] = e.Errno
	case EfRelease:
	case EfDisk:
		f := func() { n.disked(e) }
		if n.held[e.Op] {
			n.parked = append(n.parked, f)
			return
		}
		n.later(f)
	case EfDigest:
		n.later(func() { n.digested(e) })
	case EfSend:
		n.sendFrame(e)
	case EfMeta:
		n.later(func() { n.meta(e) })
	case EfConnect:
		n.want = true
	case EfDisconnect:
		n.later(func() { n.p.cut() })
	case EfReport:
		n.reports = append(n.reports, e.Report.Kind.String())
		n.p.log = append(n.p.log, fmt.Sprintf("%s %s: %s", n.name, e.Report.Kind, e.Report.Text))
	case EfStopped:
		n.stopped = true
	}
}

func (n *node) disked(e Effect) {
	ev := Event{Kind: EvDisk, Tag: e.Tag}
	if errno := n.fail[e.Op]; errno != 0 {
		delete(n.fail, e.Op)
		ev.Errno = errno
		n.step(&ev)
		return
	}
	first, cnt := testGeo.Touched(e.Off, max(e.Len, 1))
	for i := extent.Block(0); i < cnt && e.Op != proto.OpFlush; i++ {
		switch e.Op {
		case proto.OpWrite:
			n.disk[first+i] = n.buf[e.Tag][i]
		case proto.OpZero:
			n.disk[first+i] = 0
		case proto.OpRead:
			if i == 0 {
				n.buf[e.Tag] = make([]uint64, cnt)
				ev.Mask = 1
			}
			n.buf[e.Tag][i] = n.disk[first+i]
			if n.disk[first+i] != 0 {
				ev.Mask = 0
			}
		}
	}
	n.step(&ev)
}

func (n *node) digested(e Effect) {
	first, cnt := testGeo.Touched(e.Off, e.Len)
	now := append([]uint64(nil), n.disk[first:first+cnt]...)
	ev := Event{Kind: EvDigest, Tag: e.Tag}
	if !n.primary {
		for i := range now {
			if now[i] == n.buf[e.Tag][i] {
				ev.Mask |= 1 << i
			}
		}
	}
	n.buf[e.Tag] = now
	n.step(&ev)
}

// meta decodes what is written, so that a restart sees the disk and nothing else.
func (n *node) meta(e Effect) {
	if n.badMeta {
		n.badMeta = false
		n.step(&Event{Kind: EvMeta, Op: proto.OpFlush, Errno: proto.EIO})
		return
	}
	l := extent.LayoutFor(testGeo, 16)
	for _, b := range e.Meta {
		switch {
		case b.Off == l.Super[0] || b.Off == l.Super[1]:
			sb, err := extent.DecodeSuperblock(b.Data)
			if err != nil {
				n.p.t.Fatal(err)
			}
			n.super = sb
			n.slot = 0
			if b.Off == l.Super[1] {
				n.slot = 1
			}
		case b.Off >= l.Pages && b.Off < l.Pages+int64(extent.PageCount(testGeo))*4096:
			n.dirty, n.never = extent.NewBitmap(testGeo.Blocks()), extent.NewExtents(testGeo.Extents())
			if err := extent.DecodePage(b.Data, int((b.Off-l.Pages)/4096), n.super.MetaID, testGeo, n.dirty, n.never); err != nil {
				n.p.t.Fatal(err)
			}
		default:
			slots := [][]byte{b.Data}
			list, _, _, err := extent.DecodeMapRing(slots, n.super.MetaID, testGeo, 16)
			if err != nil {
				n.p.t.Fatal(err)
			}
			n.active = list
		}
	}
	n.step(&Event{Kind: EvMeta})
}

func (n *node) sendFrame(e Effect) {
	if e.Conn != n.conn {
		return
	}
	var payload []uint64
	if e.Payload {
		payload = append(payload, n.buf[e.Tag]...)
		if e.Head.Type != wire.TypeDigest {
			n.sent += uint64(e.Head.Length)
		}
	}
	body := append([]byte(nil), e.Body...)
	conn, to := n.conn, n.peer()
	n.later(func() {
		if to.conn != conn {
			return
		}
		to.frame(e.Head, payload, body)
	})
}

func (n *node) frame(h wire.Header, payload []uint64, body []byte) {
	if h.Type == wire.TypeBye {
		n.byes = append(n.byes, string(body))
	}
	ev := Event{Kind: EvFrame, Conn: n.conn, Head: h, Body: body}
	switch {
	case n.primary && h.Type == wire.TypeData:
		ev.Tag = Tag(uint32(h.Seq))
		n.buf[ev.Tag] = payload
	case h.Type < wire.TypeAck:
		ev.Tag = n.next % testApp
		n.next++
		n.buf[ev.Tag] = payload
	}
	n.step(&ev)
}

// connect makes a connection if the primary wants one and the other side runs.
func (p *pair) connect() {
	if p.a.conn != 0 || p.a.m == nil || p.b.m == nil {
		return
	}
	p.conn++
	p.a.conn, p.b.conn = p.conn, p.conn
	p.a.want, p.b.want = false, false
	p.a.step(&Event{Kind: EvPeerUp, Conn: p.conn})
	p.b.step(&Event{Kind: EvPeerUp, Conn: p.conn})
}

func (p *pair) cut() {
	c := p.a.conn
	p.a.conn, p.b.conn = 0, 0
	if c == 0 {
		return
	}
	for _, n := range []*node{p.a, p.b} {
		if n.m != nil {
			n.step(&Event{Kind: EvPeerDown, Conn: c, Text: "cut", Wall: 2})
		}
	}
}

func (n *node) kill() {
	n.p.cutOther(n)
	n.alive++
	n.m = nil
}

func (p *pair) cutOther(dead *node) {
	c := dead.conn
	p.a.conn, p.b.conn = 0, 0
	if o := dead.peer(); c != 0 && o.m != nil {
		o.step(&Event{Kind: EvPeerDown, Conn: c, Text: "cut", Wall: 2})
	}
}

// run lets everything happen that needs no time, then ticks for a while.
func (p *pair) run(ticks int) {
	for i := 0; ; i++ {
		for len(p.queue) > 0 {
			f := p.queue[0]
			p.queue = p.queue[1:]
			f()
		}
		if i == ticks {
			return
		}
		p.now += Second
		for _, n := range []*node{p.a, p.b} {
			if n.m != nil {
				n.step(&Event{Kind: EvTick, Wall: int64(p.now / Second)})
			}
		}
	}
}

func (n *node) write(t Tag, block, count int, version uint64) {
	delete(n.replies, t)
	v := make([]uint64, count)
	for i := range v {
		v[i] = version
	}
	n.buf[t] = v
	n.step(&Event{Kind: EvIO, Tag: t, Op: proto.OpWrite, Off: proto.Offset(block) * 4096, Len: proto.Length(count) * 4096})
}

func (n *node) op(t Tag, op proto.Op, block, count int) {
	delete(n.replies, t)
	n.step(&Event{Kind: EvIO, Tag: t, Op: op, Off: proto.Offset(block) * 4096, Len: proto.Length(count) * 4096})
}

func (n *node) answered(t Tag, want proto.Errno) {
	n.p.t.Helper()
	got, ok := n.replies[t]
	if !ok || got != want {
		n.p.t.Fatalf("%s: tag %d: answered %v with %v, want %v\n%v\nstatus %+v", n.name, t, ok, got, want, n.p.log, n.m.Status())
	}
}

func (n *node) waiting(t Tag) {
	n.p.t.Helper()
	if got, ok := n.replies[t]; ok {
		n.p.t.Fatalf("%s: tag %d answered %v, should wait", n.name, t, got)
	}
}

// same fails unless the disks are equal outside never-written extents.
func (p *pair) same() {
	p.t.Helper()
	for i := range p.a.disk {
		if p.a.never.Test(testGeo.ExtentOf(extent.Block(i))) && p.b.never.Test(testGeo.ExtentOf(extent.Block(i))) {
			continue
		}
		if p.a.disk[i] != p.b.disk[i] {
			p.t.Fatalf("block %d differs: %x and %x\n%v", i, p.a.disk[i], p.b.disk[i], p.log)
		}
	}
}

// up makes a the primary and b the secondary, connected.
func (p *pair) up() {
	p.t.Helper()
	p.b.start(false, false)
	p.a.start(true, false)
	p.run(0)
	p.connect()
	p.run(1)
	if s := p.a.m.Status(); s.Link != LinkConnected || !s.Promoted {
		p.t.Fatalf("not connected: %+v\n%v", s, p.log)
	}
}

func TestBlankNodesNeedNoSync(t *testing.T) {
	p := newPair(t)
	p.up()
	if p.a.sent != 0 {
		t.Fatalf("%d bytes moved between blank nodes", p.a.sent)
	}
	if a, b := p.a.super, p.b.super; a.Current != b.Current || a.Current.IsZero() || a.Resource != b.Resource || b.Data != proto.DataUpToDate {
		t.Fatalf("superblocks differ: %+v %+v", a, b)
	}
}

func TestWriteReachesBoth(t *testing.T) {
	p := newPair(t)
	p.up()
	p.a.write(0, 3, 2, 77)
	p.run(0)
	p.a.answered(0, 0)
	p.run(20)
	p.same()
	if p.b.disk[4] != 77 {
		t.Fatal("the write is not on the peer")
	}
	if s := p.a.m.Status(); s.DirtyBytes != 0 || s.HotExtents != 0 {
		t.Fatalf("after a while all is clean: %+v", s)
	}
}

func TestOutageAndReturn(t *testing.T) {
	p := newPair(t)
	p.up()
	p.a.write(0, 0, 16, 5)
	p.run(20)
	p.b.kill()
	p.a.write(1, 7, 1, 6)
	p.run(1)
	p.a.answered(1, 0)
	if p.a.super.Base.IsZero() || p.a.super.Current == p.b.super.Current {
		t.Fatal("no generation began in the peer's absence (rule 6)")
	}
	p.a.sent = 0
	p.b.start(false, false)
	p.connect()
	p.run(10)
	p.same()
	if p.a.sent != 4096 {
		t.Fatalf("the resync moved %d bytes, one block changed\n%v", p.a.sent, p.log)
	}
	if p.b.super.Current != p.a.super.Current || !p.a.super.Base.IsZero() || p.b.super.Data != proto.DataUpToDate {
		t.Fatalf("after the sync: %+v %+v\n%v", p.a.super, p.b.super, p.log)
	}
}

func TestPromotionOfTheSurvivor(t *testing.T) {
	p := newPair(t)
	p.up()
	p.a.write(0, 0, 16, 5)
	p.run(0)
	p.a.kill()
	p.b.m.Step(p.now, &Event{Kind: EvStop}, &Effects{})
	p.run(1)
	p.b.kill()
	p.b.start(true, false)
	p.run(1)
	if p.b.m.Status().Promoted {
		t.Fatal("promoted while the peer is silent")
	}
	p.b.step(&Event{Kind: EvPermit, Force: true, Wall: 7})
	p.run(1)
	if !p.b.m.Status().Promoted || !p.b.m.Status().Forced {
		t.Fatal("not promoted by force")
	}
	p.b.write(2, 20, 1, 9)
	p.run(1)
	p.b.answered(2, 0)
	p.a.start(false, false)
	p.connect()
	p.run(10)
	p.same()
	if p.a.disk[20] != 9 || p.a.disk[3] != 5 {
		t.Fatalf("old primary lacks data\n%v", p.log)
	}
}

func TestSplitBrain(t *testing.T) {
	p := newPair(t)
	p.up()
	p.a.write(0, 0, 16, 5)
	p.run(20)
	p.cut()
	p.a.write(1, 0, 1, 6)
	p.run(1)
	p.b.kill()
	p.b.start(true, false)
	p.b.step(&Event{Kind: EvPermit, Force: true, Wall: 7})
	p.run(1)
	p.b.write(1, 1, 1, 7)
	p.run(1)
	p.b.answered(1, 0)
	for range 3 {
		p.connect()
		p.run(2)
	}
	for _, n := range []*node{p.a, p.b} {
		if s := n.m.Status(); s.Link != LinkSplitBrain {
			t.Fatalf("%s does not see the split brain: %+v\n%v", n.name, s, p.log)
		}
		k := 0
		for _, r := range n.reports {
			if r == "split-brain" {
				k++
			}
		}
		if k != 1 {
			t.Fatalf("%s reported the split brain %d times\n%v", n.name, k, p.log)
		}
	}
	if p.a.disk[1] != 5 || p.b.disk[0] != 5 {
		t.Fatal("something was overwritten")
	}
}

func TestLocalWriteErrorGoesOnOverThePeer(t *testing.T) {
	p := newPair(t)
	p.up()
	p.a.write(0, 0, 16, 5)
	p.run(20)
	p.a.fail[proto.OpWrite] = proto.EIO
	p.a.write(1, 2, 1, 6)
	p.run(1)
	p.a.answered(1, 0)
	if p.b.super.Current == p.a.super.Current || p.a.super.Data != proto.DataInconsistent {
		t.Fatalf("rule 6: %+v %+v", p.a.super, p.b.super)
	}
	p.a.op(2, proto.OpRead, 2, 1)
	p.run(1)
	p.a.answered(2, 0)
	if p.a.buf[2][0] != 6 {
		t.Fatal("read the stale local block")
	}
	// The peer goes: nothing may be served.
	p.cut()
	p.a.op(3, proto.OpRead, 2, 1)
	p.run(1)
	p.a.waiting(3)
	// A successor worker syncs from the peer.
	p.a.kill()
	p.a.start(true, true)
	p.connect()
	p.run(10)
	p.same()
	if p.a.super.Data != proto.DataUpToDate || p.a.super.Current != p.b.super.Current {
		t.Fatalf("not whole again: %+v\n%v", p.a.super, p.log)
	}
}

func TestPeerWriteErrorIsAnAbsence(t *testing.T) {
	p := newPair(t)
	p.up()
	p.a.write(0, 0, 16, 5)
	p.run(20)
	p.b.fail[proto.OpWrite] = proto.EIO
	p.a.write(1, 2, 1, 6)
	p.run(1)
	p.a.answered(1, 0)
	if p.b.super.Data != proto.DataInconsistent || p.a.super.Current == p.b.super.Current {
		t.Fatalf("rule 6: %+v %+v\n%v", p.a.super, p.b.super, p.log)
	}
	p.connect()
	p.run(10)
	p.same()
	if p.b.super.Data != proto.DataUpToDate {
		t.Fatalf("%+v\n%v", p.b.super, p.log)
	}
}

func TestCleanStop(t *testing.T) {
	p := newPair(t)
	p.up()
	p.a.write(0, 0, 16, 5)
	p.run(0)
	p.a.step(&Event{Kind: EvStop})
	p.run(2)
	if !p.a.stopped || len(p.a.active) != 0 || p.a.super.Flags&extent.FlagPrimary != 0 || p.a.dirty.Count() != 0 {
		t.Fatalf("stopped %v active %v flags %s dirty %d\n%v", p.a.stopped, p.a.active, p.a.super.Flags, p.a.dirty.Count(), p.log)
	}
	p.same()
}

// A flush that fails when the copy is out already still says what that copy is worth: without the word, the sync that brings it back would
// skip what reads equal and is not stored (rule 11).
func TestFlushFailsAfterLocalLost(t *testing.T) {
	p := newPair(t)
	p.up()
	p.a.write(0, 0, 1, 5)
	p.run(0)
	p.a.held[proto.OpFlush] = true
	p.a.op(1, proto.OpFlush, 0, 0)
	p.run(0)
	p.a.fail[proto.OpWrite] = proto.EIO
	p.a.write(2, 40, 1, 6)
	p.run(0)
	if s := p.a.m.Status(); !s.LocalLost {
		t.Fatalf("the copy is in use: %+v", s)
	}
	p.a.fail[proto.OpFlush] = proto.EIO
	p.a.held[proto.OpFlush] = false
	for _, f := range p.a.parked {
		f()
	}
	p.run(1)
	p.a.answered(1, 0)
	if p.a.super.Flags&extent.FlagFlushFailed == 0 || p.a.super.Data != proto.DataInconsistent {
		t.Fatalf("the superblock says %s %s", p.a.super.Data, p.a.super.Flags)
	}
}

// A secondary out of service whose flush fails is in doubt, not worthless: it may be the former primary, with what only it has.
func TestFlushFailsOutOfService(t *testing.T) {
	p := newPair(t)
	p.up()
	p.b.kill()
	p.b.badMeta = true
	p.b.start(false, false)
	p.run(1)
	if p.b.super.Flags&extent.FlagFlushFailed == 0 || p.b.super.Data != proto.DataConsistent {
		t.Fatalf("the superblock says %s %s", p.b.super.Data, p.b.super.Flags)
	}
	p.b.badMeta = true
	p.connect()
	p.run(0)
	if s := p.b.m.Status(); s.Link == LinkConnected {
		t.Fatalf("in service although the record of it failed: %+v", s)
	}
}

// A flush that fails while the handshake goes on makes the HELLO untrue that chose the source: the copies connect again, and the peer's, which
// dropped nothing, is the source.
func TestFlushFailsDuringHandshake(t *testing.T) {
	p := newPair(t)
	p.up()
	p.a.write(0, 0, 1, 5)
	p.run(0)
	p.a.answered(0, 0)
	p.b.kill()
	p.a.held[proto.OpFlush] = true
	p.a.op(1, proto.OpFlush, 0, 0) // without the peer: before a generation begins
	p.run(0)
	p.a.waiting(1)
	p.b.start(false, false)
	p.connect()
	p.a.disk[0] = 0 // what the disk dropped
	p.a.fail[proto.OpFlush] = proto.EIO
	p.a.held[proto.OpFlush] = false
	for _, f := range p.a.parked {
		f()
	}
	p.run(0)
	p.a.answered(1, proto.EIO)
	p.connect()
	p.run(20)
	p.same()
	if p.a.disk[0] != 5 {
		t.Fatalf("block 0 is %d: what was acknowledged is lost\n%v", p.a.disk[0], p.log)
	}
}

// A peer that is taken out of the configuration is waited for no more, and one that is put back is asked for.
func TestPeerUnconfiguredAndBack(t *testing.T) {
	p := newPair(t)
	p.up()
	p.a.step(&Event{Kind: EvSettings, Settings: &Settings{Mode: proto.ModeFullsync, Freeze: true, Standalone: true}})
	p.run(1)
	if s := p.a.m.Status(); s.Link != LinkNone || s.Frozen {
		t.Fatalf("without a peer configured: %+v", s)
	}
	p.a.write(0, 3, 1, 7)
	p.run(1)
	p.a.answered(0, 0)
	p.a.want = false
	p.a.step(&Event{Kind: EvSettings, Settings: &Settings{Mode: proto.ModeFullsync, Freeze: true}})
	if s := p.a.m.Status(); s.Link != LinkConnecting || !p.a.want {
		t.Fatalf("the peer is configured again, and not asked for: %+v", s)
	}
	p.connect()
	p.run(20)
	p.same()
}

// A primary that was promoted by force and has served nothing yet finds the peer's copy newer; the connection is lost before the sync begins. It
// is a target already, so it waits for the peer (rule 8).
func TestTargetWhoseSyncNeverBegan(t *testing.T) {
	p := newPair(t)
	p.up()
	p.a.write(0, 0, 1, 5)
	p.run(20)
	p.a.kill()
	p.b.kill()
	p.b.start(true, false)
	p.b.step(&Event{Kind: EvPermit, Force: true})
	p.run(1)
	p.b.write(1, 0, 1, 6)
	p.run(1)
	p.b.answered(1, 0)
	p.b.kill()
	p.b.start(false, false)
	p.a.start(true, false)
	p.a.step(&Event{Kind: EvPermit, Force: true})
	p.run(1)
	if !p.a.m.Status().Promoted {
		t.Fatalf("not promoted: %+v", p.a.m.Status())
	}
	p.connect()
	for len(p.queue) > 0 && p.a.super.Data != proto.DataInconsistent {
		f := p.queue[0]
		p.queue = p.queue[1:]
		f()
	}
	if s := p.a.m.Status(); s.Link != LinkHandshake || s.Data != proto.DataInconsistent {
		t.Fatalf("no target in the handshake: %+v\n%v", s, p.log)
	}
	p.cut()
	p.run(1)
	if s := p.a.m.Status(); !s.Frozen {
		t.Fatalf("goes on alone: %+v", s)
	}
	p.a.write(2, 7, 1, 7)
	p.run(2)
	p.a.waiting(2)
}

// A refusal is told once for each pair of generations, and once more when it becomes one of another kind: two primaries that have not written
// apart yet are refused for being two, and a moment later for a split brain.
func TestRefusalOfAnotherKindIsTold(t *testing.T) {
	p := newPair(t)
	p.up()
	c := &p.a.m.(*Primary).core
	told := func(k ReportKind) (n int) {
		var out Effects
		c.out = &out
		c.refuse(LinkRefused, k, "because")
		for i := range out.List {
			if e := &out.List[i]; e.Kind == EfReport && e.Report.Kind == k {
				n++
			}
		}
		return n
	}
	for i, step := range []struct {
		kind ReportKind
		want int
	}{{ReportRefused, 1}, {ReportRefused, 0}, {ReportSplitBrain, 1}, {ReportSplitBrain, 0}} {
		if got := told(step.kind); got != step.want {
			t.Fatalf("step %d: %s is told %d times, want %d", i, step.kind, got, step.want)
		}
	}
}

// heard returns what n's peer was told of n in the latest handshake.
func (n *node) heard() hello {
	n.p.t.Helper()
	var c *core
	switch m := n.m.(type) {
	case *Primary:
		c = &m.core
	case *Secondary:
		c = &m.core
	}
	if c.verdict.mine.Action == 0 {
		n.p.t.Fatalf("%s has shaken no hands\n%v", n.name, n.p.log)
	}
	return c.sent
}

// release does what was held back.
func (n *node) release(op proto.Op) {
	n.held[op] = false
	list := n.parked
	n.parked = nil
	for _, f := range list {
		f()
	}
}

// A flush that fails while the copy is out and the peer serves, in each of the three ways in which one can: users notice nothing, status says so,
// and the word goes into every handshake until a sync has written anew what reads the same (rule 11).
func TestFlushFailsWhileThePeerServes(t *testing.T) {
	const lost = "a write at 163840 (4096 bytes) failed: input/output error"
	for _, c := range []struct {
		name       string
		start      func(a *node) // what is under way when the copy is lost, tag 1
		fail       func(a *node)
		early      bool // before the loss: the record of it is what fails
		wantErrors uint64
	}{
		{"of an application",
			func(a *node) { a.held[proto.OpFlush] = true; a.op(1, proto.OpFlush, 0, 0) },
			func(a *node) { a.fail[proto.OpFlush] = proto.EIO; a.release(proto.OpFlush) }, false, 1},
		{"of the metadata",
			func(a *node) { a.op(1, proto.OpFlush, 0, 0) },
			func(a *node) { a.badMeta = true }, true, 1},
		{"of a write with FUA",
			func(a *node) {
				a.held[proto.OpWrite] = true
				a.buf[1] = []uint64{8}
				a.step(&Event{Kind: EvIO, Tag: 1, Op: proto.OpWrite, FUA: true, Off: 3 * 4096, Len: 4096})
				a.p.run(0)
				a.held[proto.OpWrite] = false
			},
			func(a *node) { a.fail[proto.OpWrite] = proto.EIO; a.release(proto.OpWrite) }, false, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPair(t)
			p.up()
			a, b := p.a, p.b
			a.write(0, 0, 16, 5)
			p.run(0)
			a.write(7, 40, 1, 5)
			p.run(0)
			c.start(a)
			p.run(0)
			a.fail[proto.OpWrite] = proto.EIO
			a.write(2, 40, 1, 6) // the copy goes out
			if c.early {
				c.fail(a)
			}
			p.run(0)
			if s := a.m.Status(); !s.LocalLost || !c.early && s.LocalError != lost {
				t.Fatalf("the copy is in use, or nobody knows why: %+v", s)
			}
			if !c.early {
				c.fail(a)
			}
			p.run(1)

			// Nobody who was told something, or waits, notices.
			a.answered(0, 0)
			a.answered(1, 0)
			a.answered(2, 0)
			a.op(3, proto.OpFlush, 0, 0)
			a.write(4, 41, 1, 7)
			a.op(5, proto.OpRead, 40, 1)
			p.run(1)
			a.answered(3, 0)
			a.answered(4, 0)
			a.answered(5, 0)
			if a.buf[5][0] != 6 || b.disk[40] != 6 || b.disk[41] != 7 {
				t.Fatalf("read %d; the peer has %d and %d", a.buf[5][0], b.disk[40], b.disk[41])
			}

			// It is seen, and on disk.
			s := a.m.Status()
			if s.LocalError == lost || s.LocalError == "" || s.LocalErrAt == 0 || s.Counters.LocalFlushErrors != c.wantErrors || s.Frozen || s.Trouble != "" {
				t.Fatalf("status: %+v", s)
			}
			if a.super.Flags&extent.FlagFlushFailed == 0 || a.super.Data != proto.DataInconsistent {
				t.Fatalf("the superblock says %s %s", a.super.Data, a.super.Flags)
			}

			// The same worker meets the peer again, and takes no part in a sync.
			p.cut()
			p.run(0)
			p.connect()
			p.run(2)
			if h := a.heard(); !h.FlushFailed || h.Data != proto.DataInconsistent {
				t.Fatalf("the peer hears %+v", h)
			}
			a.write(6, 42, 1, 9)
			p.run(2)
			a.answered(6, 0)
			if s := a.m.Status(); s.Link != LinkConnected || !s.LocalLost || a.super.Flags&extent.FlagFlushFailed == 0 {
				t.Fatalf("status: %+v; the superblock says %s", s, a.super.Flags)
			}

			// A successor fetches the whole of both extents, also what reads the same: the disk may hold it in its cache alone.
			a.kill()
			a.start(true, true)
			b.sent = 0
			p.connect()
			p.run(0)
			if h := a.heard(); !h.FlushFailed {
				t.Fatalf("the peer hears %+v", h)
			}
			p.run(20)
			p.same()
			if b.sent != 32*4096 {
				t.Fatalf("the sync moved %d bytes of 2 extents\n%v", b.sent, p.log)
			}
			if f := (a.super.Flags | b.super.Flags) & extent.FlagFlushFailed; f != 0 || a.super.Data != proto.DataUpToDate || a.m.Status().LocalError != "" {
				t.Fatalf("after the sync: %s %s, %+v", a.super.Data, f, a.m.Status())
			}
			if a.super.Current != b.super.Current || a.disk[42] != 9 {
				t.Fatalf("not whole again: %+v\n%v", a.super, p.log)
			}
		})
	}
}

// A flush that fails on a secondary while nobody writes. In service it is out until everything that may be in doubt was written anew; out of
// service, with nothing marked anywhere, there is nothing in doubt.
func TestFlushFailsOnAnIdleSecondary(t *testing.T) {
	idle := func(t *testing.T) *pair {
		p := newPair(t)
		p.up()
		p.a.write(0, 0, 16, 5)
		p.run(20)
		if p.a.dirty.Count() != 0 || len(p.a.active) != 0 {
			t.Fatalf("not idle: %d dirty, %v active", p.a.dirty.Count(), p.a.active)
		}
		p.a.sent = 0
		return p
	}
	// out checks what both know while the connection is down.
	out := func(p *pair, reason string) {
		p.t.Helper()
		a, b := p.a.m.Status(), p.b.m.Status()
		if a.Link == LinkConnected || !slices.Contains(p.a.byes, reason) && a.PeerFailed != reason || a.Frozen {
			p.t.Fatalf("the primary: %+v\n%v", a, p.log)
		}
		if p.b.super.Flags&extent.FlagFlushFailed == 0 || p.b.super.Data != proto.DataInconsistent {
			p.t.Fatalf("the secondary's superblock says %s %s", p.b.super.Data, p.b.super.Flags)
		}
		if b.LocalError != "a flush failed: input/output error" || b.LocalErrAt == 0 || b.Counters.LocalFlushErrors != 1 || !slices.Contains(p.b.reports, ReportLocalLost.String()) {
			p.t.Fatalf("the secondary: %+v, reports %v", b, p.b.reports)
		}
	}
	// resync checks that what is in doubt is written anew, though both read the same, and that this ends it.
	resync := func(p *pair, blocks uint64) {
		p.t.Helper()
		p.connect()
		p.run(0)
		if h := p.b.heard(); !h.FlushFailed || h.Data != proto.DataInconsistent {
			p.t.Fatalf("the primary hears %+v", h)
		}
		p.run(20)
		p.same()
		if p.a.sent != blocks*4096 {
			p.t.Fatalf("the sync moved %d bytes, %d blocks are in doubt\n%v", p.a.sent, blocks, p.log)
		}
		if p.b.super.Flags&extent.FlagFlushFailed != 0 || p.b.super.Data != proto.DataUpToDate || p.b.m.Status().LocalError != "" {
			p.t.Fatalf("after the sync: %s %s, %+v", p.b.super.Data, p.b.super.Flags, p.b.m.Status())
		}
		if a := p.a.m.Status(); a.PeerData != proto.DataUpToDate || a.PeerFailed != "" || a.Link != LinkConnected {
			p.t.Fatalf("after the sync: %+v", a)
		}
	}
	t.Run("one that the primary asked for", func(t *testing.T) {
		p := idle(t)
		gen := p.a.super.Current
		p.b.fail[proto.OpFlush] = proto.EIO
		p.a.op(1, proto.OpFlush, 0, 0)
		p.run(1)
		p.a.answered(1, 0) // from the own disk; nothing was written, so no copy has more than the other, and no generation begins
		out(p, "a flush failed on the peer: input/output error")
		if p.a.super.Current != gen || p.a.m.Status().Counters.RemoteFlushErrors != 1 {
			t.Fatalf("the primary: %+v %+v", p.a.super, p.a.m.Status().Counters)
		}
		resync(p, 16)
	})
	t.Run("of the metadata", func(t *testing.T) {
		p := idle(t)
		s := &p.b.m.(*Secondary).core
		s.touch() // as the return to the other slot, or a page, would
		p.b.badMeta = true
		p.run(2)
		out(p, "the secondary's disk can't flush: input/output error")
		resync(p, 16) // of one generation, and nothing marked: all that was ever written
	})
	t.Run("of the metadata, after a write, and another one before the return", func(t *testing.T) {
		p := idle(t)
		gen := p.a.super.Current
		p.a.write(0, 3, 1, 7) // nobody has flushed since
		p.run(0)
		p.a.sent = 0
		s := &p.b.m.(*Secondary).core
		s.touch()
		p.b.badMeta = true
		p.run(2)
		p.a.write(1, 2, 1, 6)
		p.run(1)
		p.a.answered(1, 0)
		if p.a.super.Current == gen {
			t.Fatal("no generation began (rule 6)")
		}
		resync(p, 2) // the generation in between says that nothing but what is marked was unflushed
		if p.b.disk[2] != 6 {
			t.Fatalf("block 2 is %d there", p.b.disk[2])
		}
	})
	t.Run("at its stop", func(t *testing.T) {
		p := idle(t)
		p.b.fail[proto.OpFlush] = proto.EIO
		p.b.step(&Event{Kind: EvStop})
		p.run(2)
		if !p.b.stopped || p.b.super.Flags&extent.FlagFlushFailed == 0 || p.b.super.Data != proto.DataUpToDate || p.b.super.Flags&extent.FlagIntact != 0 {
			t.Fatalf("stopped %v; the superblock says %s %s", p.b.stopped, p.b.super.Data, p.b.super.Flags)
		}
		p.b.kill()
		p.b.start(false, false)
		p.connect()
		p.run(2)
		if h := p.b.heard(); !h.FlushFailed || h.Intact {
			t.Fatalf("the primary hears %+v", h)
		}
		if p.a.sent != 0 || p.b.super.Flags&extent.FlagFlushFailed != 0 || p.b.super.Data != proto.DataUpToDate {
			t.Fatalf("%d bytes moved; the superblock says %s %s\n%v", p.a.sent, p.b.super.Data, p.b.super.Flags, p.log)
		}
	})
}

// The same while the peer, which has the only copy, is away: the flush waits for it, and the word is on disk before it is back.
func TestFlushFailsWhileBothCopiesAreAway(t *testing.T) {
	p := newPair(t)
	p.up()
	a := p.a
	a.write(0, 0, 16, 5)
	p.run(0)
	a.held[proto.OpFlush] = true
	a.op(1, proto.OpFlush, 0, 0)
	p.run(0)
	a.fail[proto.OpWrite] = proto.EIO
	a.write(2, 40, 1, 6)
	p.run(0)
	a.answered(2, 0)
	a.op(3, proto.OpFlush, 0, 0) // asked of both, and neither has done it
	p.cut()
	a.fail[proto.OpFlush] = proto.EIO
	a.release(proto.OpFlush)
	p.run(1)
	a.waiting(3)
	if s := a.m.Status(); !s.Frozen || s.Counters.LocalFlushErrors != 1 || a.super.Flags&extent.FlagFlushFailed == 0 {
		t.Fatalf("status: %+v; the superblock says %s", s, a.super.Flags)
	}
	p.connect()
	p.run(1)
	a.answered(3, 0)
	if h := a.heard(); !h.FlushFailed {
		t.Fatalf("the peer hears %+v", h)
	}
}
