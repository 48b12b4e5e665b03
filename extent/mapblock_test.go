package extent

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"slices"
	"testing"

	"hast/proto"
	"pgregory.net/rapid"
)

var (
	testMeta  = proto.IDFromWords(0x1122334455667788, 0x99aabbccddeeff00)
	otherMeta = proto.IDFromWords(1, 2)
)

func freshRing(capacity int, uuid proto.ID) (slots [][]byte) {
	for i := range MapSlots {
		slot := make([]byte, MapSlotSize(capacity))
		EncodeMap(slot, uuid, uint64(i), nil)
		slots = append(slots, slot)
	}
	return slots
}

func TestMapRingFresh(t *testing.T) {
	for _, same := range []bool{false, true} {
		slots := freshRing(512, testMeta)
		if same {
			for _, slot := range slots {
				EncodeMap(slot, testMeta, 5, nil)
			}
		}
		list, seq, all, err := DecodeMapRing(slots, testMeta, mapGeometry, 512)
		if len(list) != 0 || all || err != nil {
			t.Fatal(list, seq, all, err)
		}
	}
	_, _, all, err := DecodeMapRing(freshRing(512, otherMeta), testMeta, mapGeometry, 512)
	if !all || err == nil {
		t.Fatal("the ring of an earlier create was believed")
	}
}

func TestMapSlotSize(t *testing.T) {
	for capacity, want := range map[int]int{16: 4096, 512: 4096, MaxHot: 4096, MaxHot + 1: 8192} {
		if got := MapSlotSize(capacity); got != want {
			t.Errorf("MapSlotSize(%d) = %d, want %d", capacity, got, want)
		}
	}
}

// What an honest writer never leaves: everything is active.
func TestMapRingContradictions(t *testing.T) {
	tie := freshRing(16, testMeta)
	EncodeMap(tie[0], testMeta, 9, []Extent{1})
	EncodeMap(tie[1], testMeta, 9, []Extent{2})
	twice := freshRing(16, testMeta)
	EncodeMap(twice[0], testMeta, 8, []Extent{1, 1})
	outside := freshRing(16, testMeta)
	EncodeMap(outside[0], testMeta, 8, []Extent{100})
	many := freshRing(16, testMeta)
	EncodeMap(many[0], testMeta, 8, []Extent{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16})
	for name, slots := range map[string][][]byte{"tie": tie, "twice": twice, "outside": outside, "many": many,
		"short": {tie[0][:512]}, "none": nil} {
		if list, _, all, err := DecodeMapRing(slots, testMeta, mapGeometry, 16); !all || err == nil || list != nil {
			t.Errorf("%s: %v, %t, %v", name, list, all, err)
		}
	}
}

// ringWorld writes transactions as the daemon does and knows which of them counts.
type ringWorld struct {
	slots      [][]byte
	last, good uint64
	landed     uint64     // highest of which a sector was written
	committed  []Extent   // of the last that succeeded
	maybe      [][]Extent // prepared after it, failed or cut off
	damaged    bool
	wrote      map[int]bool // slots that were the target since the last good one
}

func (w *ringWorld) commit(t *rapid.T, list []Extent, outcome int) {
	w.last = NextMapSeq(w.last, w.good)
	slot := w.slots[MapSlotOf(w.last)]
	fresh := make([]byte, len(slot))
	EncodeMap(fresh, testMeta, w.last, list)
	if outcome == 0 {
		copy(slot, fresh)
		w.landed = w.last
		w.good, w.committed, w.maybe = w.last, list, nil
		return
	}
	w.maybe = append(w.maybe, list)
	for at := 0; at < len(slot); at += msSector {
		if rapid.Bool().Draw(t, "lands") {
			copy(slot[at:at+msSector], fresh[at:])
			w.landed = w.last
		}
	}
}

// restart reads the ring, checks what it says, and goes on from there.
func (w *ringWorld) restart(t *rapid.T) (stop bool) {
	list, seq, all, err := DecodeMapRing(w.slots, testMeta, mapGeometry, 512)
	if all {
		if err == nil || list != nil {
			t.Fatal("all, and no reason for it")
		}
		if !w.damaged {
			t.Fatalf("undamaged, and not believed: %v", err)
		}
		return true
	}
	if !w.damaged && seq < w.landed {
		t.Fatalf("goes on at %d, %d is on disk", seq, w.landed)
	}
	if !slices.ContainsFunc(append(w.maybe, w.committed), func(l []Extent) bool { return slices.Equal(l, list) }) {
		t.Fatalf("read %v; committed %v, perhaps %v", list, w.committed, w.maybe)
	}
	w.last, w.good, w.committed, w.maybe = seq, seq, list, nil
	return false
}

func drawList(t *rapid.T) []Extent {
	n := rapid.OneOf(rapid.IntRange(0, 5), rapid.IntRange(80, 100)).Draw(t, "n")
	return rapid.SliceOfNDistinct(rapid.Custom(func(t *rapid.T) Extent { return Extent(rapid.IntRange(0, 99).Draw(t, "e")) }), n, n, rapid.ID).Draw(t, "list")
}

// Transactions succeed, fail half-way or are cut off by a crash, sectors land or
// not, and at the end some are damaged: what is read is the last committed list
// or a later prepared one, or everything.
func TestMapRingTornAndDamaged(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &ringWorld{slots: freshRing(512, testMeta), last: MapSlots - 1, good: MapSlots - 1}
		for range rapid.IntRange(0, 12).Draw(t, "steps") {
			w.commit(t, drawList(t), rapid.IntRange(0, 2).Draw(t, "outcome"))
			if rapid.IntRange(0, 2).Draw(t, "crash") == 0 {
				w.restart(t)
			}
		}
		for range rapid.IntRange(0, 3).Draw(t, "damage") {
			w.damaged = true
			slot := w.slots[rapid.IntRange(0, MapSlots-1).Draw(t, "slot")]
			at := rapid.IntRange(0, len(slot)/msSector-1).Draw(t, "sector") * msSector
			switch rapid.IntRange(0, 2).Draw(t, "how") {
			case 0:
				clear(slot[at : at+msSector])
			case 1:
				slot[at+rapid.IntRange(0, msSector-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
			case 2: // an earlier create
				foreign := make([]byte, len(slot))
				EncodeMap(foreign, otherMeta, 1<<40, []Extent{1})
				copy(slot[at:at+msSector], foreign[at:])
			}
		}
		w.restart(t)
	})
}

// Every single sector of every slot, torn to the newest transaction or damaged,
// after each of the first transactions of a ring's life.
func TestMapRingEverySector(t *testing.T) {
	slots := freshRing(512, testMeta)
	last := uint64(MapSlots - 1)
	for round := range Extent(9) {
		last = NextMapSeq(last, last)
		list := []Extent{round, round + 20, round + 40}
		EncodeMap(slots[MapSlotOf(last)], testMeta, last, list)
		for s := range slots {
			for at := 0; at < len(slots[s]); at += msSector {
				sector := slots[s][at : at+msSector]
				keep := slices.Clone(sector)
				for i := range sector {
					sector[i] ^= 0xff
				}
				got, _, all, _ := DecodeMapRing(slots, testMeta, mapGeometry, 512)
				if !all && !slices.Equal(got, list) {
					t.Fatalf("round %d, slot %d, byte %d damaged: %v", round, s, at, got)
				}
				if s == MapSlotOf(last) && !all {
					t.Fatalf("round %d: the newest slot is damaged at byte %d, and nobody minds", round, at)
				}
				fresh := make([]byte, len(slots[s]))
				next := NextMapSeq(last, last)
				EncodeMap(fresh, testMeta, next, nil)
				copy(sector, keep)
				if s == MapSlotOf(next) {
					copy(sector, fresh[at:])
					got, seq, all, err := DecodeMapRing(slots, testMeta, mapGeometry, 512)
					if all || !slices.Equal(got, list) || seq < next || MapSlotOf(seq) != MapSlotOf(last) {
						t.Fatalf("round %d, slot %d torn at byte %d: %v, %d, %t, %v", round, s, at, got, seq, all, err)
					}
					copy(sector, keep)
				}
			}
		}
	}
}

// Beside a damaged sector, one valid sector older than the winner proves that the slot was not the newest.
func TestMapRingDamageInAnOldSlot(t *testing.T) {
	slots := freshRing(16, testMeta)
	EncodeMap(slots[0], testMeta, 4, []Extent{7})
	slots[2][700] ^= 1
	if list, _, all, err := DecodeMapRing(slots, testMeta, mapGeometry, 16); all || !slices.Equal(list, []Extent{7}) {
		t.Fatal(list, all, err)
	}
	clear(slots[2])
	if _, _, all, err := DecodeMapRing(slots, testMeta, mapGeometry, 16); !all || err == nil {
		t.Fatal("a slot without a valid sector may have been the newest")
	}
}

func TestNextMapSeqSparesTheGoodSlot(t *testing.T) {
	for good := uint64(0); good < 8; good++ {
		last := good
		for range 10 { // failures
			next := NextMapSeq(last, good)
			if next <= last || MapSlotOf(next) == MapSlotOf(good) {
				t.Fatalf("after %d, good %d: %d", last, good, next)
			}
			last = next
		}
	}
}

func TestEncodeMapGolden(t *testing.T) {
	dst := bytes.Repeat([]byte{0xaa}, 4096)
	EncodeMap(dst, testMeta, 0x0102030405060708, []Extent{0x0a0b0c0d, 3})
	golden(t, "mapslot.hex", dst)
	if binary.LittleEndian.Uint32(dst[16:]) != 0x0a0b0c0d {
		t.Fatal("entries begin at byte 16")
	}
}

func FuzzDecodeMapRing(f *testing.F) {
	slots := freshRing(16, testMeta)
	EncodeMap(slots[1], testMeta, 5, []Extent{1, 2})
	f.Add(slots[1][:600], uint16(0))
	f.Add([]byte{0xff}, uint16(9000))
	f.Fuzz(func(t *testing.T, patch []byte, at uint16) {
		ring := bytes.Join(slots, nil)
		copy(ring[int(at)%len(ring):], patch)
		var cut [][]byte
		for i := range MapSlots {
			cut = append(cut, ring[i*4096:(i+1)*4096])
		}
		list, seq, all, err := DecodeMapRing(cut, testMeta, mapGeometry, 16)
		if all != (err != nil) || all && list != nil || len(list) > 16 || seq > maxSequence+MapSlots {
			t.Fatal(list, seq, all, err)
		}
	})
}

func TestIDCRC(t *testing.T) {
	if got, want := idCRC(testMeta), crc32.Update(0, castagnoli, testMeta[:]); got != want {
		t.Fatalf("%08x, want %08x", got, want)
	}
}
