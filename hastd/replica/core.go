package replica

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"unsafe"

	"hast/extent"
	"hast/proto"
	"hast/proto/wire"
)

// Config is what a machine is made of. The machine takes Dirty, Never and
// Active over.
type Config struct {
	Node     proto.Node // this node
	Name     string     // the resource
	BootID   proto.ID   // of the running kernel
	Layout   extent.Layout
	AppTags  int
	SyncTags int
	Settings Settings

	// What was read from the metadata area (hastd/store.Load).
	Super     extent.Superblock
	SuperSlot int // the slot that Super was read from; the next write goes to the other one
	Dirty     *extent.Bitmap
	Never     *extent.Extents
	Active    []extent.Extent
	AllActive bool
	MapSeq    uint64

	// Successor: this worker takes over a device that outlived its
	// predecessor; the role, its epoch and its being served go on. Primary only.
	Successor bool
	// Grace is how long a successor holds I/O for the peer's sake before it goes on alone.
	Grace Time
}

// internal limits, each with its reason.
const (
	metaBatch  = 16              // pages of one metadata transaction: 2 GiB of device, 64 KiB of writes
	flushAge   = 5 * Second      // own flush when blocks stay unflushed so long: bounds what a lost link costs; ext4's commit interval
	flushLimit = 64 << 20 / 4096 // and when so many blocks do
	pageLazy   = 5 * Second      // how often cleared bits are written back while a sync runs: what a crash makes it repeat
	retrySync  = 10 * Second     // after a sync piece failed on the local disk
	// handshakeLimit: a terabyte's marks and a flush of a slow disk take less.
	handshakeLimit = 120 * Second
)

// Second is one second of Time.
const Second Time = 1e9

// core is what the primary's and the secondary's machine have in common: the
// superblock, the marks and their way to the disk, ids, the handshake's words.
type core struct {
	cfg Config
	geo extent.Geometry
	set Settings
	now Time
	out *Effects
	// wall is the latest wall-clock time heard, for people only.
	wall int64

	seed  [32]byte
	count uint64

	// Superblock. version counts changes, stable is the newest version known to be on disk.
	sb       extent.Superblock
	slot     int
	version  uint64
	mirrored uint64 // the version that both slots have
	stable   uint64
	mapSeq   uint64 // of the last attempt to write the map
	mapGood  uint64 // of the last that succeeded: its slot is never the next
	hot      *extent.Map
	dirty    *extent.Bitmap
	suspect  *extent.Extents // compare by digest before sending
	never    *extent.Extents
	unsaved  *extent.Extents // never-written bit cleared in memory, not yet on disk
	pageMod  []bool          // memory differs from the page on disk
	pageWant []bool          // and must be written before something else may go on
	wanted   int
	lastPage Time

	// The metadata transaction under way.
	metaBusy  bool
	metaSB    uint64 // version it carries, 0 if none
	metaMap   bool
	metaPages []int
	mapList   []extent.Extent
	metaFail  bool
	metaAgain bool // a transaction's flush failed: what it wrote is written once more
	metaDoubt bool // a flush failed while the transaction was under way, and may have dropped what it wrote
	blocks    []MetaBlock
	sbBuf     []byte
	mapBuf    []byte
	pageBuf   []byte

	link     Link
	linkWhy  string
	since    Time
	conn     Conn
	greeted  Time  // when the present connection's handshake began
	sent     hello // as sent on conn
	peer     hello // as received
	hasPeer  bool  // peer is valid for conn
	verdict  verdictState
	peerData proto.DataState
	peerName proto.Node
	peerRole proto.Role
	episode  [2]proto.ID // of the last reported refusal, so that it is told once
	told     ReportKind  // what was reported of it
	lastRole verdictKind
	crashed  bool
	rebooted bool
	intact   bool
	cnt      Counters
	diskErr  failure
}

func (c *core) init(cfg Config) {
	c.cfg = cfg
	c.set = cfg.Settings
	c.sb = cfg.Super
	c.geo = cfg.Super.Geometry
	c.slot = cfg.SuperSlot
	c.mapSeq, c.mapGood = cfg.MapSeq, cfg.MapSeq
	c.hot = extent.NewMap(c.geo, int(c.sb.HotExtents))
	c.dirty = cfg.Dirty
	c.never = cfg.Never
	c.suspect = extent.NewExtents(c.geo.Extents())
	c.unsaved = extent.NewExtents(c.geo.Extents())
	n := extent.PageCount(c.geo)
	c.pageMod = make([]bool, n)
	c.pageWant = make([]bool, n)
	c.sbBuf = aligned(4096)
	c.mapBuf = aligned(cfg.Layout.MapSlot)
	c.pageBuf = aligned(metaBatch * 4096)
	c.blocks = make([]MetaBlock, 0, metaBatch+2)
	c.metaPages = make([]int, 0, metaBatch)
	c.mapList = make([]extent.Extent, 0, c.sb.HotExtents)
	const term = extent.FlagPrimary | extent.FlagServed
	if c.sb.Flags&term == term { // a term that served nothing wrote nothing
		c.sb.Flags |= extent.FlagCrashed
		if c.sb.BootID != cfg.BootID {
			c.sb.Flags |= extent.FlagRebooted
		}
	}
	c.crashed, c.rebooted = c.sb.Flags&extent.FlagCrashed != 0, c.sb.Flags&extent.FlagRebooted != 0
	c.intact = c.sb.Flags&extent.FlagIntact != 0 // and stays so on disk until something is permitted to write
	c.loadActive()
}

// reconciled notes that this copy and the peer's were made equal since the last crash. It is written with the next superblock.
func (c *core) reconciled() {
	c.crashed, c.rebooted = false, false
	c.sb.Flags &^= extent.FlagCrashed | extent.FlagRebooted
}

// touched notes that this copy goes on from what was acknowledged. The superblock that permits it says so: the caller writes one.
func (c *core) touched() {
	c.intact = false
	c.sb.Flags &^= extent.FlagIntact
}

// loadActive turns what was active at a crash into dirty, suspect blocks (rule 3).
func (c *core) loadActive() {
	if c.cfg.AllActive || c.sb.Doubt != "" || c.sb.Flags&extent.FlagAllDirty != 0 {
		// Until every page says so itself, the superblock has to.
		c.sb.Flags |= extent.FlagAllDirty
		c.sb.Flags &^= extent.FlagMerged
		c.version++
		for e := extent.Extent(0); e < c.geo.Extents(); e++ {
			if c.cfg.AllActive || c.sb.Doubt != "" || !c.never.Test(e) {
				c.markExtent(e)
			}
		}
		return
	}
	for _, e := range c.cfg.Active {
		c.markExtent(e)
	}
	c.hot.Restore(c.cfg.Active)
}

func (c *core) markExtent(e extent.Extent) {
	first, n := c.geo.Range(e)
	c.written(e)
	c.mark(first, n)
	c.suspect.Set(e)
}

// written takes e out of the never-written extents.
func (c *core) written(e extent.Extent) bool {
	if !c.never.Test(e) {
		return false
	}
	c.never.Clear(e)
	c.unsaved.Set(e)
	c.pageMod[extent.PageOf(c.geo, e)] = true
	return true
}

// mark sets blocks dirty in memory.
func (c *core) mark(first, n extent.Block) {
	if c.dirty.Set(first, n) == 0 {
		return
	}
	last := c.geo.ExtentOf(first + n - 1)
	for e := c.geo.ExtentOf(first); e <= last; e++ {
		c.pageMod[extent.PageOf(c.geo, e)] = true
	}
}

// newID draws a fresh id from the seed that the engine gave.
func (c *core) newID() (id proto.ID) {
	k := c.newKey()
	copy(id[:], k[:])
	return id
}

func (c *core) newKey() [32]byte {
	var b [40]byte
	copy(b[:], c.seed[:])
	c.count++
	binary.LittleEndian.PutUint64(b[32:], c.count)
	return sha256.Sum256(b[:])
}

func (c *core) setSeed(r [4]uint64) {
	for i, w := range r {
		binary.LittleEndian.PutUint64(c.seed[8*i:], w)
	}
}

// touch notes a change of the superblock and returns the version to wait for.
func (c *core) touch() uint64 {
	c.version++
	return c.version
}

// wantPage asks for page p to be written as soon as possible.
func (c *core) wantPage(p int) {
	if c.pageMod[p] && !c.pageWant[p] {
		c.pageWant[p] = true
		c.wanted++
	}
}

func (c *core) wantAllPages() {
	for p := range c.pageMod {
		c.wantPage(p)
	}
}

// pagesClean reports whether every page on disk says what memory says.
func (c *core) pagesClean() bool {
	for _, m := range c.pageMod {
		if m {
			return false
		}
	}
	return true
}

// pumpMeta starts the next metadata transaction. Pages go alone: what depends
// on them (an extent leaving the map, a session beginning) is written only after they are stable.
func (c *core) pumpMeta() {
	if c.metaBusy || c.metaFail {
		return
	}
	c.blocks = c.blocks[:0]
	c.metaSB, c.metaMap, c.metaPages = 0, false, c.metaPages[:0]
	if c.version > c.stable {
		c.sb.Sequence++
		c.sb.Encode(c.sbBuf)
		c.metaSB = c.version
		c.blocks = append(c.blocks, MetaBlock{Off: c.cfg.Layout.Super[1-c.slot], Data: c.sbBuf})
	}
	if c.hot.Dirty() {
		c.addMap()
	}
	if len(c.blocks) == 0 && c.wanted > 0 {
		c.addPages()
	}
	if len(c.blocks) == 0 && c.hot.Drops() {
		c.addMap()
	}
	if len(c.blocks) == 0 && c.mirrored != c.stable {
		// At leisure the other slot gets the same: one damaged superblock then costs nothing.
		c.sb.Sequence++
		c.sb.Encode(c.sbBuf)
		c.metaSB, c.mirrored = c.version, c.version
		c.blocks = append(c.blocks, MetaBlock{Off: c.cfg.Layout.Super[1-c.slot], Data: c.sbBuf})
	}
	if len(c.blocks) == 0 {
		return
	}
	c.metaBusy = true
	c.cnt.MetaWrites++
	e := c.out.add()
	e.Kind, e.Meta = EfMeta, c.blocks
}

func (c *core) addMap() {
	c.mapSeq = extent.NextMapSeq(c.mapSeq, c.mapGood)
	c.mapList = c.hot.Prepare(c.mapList[:0])
	extent.EncodeMap(c.mapBuf, c.sb.MetaID, c.mapSeq, c.mapList)
	c.metaMap = true
	c.cnt.MapUpdates++
	c.blocks = append(c.blocks, MetaBlock{Off: c.cfg.Layout.Map[extent.MapSlotOf(c.mapSeq)], Data: c.mapBuf})
}

func (c *core) addPages() {
	for p := range c.pageWant {
		if !c.pageWant[p] {
			continue
		}
		if len(c.metaPages) == metaBatch {
			break
		}
		buf := c.pageBuf[len(c.metaPages)*4096:][:4096]
		extent.EncodePage(buf, p, c.sb.MetaID, c.geo, c.dirty, c.never)
		c.pageWant[p], c.pageMod[p] = false, false
		c.wanted--
		c.metaPages = append(c.metaPages, p)
		c.blocks = append(c.blocks, MetaBlock{Off: c.cfg.Layout.Pages + int64(p)*4096, Data: buf})
	}
}

// metaResult is what became of a metadata transaction.
type metaResult uint8

const (
	metaStable  metaResult = iota
	metaRedone             // it is written once more
	metaDropped            // its flush failed, so the disk may have dropped data as well; it is written once more
	metaLost               // the area failed, which the caller treats as the loss of the local copy
)

// metaDone takes the answer of a transaction in.
func (c *core) metaDone(ev *Event) metaResult {
	if !c.metaBusy {
		panic("replica: metadata answer without a transaction")
	}
	c.metaBusy = false
	doubt := c.metaDoubt
	c.metaDoubt = false
	if ev.Errno != proto.OK || doubt {
		if c.metaMap {
			c.hot.Failed()
		}
		if c.metaSB != 0 {
			c.mirrored = 0
		}
		for _, p := range c.metaPages {
			c.pageMod[p] = true
			if !c.pageWant[p] {
				c.pageWant[p] = true
				c.wanted++
			}
		}
		switch {
		case ev.Errno == proto.OK:
			return metaRedone
		case ev.Op == proto.OpFlush && !c.metaAgain:
			c.metaAgain = true
			c.dropped(ev.Errno)
			return metaDropped
		}
		c.metaFail = true
		c.diskFailed("the metadata area failed: %s", ev.Errno)
		return metaLost
	}
	c.metaAgain = false
	if c.metaSB != 0 {
		c.stable = c.metaSB
		c.slot = 1 - c.slot
	}
	if c.metaMap {
		c.hot.Committed()
		c.mapGood = c.mapSeq
	}
	for _, p := range c.metaPages {
		first, n := extent.PageExtents(c.geo, p)
		if !c.pageMod[p] { // otherwise something was cleared meanwhile; the next write says so
			for e := first; e < first+extent.Extent(n); e++ {
				c.unsaved.Clear(e)
			}
		}
	}
	return metaStable
}

// dropped follows every flush that failed. Data and metadata share a disk, and one flush's failure may be all that
// ever tells of what the disk dropped of either.
func (c *core) dropped(errno proto.Errno) {
	c.diskFailed("a flush failed: %s", errno)
	c.cnt.LocalFlushErrors++
	c.metaDoubt = c.metaBusy
}

// settled reports whether e may leave the activity map as far as marks on disk
// are concerned: its bits and its never-written bit are on stable storage (rule 3).
func (c *core) settled(e extent.Extent) bool {
	first, n := c.geo.Range(e)
	if !c.unsaved.Test(e) && !c.dirty.Any(first, n) {
		return true
	}
	p := extent.PageOf(c.geo, e)
	return !c.pageMod[p] && !c.pageInFlight(p) && !c.unsaved.Test(e)
}

func (c *core) pageInFlight(p int) bool {
	if !c.metaBusy {
		return false
	}
	for _, q := range c.metaPages {
		if q == p {
			return true
		}
	}
	return false
}

// pushHistory makes id the newest member of the history.
func (c *core) pushHistory(id proto.ID) {
	if id.IsZero() || c.sb.History[0] == id {
		return
	}
	copy(c.sb.History[1:], c.sb.History[:])
	c.sb.History[0] = id
}

func (c *core) setLink(l Link, why string) {
	if c.link != l {
		c.since = c.now
	}
	c.link, c.linkWhy = l, why
}

func (c *core) setData(s proto.DataState) {
	if c.sb.Data == s {
		return
	}
	old := c.sb.Data
	c.sb.Data = s
	c.touch()
	c.report(ReportDataState, 0, "own copy is %s, was %s", s, old)
}

// Effects, in short.

func (c *core) report(k ReportKind, bytes uint64, format string, args ...any) {
	e := c.out.add()
	e.Kind = EfReport
	e.Report = Report{Kind: k, Text: fmt.Sprintf(format, args...), Bytes: bytes}
}

func (c *core) reply(t Tag, errno proto.Errno) {
	e := c.out.add()
	e.Kind, e.Tag, e.Errno = EfReply, t, errno
}

func (c *core) release(t Tag) {
	e := c.out.add()
	e.Kind, e.Tag = EfRelease, t
}

func (c *core) disk(t Tag, op proto.Op, off proto.Offset, n proto.Length, fua, noUnmap bool) {
	e := c.out.add()
	e.Kind, e.Tag, e.Op, e.Off, e.Len, e.FUA, e.NoUnmap = EfDisk, t, op, off, n, fua, noUnmap
}

func (c *core) send(h wire.Header, body []byte) {
	e := c.out.add()
	e.Kind, e.Conn, e.Head, e.Body = EfSend, c.conn, h, body
}

func (c *core) sendPayload(h wire.Header, t Tag) {
	e := c.out.add()
	e.Kind, e.Conn, e.Head, e.Tag, e.Payload = EfSend, c.conn, h, t, true
}

// hangUp ends the connection and tells the peer why.
func (c *core) hangUp(format string, args ...any) {
	if c.conn == 0 {
		return
	}
	text := fmt.Sprintf(format, args...)
	if len(text) > 512 {
		text = text[:512]
	}
	c.send(wire.Header{Type: wire.TypeBye}, []byte(text))
	e := c.out.add()
	e.Kind, e.Conn, e.Text = EfDisconnect, c.conn, text
}

// tagQueue is a first-in-first-out list of tags; it grows to its largest use and stays there.
type tagQueue struct {
	q    []Tag
	head int
}

func (q *tagQueue) push(t Tag) {
	if q.head > 0 && len(q.q) == cap(q.q) {
		n := copy(q.q, q.q[q.head:])
		q.q, q.head = q.q[:n], 0
	}
	q.q = append(q.q, t)
}

func (q *tagQueue) len() int { return len(q.q) - q.head }

func (q *tagQueue) front() Tag { return q.q[q.head] }

func (q *tagQueue) pop() Tag {
	t := q.q[q.head]
	q.head++
	if q.head == len(q.q) {
		q.q, q.head = q.q[:0], 0
	}
	return t
}

// aligned returns n bytes at a 4096-byte boundary, as direct I/O needs them.
func aligned(n int) []byte {
	b := make([]byte, n+4095)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & 4095)
	return b[skip : skip+n : skip+n]
}
