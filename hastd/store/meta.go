package store

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"hast/extent"
	"hast/proto"
)

// Meta is what the metadata area says.
type Meta struct {
	Super     extent.Superblock
	Slot      int
	Layout    extent.Layout
	Dirty     *extent.Bitmap
	Never     *extent.Extents
	Active    []extent.Extent
	AllActive bool
	MapSeq    uint64
	BadPages  []int
	Warnings  []string // for the log and for dump: what was damaged, and what it is taken for
}

// align returns n zero bytes at a page boundary.
func align(n int) []byte {
	b := make([]byte, n+4095)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & 4095)
	return b[skip : skip+n : skip+n]
}

func readAt(f *os.File, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := unix.Pread(int(f.Fd()), b, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return errors.New("unexpected end")
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// ErrNoMetadata: the device has none; hastctl create makes it.
var ErrNoMetadata = extent.ErrNoMetadata

// Load reads the metadata of a resource; area is the device, or the file of external metadata. name is checked unless empty.
func Load(area *os.File, name string) (*Meta, error) {
	n, _, err := size(area)
	if err != nil {
		return nil, err
	}
	slots, ok := extent.FindSuper(n)
	if !ok {
		return nil, fmt.Errorf("%s: %w: it is too small", area.Name(), ErrNoMetadata)
	}
	two := align(extent.SuperArea)
	if err := readAt(area, two, slots[0]); err != nil {
		return nil, fmt.Errorf("%s: superblocks: %w", area.Name(), err)
	}
	m := &Meta{}
	m.Super, m.Slot, err = extent.PickSuperblock(two[:extent.SuperSize], two[extent.SuperSize:])
	if err != nil {
		return nil, fmt.Errorf("%s: %w", area.Name(), err)
	}
	if name != "" && m.Super.Name != name {
		return nil, fmt.Errorf("%s holds metadata of resource %q, not of %q: check local in the configuration", area.Name(), m.Super.Name, name)
	}
	m.Layout = extent.LayoutFor(m.Super.Geometry, int(m.Super.HotExtents))
	base := m.Layout.AreaStart(n)
	if base < 0 {
		return nil, fmt.Errorf("%s: the metadata area of %d bytes does not fit", area.Name(), m.Layout.Size)
	}
	if m.Super.Doubt != "" {
		m.Warnings = append(m.Warnings, m.Super.Doubt)
	}
	if err := m.loadMap(area, base); err != nil {
		return nil, err
	}
	return m, m.loadPages(area, base)
}

func (m *Meta) loadMap(area *os.File, base int64) error {
	ring := make([][]byte, extent.MapSlots)
	for i := range ring {
		ring[i] = align(m.Layout.MapSlot)
		if err := readAt(area, ring[i], base+m.Layout.Map[i]); err != nil {
			m.Warnings = append(m.Warnings, fmt.Sprintf("activity map slot %d: %v", i, err)) // reads as damaged
		}
	}
	var err error
	m.Active, m.MapSeq, m.AllActive, err = extent.DecodeMapRing(ring, m.Super.MetaID, m.Super.Geometry, int(m.Super.HotExtents))
	if err != nil {
		m.Warnings = append(m.Warnings, err.Error())
	}
	return nil
}

// pagesAtOnce bounds the buffer of loadPages to 1 MiB.
const pagesAtOnce = 256

func (m *Meta) loadPages(area *os.File, base int64) error {
	g := m.Super.Geometry
	m.Dirty, m.Never = extent.NewBitmap(g.Blocks()), extent.NewExtents(g.Extents())
	count := extent.PageCount(g)
	buf := align(pagesAtOnce * extent.PageSize)
	for p := 0; p < count; p += pagesAtOnce {
		k := min(pagesAtOnce, count-p)
		b := buf[:k*extent.PageSize]
		if err := readAt(area, b, base+m.Layout.Pages+int64(p)*extent.PageSize); err != nil {
			clear(b) // reads as damaged: all dirty (rule 3)
		}
		for i := range k {
			if err := extent.DecodePage(b[i*extent.PageSize:][:extent.PageSize], p+i, m.Super.MetaID, g, m.Dirty, m.Never); err != nil {
				extent.MarkPage(p+i, g, m.Dirty, m.Never)
				m.BadPages = append(m.BadPages, p+i)
				if len(m.BadPages) <= 10 {
					m.Warnings = append(m.Warnings, fmt.Sprintf("bitmap page %d: %v: all of it counts as dirty", p+i, err))
				}
			}
		}
	}
	return nil
}

// HeadTail is a digest of the first and the last MiB of the data area: enough
// to notice a file system that was mounted, or a device that was written, without hastd.
func HeadTail(data *os.File, size proto.Offset) (extent.Digest, error) {
	const part = 1 << 20
	h := sha256.New()
	buf := align(part)
	for _, off := range [2]int64{0, max(0, int64(size)-part)} {
		b := buf[:min(part, int(size)-int(off))]
		if err := readAt(data, b, off); err != nil {
			return extent.Digest{}, fmt.Errorf("%s: reading %d bytes at %d: %w", data.Name(), len(b), off, err)
		}
		h.Write(b)
	}
	var d extent.Digest
	h.Sum(d[:0])
	return d, nil
}

// Seal marks a clean stop: it stores the digest of the data's ends. The machine has stopped; everything else is on disk.
func Seal(data, area *os.File, name string) error {
	m, err := Load(area, name)
	if err != nil {
		return err
	}
	sb := m.Super
	if sb.HeadTail, err = HeadTail(data, sb.DataSize); err != nil {
		return err
	}
	sb.Flags |= extent.FlagClean
	return putSuper(area, &sb, 1-m.Slot)
}

func putSuper(area *os.File, sb *extent.Superblock, slot int) error {
	n, _, err := size(area)
	if err != nil {
		return err
	}
	sb.Sequence++
	b := align(extent.SuperSize)
	sb.Encode(b)
	l := extent.LayoutFor(sb.Geometry, int(sb.HotExtents))
	if err := pwrite(int(area.Fd()), b, l.AreaStart(n)+l.Super[slot], false); err != nil {
		return fmt.Errorf("%s: superblock: %w", area.Name(), err)
	}
	return fdatasync(area)
}

// ChangedWithout reports whether the data was written since a clean stop, without hastd. Then nothing is known about
// what differs: everything written is compared, and the copy is not promoted unasked.
func ChangedWithout(data *os.File, m *Meta) (bool, error) {
	if m.Super.Flags&extent.FlagClean == 0 {
		return false, nil
	}
	d, err := HeadTail(data, m.Super.DataSize)
	return err == nil && d != m.Super.HeadTail, err
}

// Options of Create. Zero values mean the defaults.
type Options struct {
	Name       string
	Local      string
	Metadata   string // path of external metadata, "" for internal
	ExtentSize uint32 // bytes; 2 MiB
	HotExtents uint32 // 512
	MediaSize  int64  // bytes of data; all that fits
	Logical    uint32 // 4096; the device's own for Adopt
	Force      bool   // overwrite what is there
	Adopt      bool   // keep the data: everything counts as written
}

// Defaults of Create.
const (
	DefaultExtent = 2 << 20
	// DefaultHot extents of 2 MiB are 1 GiB: what is compared, not copied, after a crash.
	DefaultHot = 512
)

// SizeError is a size that can't be; hastctl exits with 65.
type SizeError struct{ Text string }

func (e *SizeError) Error() string { return e.Text }

// ErrHoldsData: something is on the device.
var ErrHoldsData = errors.New("holds data")

// Create writes fresh metadata. It takes the device's lock, so a running daemon is noticed.
func Create(o Options) (*extent.Superblock, error) {
	data, err := Open(o.Local)
	if err != nil {
		return nil, err
	}
	defer data.Close()
	dev, logical, err := size(data)
	if err != nil {
		return nil, err
	}
	area := data
	if !o.Force && !o.Adopt {
		if what, err := probe(data, dev); err != nil || what != "" {
			if err == nil {
				err = fmt.Errorf("%s %w: %s. --force discards it, --adopt (with --metadata PATH) keeps it", o.Local, ErrHoldsData, what)
			}
			return nil, err
		}
	}
	if o.Adopt && dev%4096 != 0 {
		return nil, &SizeError{fmt.Sprintf("%s has %d bytes, no multiple of 4096: its last %d bytes would leave the device; enlarge it first", o.Local, dev, dev%4096)}
	}
	if o.Adopt && o.Metadata == "" {
		return nil, &SizeError{"--adopt needs --metadata PATH: internal metadata would overwrite the end of the data"}
	}
	sb, err := o.super(dev, logical)
	if err != nil {
		return nil, err
	}
	l := extent.LayoutFor(sb.Geometry, int(sb.HotExtents))
	if o.Metadata == "" {
		return sb, format(area, sb, &l, o.Adopt)
	}
	area, undo, err := openMeta(o.Metadata, l.Size, o.Force)
	if err != nil {
		return nil, err
	}
	defer area.Close()
	if err := format(area, sb, &l, o.Adopt); err != nil {
		undo()
		return nil, err
	}
	return sb, nil
}

func (o *Options) super(dev int64, logical uint32) (*extent.Superblock, error) {
	sb := &extent.Superblock{Version: extent.SuperVersion, Name: o.Name, HotExtents: o.HotExtents, Created: time.Now().Unix(), Data: proto.DataConsistent}
	sb.ExtentSize, sb.Logical = o.ExtentSize, o.Logical
	if sb.ExtentSize == 0 {
		sb.ExtentSize = DefaultExtent
	}
	if sb.HotExtents == 0 {
		sb.HotExtents = DefaultHot
	}
	if sb.Logical == 0 {
		sb.Logical = 4096
		if o.Adopt && logical == 512 {
			sb.Logical = 512
		}
	}
	if sb.Logical < logical {
		return nil, &SizeError{fmt.Sprintf("%s has blocks of %d bytes; the resource can't have smaller ones (--logical %d)", o.Local, logical, sb.Logical)}
	}
	limit := proto.Offset(dev &^ 4095)
	if o.Metadata == "" {
		var err error
		if limit, err = extent.DataSizeFor(dev, sb.ExtentSize, int(sb.HotExtents)); err != nil {
			return nil, &SizeError{err.Error()}
		}
	}
	sb.DataSize = limit
	if o.MediaSize != 0 {
		sb.DataSize = proto.Offset(o.MediaSize)
		if o.MediaSize < 0 || o.MediaSize%proto.BlockSize != 0 || sb.DataSize > limit {
			return nil, &SizeError{fmt.Sprintf("media size %d: want a multiple of %d up to %d on %s", o.MediaSize, proto.BlockSize, limit, o.Local)}
		}
	}
	if err := sb.Geometry.Check(int(sb.HotExtents)); err != nil {
		return nil, &SizeError{err.Error()}
	}
	// The largest request touches so many extents, and one request may take a quarter of the map.
	if need := 4 * (uint32(proto.MaxRequest)/sb.ExtentSize + 1); sb.HotExtents < need {
		return nil, &SizeError{fmt.Sprintf("%d hot extents of %d bytes are too few for requests of %d bytes: want at least %d", sb.HotExtents, sb.ExtentSize, proto.MaxRequest, need)}
	}
	if _, err := rand.Read(sb.MetaID[:]); err != nil {
		return nil, err
	}
	if o.Adopt {
		// The only copy of this data: a generation of its own, so that no blank peer is taken for an equal.
		if _, err := rand.Read(sb.Current[:]); err != nil {
			return nil, err
		}
		sb.GenSince = sb.Created
	}
	return sb, nil
}

// openMeta opens the place of external metadata and makes a file long enough. undo makes it as blank again as it was: half
// made metadata would look like something worth keeping. What was not blank is left alone.
func openMeta(path string, need int64, force bool) (area *os.File, undo func(), err error) {
	undo = func() {}
	f, err := os.OpenFile(path, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	created := err == nil
	if errors.Is(err, os.ErrExist) {
		f, err = os.OpenFile(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("metadata: %w", err)
	}
	fail := func(err error) (*os.File, func(), error) { f.Close(); undo(); return nil, nil, err }
	st, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	// Nothing is changed while somebody works with it: metadata are found from a file's end.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == unix.EWOULDBLOCK {
		return fail(fmt.Errorf("metadata %s: %w by another hastd%s: set its role to init, or stop it, first", path, ErrInUse, holder(st)))
	}
	switch {
	case created:
		undo = func() { os.Remove(path) }
	case st.Mode().IsRegular() && st.Size() == 0:
		undo = func() { os.Truncate(path, 0) }
	}
	if st.Mode().IsRegular() {
		if st.Size() > 0 && !force {
			return fail(fmt.Errorf("metadata file %s %w (%d bytes): --force overwrites it", path, ErrHoldsData, st.Size()))
		}
		// Allocated in full: a full disk is found out now, not while running degraded.
		if err := unix.Fallocate(int(f.Fd()), 0, 0, need); err != nil && err != unix.EOPNOTSUPP {
			return fail(fmt.Errorf("metadata file %s: %d bytes: %w", path, need, err))
		}
		if err := f.Truncate(need); err != nil {
			return fail(fmt.Errorf("metadata file %s: %w", path, err))
		}
	} else if n, _, err := size(f); err != nil || n < need {
		return fail(fmt.Errorf("metadata device %s has %d bytes, %d are needed (%v)", path, n, need, err))
	} else if !force {
		if what, err := probe(f, n); err != nil || what != "" {
			if err == nil {
				err = fmt.Errorf("metadata device %s %w: %s. --force overwrites it", path, ErrHoldsData, what)
			}
			return fail(err)
		}
	}
	f.Close()
	if area, err = Open(path); err != nil {
		undo()
		return nil, nil, err
	}
	return area, undo, nil
}

// format writes pages, ring and superblocks, in this order: until the superblocks are there, nothing is.
func format(area *os.File, sb *extent.Superblock, l *extent.Layout, written bool) error {
	n, _, err := size(area)
	if err != nil {
		return err
	}
	base := l.AreaStart(n)
	put := func(b []byte, off int64) {
		if err == nil {
			err = pwrite(int(area.Fd()), b, base+off, false)
		}
	}
	none := align(extent.SuperArea)
	put(none, l.Super[0])
	if err == nil {
		err = fdatasync(area)
	}
	dirty, never := extent.NewBitmap(sb.Blocks()), extent.NewExtents(sb.Extents())
	if !written {
		never.SetAll()
	}
	buf := align(pagesAtOnce * extent.PageSize)
	for p, count := 0, extent.PageCount(sb.Geometry); p < count && err == nil; p += pagesAtOnce {
		k := min(pagesAtOnce, count-p)
		for i := range k {
			extent.EncodePage(buf[i*extent.PageSize:], p+i, sb.MetaID, sb.Geometry, dirty, never)
		}
		put(buf[:k*extent.PageSize], l.Pages+int64(p)*extent.PageSize)
	}
	slot := align(l.MapSlot)
	for i := range l.Map {
		// Consecutive transactions, so that every slot is valid, empty, and in its place.
		seq := uint64(extent.MapSlots + i)
		extent.EncodeMap(slot, sb.MetaID, seq, nil)
		put(slot, l.Map[extent.MapSlotOf(seq)])
	}
	if err == nil {
		err = fdatasync(area)
	}
	b := align(extent.SuperSize)
	for i := range l.Super {
		sb.Sequence++
		sb.Encode(b)
		put(b, l.Super[i])
	}
	if err == nil {
		err = fdatasync(area)
	}
	if err != nil {
		return fmt.Errorf("%s: writing metadata: %w", area.Name(), err)
	}
	return nil
}
