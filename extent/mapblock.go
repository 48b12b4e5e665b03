package extent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	"hast/proto"
)

// A slot of the activity map's ring is a row of 512-byte sectors. Each certifies
// itself, because a disk writes a sector as a whole but not a row of them: after
// a crash some are new and some old, all are valid, and that can be told from damage.
const (
	msSector  = 512
	msMagic   = 0 // u16
	msIndex   = 2 // u8, of the sector in its slot
	msCount   = 3 // u8, sectors in the slot
	msCRC     = 4 // u32, crc32c of the metadata id and the sector without this field
	msSeq     = 8 // u64
	msEntries = 16
	msPer     = (msSector - msEntries) / 4 // entries per sector

	mapMagic  = 0x4d48 // "HM"
	noExtent  = ^uint32(0)
	maxSector = 255
)

// MapSlotSize returns the size in bytes of a slot for capacity extents, a multiple of 4096.
func MapSlotSize(capacity int) int {
	sectors := (capacity + msPer - 1) / msPer
	return (sectors*msSector + 4095) &^ 4095
}

// EncodeMap writes the list as transaction seq to dst, a whole slot
// (MapSlotSize bytes); list fits. uuid is the superblock's MetaID. It does not allocate.
func EncodeMap(dst []byte, uuid proto.ID, seq uint64, list []Extent) {
	sectors := len(dst) / msSector
	if len(dst)%4096 != 0 || sectors < 1 || sectors > maxSector || len(list) > sectors*msPer {
		panic(fmt.Sprintf("extent: %d extents in a map slot of %d bytes", len(list), len(dst)))
	}
	le, seed := binary.LittleEndian, idCRC(uuid)
	for i := range sectors {
		s := dst[i*msSector : (i+1)*msSector]
		le.PutUint16(s[msMagic:], mapMagic)
		s[msIndex], s[msCount] = uint8(i), uint8(sectors)
		le.PutUint64(s[msSeq:], seq)
		for at := msEntries; at < msSector; at += 4 {
			if len(list) > 0 {
				le.PutUint32(s[at:], uint32(list[0]))
				list = list[1:]
			} else {
				le.PutUint32(s[at:], noExtent)
			}
		}
		le.PutUint32(s[msCRC:], sectorCRC(s, seed))
	}
}

// sectorCRC returns the checksum of a sector; seed is idCRC.
func sectorCRC(s []byte, seed uint32) uint32 {
	crc := crc32.Update(seed, castagnoli, s[:msCRC])
	return crc32.Update(crc, castagnoli, s[msSeq:msSector])
}

// idCRC returns the checksum of an id, on which sectorCRC builds. crc32.Update would move the id to the heap.
func idCRC(id proto.ID) uint32 {
	crc := ^uint32(0)
	for _, b := range id {
		crc = castagnoli[byte(crc)^b] ^ crc>>8
	}
	return ^crc
}

// MapSlotOf returns the slot of the ring into which transaction seq goes.
func MapSlotOf(seq uint64) int { return int(seq % MapSlots) }

// NextMapSeq returns the number of the next transaction: after last, the last one
// tried, and not in the slot of good, the last one that succeeded, which must stay
// readable until the next has succeeded.
func NextMapSeq(last, good uint64) uint64 {
	next := last + 1
	if MapSlotOf(next) == MapSlotOf(good) {
		next++
	}
	return next
}

// DecodeMapRing reads the ring: the newest complete slot wins. Torn slots (valid
// sectors of more than one transaction) are passed over: nobody relied on them.
// A slot with a damaged sector makes everything active (all = true, list nil, and err says which)
// unless one of its valid sectors is older than the winner: then the slot never was
// a complete newer one. So the list is never shorter than what was stable.
//
// seq is where to go on: at least every number in use, and in the winner's slot;
// use it as both arguments of the first NextMapSeq. uuid is the superblock's MetaID; sectors
// written under another are damaged.
func DecodeMapRing(slots [][]byte, uuid proto.ID, g Geometry, capacity int) (list []Extent, seq uint64, all bool, err error) {
	states := make([]slotState, len(slots))
	winner, highest := -1, uint64(0)
	for i, slot := range slots {
		states[i] = readSlot(slot, idCRC(uuid), g, capacity)
		s := &states[i]
		highest = max(highest, s.newest)
		if s.complete() && (winner < 0 || s.newest > states[winner].newest) {
			winner = i
		}
	}
	seq = highest
	if winner < 0 {
		err = errors.New("activity map: no slot is complete: every extent counts as active")
	} else {
		seq = alignSeq(highest, winner)
		err = doubts(slots, states, winner)
	}
	if err != nil {
		return nil, seq, true, err
	}
	return states[winner].list, seq, false, nil
}

// alignSeq returns the first number at or after seq that belongs into the slot.
func alignSeq(seq uint64, slot int) uint64 {
	for MapSlotOf(seq) != slot {
		seq++
	}
	return seq
}

// doubts says whether any slot but the winner may have been a newer complete one.
func doubts(slots [][]byte, states []slotState, winner int) error {
	w := &states[winner]
	for i := range states {
		s := &states[i]
		switch {
		case i == winner:
		case s.complete() && s.newest == w.newest && !slices.Equal(slots[i], slots[winner]):
			return fmt.Errorf("activity map: slots %d and %d differ and have the same sequence: every extent counts as active", i, winner)
		case s.damage == nil:
			// Older, or torn: the slot of the last success is never the next to be written (NextMapSeq).
		case s.valid && s.oldest < w.newest:
			// A transaction newer than the winner's never covered all of this slot.
		default:
			return fmt.Errorf("activity map: slot %d: %w: every extent counts as active", i, s.damage)
		}
	}
	return nil
}

// slotState is what the sectors of one slot say.
type slotState struct {
	valid          bool // at least one sector is valid
	oldest, newest uint64
	damage         error // of the first damaged sector
	list           []Extent
}

func (s *slotState) complete() bool { return s.damage == nil && s.valid && s.oldest == s.newest }

func readSlot(slot []byte, seed uint32, g Geometry, capacity int) (s slotState) {
	if len(slot) != MapSlotSize(capacity) {
		s.damage = fmt.Errorf("%w: %d bytes instead of %d", ErrCorrupt, len(slot), MapSlotSize(capacity))
		return s
	}
	sectors := len(slot) / msSector
	for i := range sectors {
		sector := slot[i*msSector : (i+1)*msSector]
		seq, err := checkSector(sector, seed, i, sectors)
		if err != nil {
			if s.damage == nil {
				s.damage = fmt.Errorf("%w: sector %d: %w", ErrCorrupt, i, err)
			}
			continue
		}
		if !s.valid {
			s.valid, s.oldest, s.newest = true, seq, seq
		}
		s.oldest, s.newest = min(s.oldest, seq), max(s.newest, seq)
	}
	if s.complete() {
		s.list, s.damage = slotList(slot, g, capacity)
	}
	return s
}

func checkSector(s []byte, seed uint32, index, count int) (seq uint64, err error) {
	le := binary.LittleEndian
	switch {
	case le.Uint16(s[msMagic:]) != mapMagic:
		return 0, errors.New("no magic")
	case le.Uint32(s[msCRC:]) != sectorCRC(s, seed):
		return 0, errors.New("wrong checksum, or left by an earlier create")
	case int(s[msIndex]) != index || int(s[msCount]) != count:
		return 0, fmt.Errorf("it is sector %d of %d instead of %d of %d", s[msIndex], s[msCount], index, count)
	case le.Uint64(s[msSeq:]) > maxSequence:
		return 0, fmt.Errorf("sequence %d", le.Uint64(s[msSeq:]))
	}
	return le.Uint64(s[msSeq:]), nil
}

// slotList reads the entries of a complete slot.
func slotList(slot []byte, g Geometry, capacity int) ([]Extent, error) {
	list := make([]Extent, 0, capacity)
	ended := false
	for at := 0; at < len(slot); at += 4 {
		if at%msSector == 0 {
			at += msEntries
		}
		v := binary.LittleEndian.Uint32(slot[at:])
		switch {
		case v == noExtent:
			ended = true
			continue
		case ended || Extent(v) >= g.Extents() || len(list) == capacity:
			return nil, fmt.Errorf("%w: entry %d is extent %d of %d", ErrCorrupt, len(list), v, g.Extents())
		}
		list = append(list, Extent(v))
	}
	sorted := slices.Clone(list)
	slices.Sort(sorted)
	if len(slices.Compact(sorted)) != len(list) {
		return nil, fmt.Errorf("%w: an extent twice", ErrCorrupt)
	}
	return list, nil
}
