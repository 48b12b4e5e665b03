package sim

import (
	"fmt"
	"runtime/debug"
	"strings"

	"hast/extent"
	"hast/hastd/replica"
	"hast/proto"
)

// The simulated resource: as many extents as keep an activity map of the smallest size full.
const (
	simExtents   = 40
	simPerExtent = 16 // blocks: extents of 64 KiB
)

// Violation is what a checker found.
type Violation struct {
	Checker string
	At      Time
	Text    string
}

// Result is what a run was.
type Result struct {
	Seed      uint64
	Options   Options
	Violation *Violation
	Trace     []string // if asked for
	Steps     int
	Acked     int
	End       Time
}

// world is one run.
type world struct {
	schedule
	rnd   random
	opt   Options
	mode  proto.Mode
	geo   extent.Geometry
	lay   extent.Layout
	nodes [2]*node

	blocks, sectors, extents, perExtent int
	skip                                int // sectors of the device in front of those that are simulated

	faults    bool // faults happen; false: the world is being healed
	partition bool // nobody can connect
	cutOff    bool // the two primaries of a split brain can't

	opsLeft, acked int
	issuing        bool
	syncSpot       int // the sectors that a sync was at, and when
	syncLen        int
	syncAt         Time
	spot           int
	lastVer        version

	fates   []fate
	oracles [2]*oracle
	marks   [2]marks
	flats   [2][]bool
	epochs  map[uint64]int

	op             operator
	split          bool // the operator has forced both nodes to be primary
	everSplit      bool
	left           int // the primary that the clients leave in a split, until it is known to be outdated; -1: none
	acksSinceSplit [2]int

	bad   *Violation
	trace []string
	steps int

	slab  []version
	tslab []Time
	bslab []bool
	spare [][]Time // memory of barriers
}

// slice returns n fresh versions of the run's memory; with 0, a slice to append to.
func (w *world) slice(n int) []version {
	if len(w.slab) < n+512 {
		w.slab = make([]version, 64<<10)
	}
	s := w.slab[:n:max(n, 512)]
	w.slab = w.slab[cap(s):]
	return s
}

func (w *world) times(int) []Time {
	if len(w.tslab) < 512 {
		w.tslab = make([]Time, 32<<10)
	}
	s := w.tslab[:0:512]
	w.tslab = w.tslab[512:]
	return s
}

func (w *world) bools(int) []bool { return make([]bool, 0, w.blocks) }

func (w *world) wall() int64 { return 1700000000 + int64(w.now/sec) }

func (w *world) peerOf(n *node) *node { return w.nodes[1-n.id] }

func (w *world) fail(checker, format string, args ...any) {
	if w.bad == nil {
		w.bad = &Violation{checker, w.now, fmt.Sprintf(format, args...)}
		w.tracef(-1, "VIOLATION %s: %s", checker, w.bad.Text)
	}
}

// Run plays one seed. With trace, the result has a line for each event and effect.
func Run(seed uint64, opt Options, trace bool) (r Result) {
	w := newWorld(seed, opt, trace)
	defer func() {
		// A machine that panics is a violation like any other.
		if p := recover(); p != nil {
			stack := debug.Stack()
			w.fail("panic", "%v\n%.1600s", p, stack)
			r = w.result(seed)
		}
	}()
	w.play()
	return w.result(seed)
}

func (w *world) result(seed uint64) Result {
	return Result{Seed: seed, Options: w.opt, Violation: w.bad, Trace: w.trace, Steps: w.steps, Acked: w.acked, End: w.now}
}

func newWorld(seed uint64, opt Options, trace bool) *world {
	w := &world{rnd: random{seed}, opt: opt, mode: opt.Mode, faults: true, opsLeft: opt.Ops, epochs: map[uint64]int{}}
	w.extents, w.perExtent = simExtents, simPerExtent
	w.blocks = w.extents*w.perExtent - w.rnd.n(simPerExtent) // the last extent may be short
	w.sectors = w.blocks * 8
	w.geo = extent.Geometry{DataSize: proto.Offset(w.blocks) * proto.BlockSize, ExtentSize: simPerExtent * proto.BlockSize, Logical: opt.Logical}
	if opt.Pages {
		w.widen()
	}
	w.lay = extent.LayoutFor(w.geo, hotExtents)
	w.now = sec
	if trace {
		w.trace = make([]string, 0, 4096)
	}
	w.lastVer = 2
	w.fates = make([]fate, 3, 1024)
	for i := range w.fates {
		w.fates[i] = fate{0, w.sectors, 0, 0}
	}
	for i := range w.nodes {
		d := &disk{w: w, node: i, cache: make([]version, w.sectors), stable: make([]version, w.sectors), bad: make([]bool, w.sectors),
			meta: make([]byte, w.lay.Size), metaStable: make([]byte, w.lay.Size)}
		for s := range d.cache {
			d.cache[s], d.stable[s] = version(i+1), version(i+1) // what was there before differs
		}
		n := &node{w: w, id: i, name: proto.MakeNode(string(rune('a' + i))), disk: d, up: true, boot: proto.IDFromWords(w.rnd.next(), uint64(i)+1)}
		for t := range n.bufs {
			n.bufs[t] = make([]version, 512)
		}
		w.nodes[i] = n
		w.flats[i] = make([]bool, w.sectors)
		n.create()
	}
	o := newOracle(w)
	w.oracles = [2]*oracle{o, o}
	return w
}

// widen makes the device so large that its bitmap has two pages. The clients use the extents around the border; those in front of them stay
// never written, and are not simulated: what the runs below call sector 0 is sector skip of the device.
func (w *world) widen() {
	w.geo.DataSize = 1 << 30
	_, first := extent.PageExtents(w.geo, 0)
	skip := first - w.rnd.between(2, w.extents-2)
	w.skip = skip * w.perExtent * 8
	w.geo.DataSize = proto.Offset(skip*w.perExtent+w.blocks) * proto.BlockSize
}

// span returns what a request, an effect or a frame means in sectors of the run.
func (w *world) span(off proto.Offset, l proto.Length) (first, n int) {
	first, n = int(off/sector)-w.skip, int(l/sector)
	if n > 0 && (first < 0 || first+n > w.sectors) {
		w.fail("contract", "%d sectors at %d, which nobody ever wrote or marked, are moved", n, first)
		return 0, 0
	}
	return first, n
}

// limits of a run: it ends by itself long before.
const (
	maxSteps = 60000
	healTime = 400 * sec
)

// play runs the world: faults until the clients are done, then healing, then the last questions.
func (w *world) play() {
	w.begin()
	w.issue()
	for w.bad == nil && w.opsLeft > 0 && w.now < 600*sec && w.steps < maxSteps && w.step() {
	}
	if w.bad != nil {
		return
	}
	w.opsLeft = 0
	w.heal()
	end := w.now + healTime
	for w.bad == nil && !w.op.settled && w.now < end && w.steps < maxSteps && w.step() {
	}
	if w.bad != nil {
		return
	}
	if !w.op.settled {
		w.fail("liveness", "%s", w.stuck())
		return
	}
	if !w.op.gaveUp {
		w.ruleAllWell()
	}
}

// stuck describes what a run hangs in.
func (w *world) stuck() string {
	var b strings.Builder
	fmt.Fprintf(&b, "not in sync %d s after the last fault (%d steps):", healTime/sec, w.steps)
	for _, n := range w.nodes {
		fmt.Fprintf(&b, " %s: alive %v", n.name, n.alive)
		if n.alive {
			s := n.m.Status()
			fmt.Fprintf(&b, " %s promoted=%v link=%s why=%q data=%s syncing=%v dirty=%d frozen=%v waiting=%d inflight=%d lost=%v", s.Role, s.Promoted, s.Link, s.Why, s.Data, s.Syncing, s.DirtyBytes, s.Frozen, s.Waiting, s.InFlight, s.LocalLost)
		}
		fmt.Fprintf(&b, " front %v out %d;", n.front.attached, len(n.front.out))
	}
	return b.String()
}

// ruleAllWell is asked when all faults are over: both disks are equal, and everything that was promised can be read.
func (w *world) ruleAllWell() {
	w.ruleDifferencesMarked("at the end")
	if l := w.nodes[0].link; l != nil && l.bound >= 0 && l.moved > l.bound {
		w.fail("bound", "the last sync moved %d blocks, and %d were marked when it began", l.moved, l.bound)
		return
	}
	a, b := w.stableMarks(0), w.stableMarks(1)
	da, db := w.nodes[0].disk, w.nodes[1].disk
	for s := range da.cache {
		e := s / 8 / w.perExtent
		va, vb := da.cache[s], db.cache[s]
		if va != vb && !(va&zeroBit != 0 && vb&zeroBit != 0) && !(a.never[e] && b.never[e]) {
			w.fail("equal", "after the last sync sector %d is %d on %s and %d on %s", s, va, w.nodes[0].name, vb, w.nodes[1].name)
			return
		}
	}
	for _, n := range w.nodes {
		o := w.oracleOf(n)
		for s, f := range o.floor {
			if w.fate(n.disk.cache[s]).end < f {
				w.fail("lost", "after the last sync sector %d on node %s is version %d, which was over at %d; a write that began at %d was acknowledged", s, n.name, n.disk.cache[s], w.fate(n.disk.cache[s]).end, f)
				return
			}
		}
	}
}

func (w *world) tracef(col int, format string, args ...any) {
	if w.trace == nil {
		return
	}
	text := fmt.Sprintf(format, args...)
	switch col {
	case 0:
		text = fmt.Sprintf("%-70s|", text)
	case 1:
		text = fmt.Sprintf("%-70s| %s", "", text)
	default:
		text = "-- " + text
	}
	w.trace = append(w.trace, fmt.Sprintf("%12.6f %s", float64(w.now)/float64(sec), text))
}

func (w *world) traceEvent(n *node, e *replica.Event) {
	switch e.Kind {
	case replica.EvIO:
		w.tracef(n.id, "> io tag %d %s %d+%d fua=%v v%d", e.Tag, e.Op, e.Off/sector, e.Len/sector, e.FUA, n.client[e.Tag].ver)
	case replica.EvDisk:
		w.tracef(n.id, "> disk tag %d %s", e.Tag, errWord(e.Errno))
	case replica.EvDigest:
		w.tracef(n.id, "> digest tag %d mask %#x %s", e.Tag, e.Mask, errWord(e.Errno))
	case replica.EvMeta:
		w.tracef(n.id, "> meta %s", errWord(e.Errno))
	case replica.EvFrame:
		h := &e.Head
		w.tracef(n.id, "> frame %d seq %d:%d %d+%d fl %#x aux %#x tag %d", h.Type, h.Seq>>32, uint32(h.Seq), h.Offset/sector, h.Length/sector, h.Flags, h.Aux, e.Tag)
	case replica.EvPeerUp, replica.EvPeerDown:
		w.tracef(n.id, "> %s conn %d %s", [...]string{"up", "down"}[e.Kind-replica.EvPeerUp], e.Conn, e.Text)
	case replica.EvTick:
		w.tracef(n.id, "> tick")
	default:
		w.tracef(n.id, "> event %d force=%v", e.Kind, e.Force)
	}
}

func errWord(e proto.Errno) string {
	if e == proto.OK {
		return "ok"
	}
	return e.Error()
}

func (w *world) traceEffect(n *node, e *replica.Effect) {
	switch e.Kind {
	case replica.EfReply:
		w.tracef(n.id, "  < reply tag %d %s", e.Tag, errWord(e.Errno))
	case replica.EfRelease:
		w.tracef(n.id, "  < release tag %d", e.Tag)
	case replica.EfDisk:
		w.tracef(n.id, "  < disk tag %d %s %d+%d", e.Tag, e.Op, e.Off/sector, e.Len/sector)
	case replica.EfDigest:
		w.tracef(n.id, "  < digest tag %d %d+%d", e.Tag, e.Off/sector, e.Len/sector)
	case replica.EfSend:
		h := &e.Head
		w.tracef(n.id, "  < send %d seq %d:%d %d+%d fl %#x aux %#x", h.Type, h.Seq>>32, uint32(h.Seq), h.Offset/sector, h.Length/sector, h.Flags, h.Aux)
	case replica.EfMeta:
		what := ""
		for _, b := range e.Meta {
			what += w.metaWords(b)
		}
		w.tracef(n.id, "  < meta%s", what)
	case replica.EfReport:
		w.tracef(n.id, "  < report %s: %s", e.Report.Kind, e.Report.Text)
	case replica.EfDisconnect:
		w.tracef(n.id, "  < disconnect %d: %s", e.Conn, e.Text)
	case replica.EfConnect:
		w.tracef(n.id, "  < connect")
	case replica.EfStopped:
		w.tracef(n.id, "  < stopped")
	}
}

// metaWords tells what a metadata block says.
func (w *world) metaWords(b replica.MetaBlock) string {
	for _, off := range w.lay.Super {
		if off == b.Off {
			s, err := extent.DecodeSuperblock(b.Data)
			if err != nil {
				return " super?"
			}
			return fmt.Sprintf(" super[%d %s %s ep=%s gen=%s base=%s sync=%s/%d]", s.Sequence, s.Data, s.Flags, s.Epoch, s.Current.Short(), s.Base.Short(), s.SyncID.Short(), s.SyncRole)
		}
	}
	if b.Off < w.lay.Map[0] {
		return " page"
	}
	return " map"
}
