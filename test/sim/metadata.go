package sim

import (
	"bytes"
	"fmt"

	"hast/extent"
	"hast/proto"
)

// loaded is what a node finds in its metadata area.
type loaded struct {
	super  extent.Superblock
	slot   int
	dirty  *extent.Bitmap
	never  *extent.Extents
	active []extent.Extent
	all    bool
	mapSeq uint64
}

// load reads a metadata area the way the store does at start.
func load(meta []byte, lay extent.Layout) (l loaded, err error) {
	a, b := meta[lay.Super[0]:][:extent.SuperSize], meta[lay.Super[1]:][:extent.SuperSize]
	l.super, l.slot, err = extent.PickSuperblock(a, b)
	if err != nil {
		return l, err
	}
	if l.super.Doubt != "" {
		return l, fmt.Errorf("a superblock slot is damaged, which no fault of this world can do: %s", l.super.Doubt)
	}
	g := l.super.Geometry
	l.dirty, l.never = extent.NewBitmap(g.Blocks()), extent.NewExtents(g.Extents())
	for p := 0; p < lay.PageCount; p++ {
		if err := extent.DecodePage(meta[lay.Pages+int64(p)*extent.PageSize:][:extent.PageSize], p, l.super.MetaID, g, l.dirty, l.never); err != nil {
			extent.MarkPage(p, g, l.dirty, l.never)
		}
	}
	slots := make([][]byte, len(lay.Map))
	for i, off := range lay.Map {
		slots[i] = meta[off:][:lay.MapSlot]
	}
	l.active, l.mapSeq, l.all, _ = extent.DecodeMapRing(slots, l.super.MetaID, g, int(l.super.HotExtents))
	return l, nil
}

// create writes the metadata of a new copy, as hastctl create does.
func create(meta []byte, lay extent.Layout, g extent.Geometry, hot int, id proto.ID) {
	clear(meta)
	sb := extent.Superblock{MetaID: id, Sequence: 1, Name: "sim", Geometry: g, HotExtents: uint32(hot), Data: proto.DataUpToDate}
	sb.Encode(meta[lay.Super[0]:])
	sb.Sequence = 2
	sb.Encode(meta[lay.Super[1]:])
	dirty, never := extent.NewBitmap(g.Blocks()), extent.NewExtents(g.Extents())
	never.SetAll()
	for p := 0; p < lay.PageCount; p++ {
		extent.EncodePage(meta[lay.Pages+int64(p)*extent.PageSize:], p, id, g, dirty, never)
	}
	for i, off := range lay.Map {
		extent.EncodeMap(meta[off:][:lay.MapSlot], id, uint64(i)+1, nil)
	}
}

// marks is what the stable bytes of one node's metadata area say.
type marks struct {
	gen   uint64 // of the disk's metaStable that it was read from
	super extent.Superblock
	dirty []bool // by block: dirty bit
	hot   []bool // by extent: active
	never []bool // by extent
	err   error

	page, ring []byte // as decoded last
	bits       *extent.Bitmap
	exts       *extent.Extents
}

// marked reports whether block b is marked on this node.
func (m *marks) marked(w *world, b int) bool {
	return m.dirty[b] || m.hot[b/w.perExtent] || m.super.Flags&extent.FlagAllDirty != 0
}

// stableMarks decodes a node's stable metadata, if it changed since the last time.
func (w *world) stableMarks(n int) *marks {
	d, m := w.nodes[n].disk, &w.marks[n]
	if m.gen == d.metaGen && m.dirty != nil {
		return m
	}
	if m.dirty == nil {
		m.dirty, m.hot, m.never = make([]bool, w.blocks), make([]bool, w.extents), make([]bool, w.extents)
		m.page, m.ring = make([]byte, w.lay.PageCount*extent.PageSize), make([]byte, len(w.lay.Map)*w.lay.MapSlot)
		m.bits, m.exts = extent.NewBitmap(w.geo.Blocks()), extent.NewExtents(w.geo.Extents())
	}
	m.gen = d.metaGen
	m.super, _, m.err = extent.PickSuperblock(d.metaStable[w.lay.Super[0]:][:extent.SuperSize], d.metaStable[w.lay.Super[1]:][:extent.SuperSize])
	if m.err != nil {
		return m
	}
	m.readPages(w, d.metaStable[w.lay.Pages:][:len(m.page)])
	m.readMap(w, d.metaStable[w.lay.Map[0]:][:len(m.ring)])
	return m
}

// readPages decodes the bitmap, if it is another than the last time.
func (m *marks) readPages(w *world, b []byte) {
	if bytes.Equal(b, m.page) {
		return
	}
	copy(m.page, b)
	m.bits.Reset()
	m.exts.Reset()
	for p := 0; p < w.lay.PageCount; p++ {
		if extent.DecodePage(b[p*extent.PageSize:][:extent.PageSize], p, m.super.MetaID, w.geo, m.bits, m.exts) != nil {
			extent.MarkPage(p, w.geo, m.bits, m.exts)
		}
	}
	first := w.skip / 8
	for b := range m.dirty {
		m.dirty[b] = m.bits.Test(extent.Block(first + b))
	}
	for e := range m.never {
		m.never[e] = m.exts.Test(extent.Extent(first/w.perExtent + e))
	}
}

// readMap decodes the ring of the activity map, if it is another than the last time.
func (m *marks) readMap(w *world, b []byte) {
	if bytes.Equal(b, m.ring) {
		return
	}
	copy(m.ring, b)
	var slots [extent.MapSlots][]byte
	for i := range slots {
		slots[i] = m.ring[i*w.lay.MapSlot:][:w.lay.MapSlot]
	}
	list, _, all, _ := extent.DecodeMapRing(slots[:], m.super.MetaID, w.geo, int(m.super.HotExtents))
	for e := range m.hot {
		m.hot[e] = all
	}
	for _, e := range list {
		if e := int(e) - w.skip/8/w.perExtent; e >= 0 {
			m.hot[e] = true
		}
	}
}

// super decodes a node's stable superblock.
func (w *world) super(n int) *extent.Superblock { return &w.stableMarks(n).super }
