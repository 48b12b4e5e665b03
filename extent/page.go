package extent

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"hast/proto"
)

// PageSize is the size in bytes of a page of the dirty bitmap on disk.
const PageSize = 4096

// A page is a header, one never-written bit for each of its extents, and their
// dirty bits: as many whole extents as fit. An extent never straddles pages,
// because a page is written for the sake of an extent that leaves the activity
// map, and one transaction must do.
const (
	pgMagic  = 0  // u32
	pgCRC    = 4  // u32, crc32c of bytes 0..3 and 8..4095
	pgMetaID = 8  // 16
	pgNumber = 24 // u64
	pgFirst  = 32 // u32, first extent
	pgCount  = 36 // u32, extents in this page
	pgNever  = 40 // never-written bits of as many extents as a page can have, padded to 8 bytes; then dirty bits
	pgRoom   = PageSize - pgNever

	pageMagic = 0x47504148 // "HAPG"
)

// pageExtents returns how many extents a full page describes, at least 1.
func pageExtents(g Geometry) int {
	perExtent := int(g.PerExtent()) / 8 // bytes of dirty bits
	n := pgRoom*64/(64*perExtent+8) + 8 // a little above what fits beside its never-written bits
	for n > 1 && neverBytes(n)+n*perExtent > pgRoom {
		n--
	}
	return n
}

// neverBytes returns the size of the never-written bits of n extents.
func neverBytes(n int) int { return (n + 63) / 64 * 8 }

// bitsAt returns where the dirty bits begin, in every page of g.
func bitsAt(g Geometry) int { return pgNever + neverBytes(pageExtents(g)) }

// PageCount returns the number of pages for g.
func PageCount(g Geometry) int {
	per := uint64(pageExtents(g))
	return int((uint64(g.Extents()) + per - 1) / per)
}

// PageOf returns the page that describes e.
func PageOf(g Geometry, e Extent) (page int) { return int(e) / pageExtents(g) }

// PageExtents returns the extents that a page describes; the last page may have fewer.
func PageExtents(g Geometry, page int) (first Extent, n int) {
	per := pageExtents(g)
	first = Extent(page * per)
	return first, min(per, int(g.Extents()-first))
}

// pageBlocks returns the blocks that a page describes.
func pageBlocks(g Geometry, page int) (first, n Block) {
	fe, ne := PageExtents(g, page)
	first = Block(fe) * g.PerExtent()
	return first, min(Block(ne)*g.PerExtent(), g.Blocks()-first)
}

// EncodePage writes a page to the PageSize bytes of dst: the dirty and
// never-written bits of its extents. uuid is the superblock's MetaID. It does not allocate.
func EncodePage(dst []byte, page int, uuid proto.ID, g Geometry, dirty *Bitmap, never *Extents) {
	dst = dst[:PageSize]
	clear(dst)
	fe, ne := PageExtents(g, page)
	le := binary.LittleEndian
	le.PutUint32(dst[pgMagic:], pageMagic)
	copy(dst[pgMetaID:], uuid[:])
	le.PutUint64(dst[pgNumber:], uint64(page))
	le.PutUint32(dst[pgFirst:], uint32(fe))
	le.PutUint32(dst[pgCount:], uint32(ne))
	for i := 0; i < ne; i++ {
		if never.Test(fe + Extent(i)) {
			dst[pgNever+i/8] |= 1 << (i % 8)
		}
	}
	first, n := pageBlocks(g, page)
	if dirty.Any(first, n) {
		putBits(dst[bitsAt(g):], dirty, first, n)
	}
	le.PutUint32(dst[pgCRC:], pageCRC(dst))
}

// putBits writes the bits of the blocks [first, first+n) to dst, which is zero
// and has room for them up to a multiple of 16 (extents have a multiple of 16 blocks).
func putBits(dst []byte, dirty *Bitmap, first, n Block) {
	i := Block(0)
	for ; i+64 <= n; i += 64 {
		binary.LittleEndian.PutUint64(dst[i/8:], dirty.load64(first+i))
	}
	for ; i < n; i += 16 {
		binary.LittleEndian.PutUint16(dst[i/8:], uint16(dirty.load64(first+i)&(1<<min(16, n-i)-1)))
	}
}

// DecodePage reads a page, which may be anything, and puts its never-written bits
// into never and adds its dirty bits to dirty. After an error both are as they
// were, and the caller calls MarkPage (rule 3).
func DecodePage(src []byte, page int, uuid proto.ID, g Geometry, dirty *Bitmap, never *Extents) error {
	fe, ne := PageExtents(g, page)
	if err := checkPage(src, page, uuid, g); err != nil {
		return fmt.Errorf("bitmap page %d: %w", page, err)
	}
	first, n := pageBlocks(g, page)
	body := src[bitsAt(g):PageSize]
	for i := n; i < Block(len(body))*8; i++ {
		if body[i/8]>>(i%8)&1 != 0 {
			return fmt.Errorf("bitmap page %d: %w: a bit behind the last block", page, ErrCorrupt)
		}
	}
	for i := 0; i < ne; i++ {
		if src[pgNever+i/8]>>(i%8)&1 != 0 {
			never.Set(fe + Extent(i))
		} else {
			never.Clear(fe + Extent(i))
		}
	}
	var word [8]byte
	for i := Block(0); i < n; i += 64 {
		clear(word[:])
		copy(word[:], body[i/8:min(i/8+8, Block(len(body)))])
		dirty.or64(first+i, binary.LittleEndian.Uint64(word[:]))
	}
	return nil
}

func checkPage(src []byte, page int, uuid proto.ID, g Geometry) error {
	fe, ne := PageExtents(g, page)
	le := binary.LittleEndian
	switch {
	case len(src) != PageSize:
		return fmt.Errorf("%w: %d bytes", ErrCorrupt, len(src))
	case le.Uint32(src[pgMagic:]) != pageMagic:
		return fmt.Errorf("%w: no magic", ErrCorrupt)
	case le.Uint32(src[pgCRC:]) != pageCRC(src):
		return fmt.Errorf("%w: checksum", ErrCorrupt)
	case proto.ID(src[pgMetaID:]) != uuid:
		return fmt.Errorf("%w: left by an earlier create", ErrCorrupt)
	case le.Uint64(src[pgNumber:]) != uint64(page):
		return fmt.Errorf("%w: this is page %d", ErrCorrupt, le.Uint64(src[pgNumber:]))
	case le.Uint32(src[pgFirst:]) != uint32(fe) || le.Uint32(src[pgCount:]) != uint32(ne):
		return fmt.Errorf("%w: %d extents from %d instead of %d from %d", ErrCorrupt,
			le.Uint32(src[pgCount:]), le.Uint32(src[pgFirst:]), ne, fe)
	}
	for i := ne; i < (bitsAt(g)-pgNever)*8; i++ {
		if src[pgNever+i/8]>>(i%8)&1 != 0 {
			return fmt.Errorf("%w: a bit behind the last extent", ErrCorrupt)
		}
	}
	return nil
}

func pageCRC(page []byte) uint32 {
	crc := crc32.Update(0, castagnoli, page[:pgCRC])
	return crc32.Update(crc, castagnoli, page[pgMetaID:PageSize])
}

// MarkPage is what an unreadable page reads as: every block dirty, nothing never-written (rule 3).
func MarkPage(page int, g Geometry, dirty *Bitmap, never *Extents) {
	dirty.Set(pageBlocks(g, page))
	fe, ne := PageExtents(g, page)
	for i := 0; i < ne; i++ {
		never.Clear(fe + Extent(i))
	}
}
