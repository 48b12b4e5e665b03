package extent

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"hast/proto"
)

func testSuper() Superblock {
	s := Superblock{
		Version:    SuperVersion,
		MetaID:     testMeta,
		Sequence:   41,
		Name:       "cvs",
		Resource:   proto.IDFromWords(3, 4),
		Geometry:   Geometry{DataSize: 100 << 30, ExtentSize: 2 << 20, Logical: 4096},
		HotExtents: 512,
		Created:    1_700_000_000,
		Current:    proto.IDFromWords(5, 6),
		Base:       proto.IDFromWords(7, 8),
		GenSince:   1_700_000_100,
		GenNode:    proto.MakeNode("hb1"),
		Data:       proto.DataUpToDate,
		Flags:      FlagPrimary | FlagAllDirty,
		Epoch:      proto.Epoch{Number: 9, Node: proto.MakeNode("hb2")},
		SyncID:     proto.IDFromWords(10, 11),
		SyncRole:   SyncSource,
		BootID:     proto.IDFromWords(12, 13),
		Mode:       proto.ModeMemsync,
		HeadTail:   Digest{1, 2, 3},
		Forced:     1_700_000_200,
	}
	for i := range s.History {
		s.History[i] = proto.IDFromWords(uint64(100+i), 0)
	}
	return s
}

func encode(s Superblock) []byte {
	dst := slices.Repeat([]byte{0xaa}, SuperSize)
	s.Encode(dst)
	return dst
}

func TestSuperblockRoundTrip(t *testing.T) {
	want := testSuper()
	slot := encode(want)
	golden(t, "superblock.hex", slot)
	got, err := DecodeSuperblock(slot)
	if err != nil || got != want {
		t.Fatalf("%v\n%v\nwant\n%v", err, got.String(), want.String())
	}
	blank := Superblock{Version: SuperVersion, MetaID: testMeta, Name: strings.Repeat("x", proto.MaxName), Data: proto.DataInconsistent,
		Geometry: want.Geometry, HotExtents: MinHot}
	if got, err := DecodeSuperblock(encode(blank)); err != nil || got != blank {
		t.Fatalf("%v\n%v", err, got.String())
	}
}

// Every byte of the first sector is guarded; the rest of the slot is not used.
func TestSuperblockDamage(t *testing.T) {
	good := encode(testSuper())
	for i := range sbSector {
		bad := slices.Clone(good)
		bad[i] ^= 0x40
		_, err := DecodeSuperblock(bad)
		want := ErrCorrupt
		if i < len(superMagic) {
			want = ErrNoMetadata
		}
		if !errors.Is(err, want) {
			t.Fatalf("byte %d damaged: %v", i, err)
		}
	}
	if _, err := DecodeSuperblock(good[:SuperSize-1]); !errors.Is(err, ErrNoMetadata) {
		t.Fatal(err)
	}
}

// What a valid checksum does not guard.
func TestSuperblockNonsense(t *testing.T) {
	for name, change := range map[string]func(s *Superblock){
		"no meta id":      func(s *Superblock) { s.MetaID = proto.ID{} },
		"sequence":        func(s *Superblock) { s.Sequence = maxSequence + 1 },
		"no name":         func(s *Superblock) { s.Name = "" },
		"zero in name":    func(s *Superblock) { s.Name = "a\x00b" },
		"data size":       func(s *Superblock) { s.DataSize = 4095 },
		"no data":         func(s *Superblock) { s.DataSize = 0 },
		"huge":            func(s *Superblock) { s.DataSize = 1 << 63 },
		"too many":        func(s *Superblock) { s.DataSize, s.ExtentSize = 1<<49, 64<<10 },
		"extent size":     func(s *Superblock) { s.ExtentSize = 3 << 20 },
		"extent too big":  func(s *Superblock) { s.ExtentSize = 128 << 20 },
		"logical":         func(s *Superblock) { s.Logical = 1024 },
		"hot":             func(s *Superblock) { s.HotExtents = 15 },
		"too hot":         func(s *Superblock) { s.HotExtents = MaxHot + 1 },
		"flags":           func(s *Superblock) { s.Flags |= flagsEnd },
		"data state":      func(s *Superblock) { s.Data = 0 },
		"mode":            func(s *Superblock) { s.Mode = 4 },
		"sync role":       func(s *Superblock) { s.SyncRole = 3 },
		"no sync session": func(s *Superblock) { s.SyncID = proto.ID{} },
		"no sync role":    func(s *Superblock) { s.SyncRole = SyncNone },
	} {
		s := testSuper()
		change(&s)
		if _, err := DecodeSuperblock(encode(s)); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	stray := encode(testSuper())
	stray[sbSector-1] = 1
	le32(stray[sbCRC:], superCRC(stray))
	if _, err := DecodeSuperblock(stray); !errors.Is(err, ErrCorrupt) {
		t.Error("a stray byte was believed")
	}
}

func withVersion(slot []byte, v uint32) []byte {
	slot = slices.Clone(slot)
	le32(slot[sbVersion:], v)
	le32(slot[sbCRC:], superCRC(slot))
	return slot
}

func TestPickSuperblock(t *testing.T) {
	at := func(seq uint64) Superblock { s := testSuper(); s.Sequence = seq; return s }
	other := at(9)
	other.MetaID = otherMeta
	sameSeq := at(5)
	sameSeq.Data = proto.DataOutdated
	corrupt := encode(at(9))
	corrupt[100] ^= 1
	blank := make([]byte, SuperSize)
	newVersion := withVersion(encode(at(9)), 2)
	for _, c := range []struct {
		name  string
		a, b  []byte
		slot  int
		seq   uint64
		doubt bool
		err   error
		says  string
	}{
		{"newer first", encode(at(6)), encode(at(5)), 0, 6, false, nil, ""},
		{"newer second", encode(at(6)), encode(at(7)), 1, 7, false, nil, ""},
		{"equal", encode(at(6)), encode(at(6)), 0, 6, false, nil, ""},
		{"torn newest", corrupt, encode(at(8)), 1, 8, true, nil, "slot 0 is unusable"},
		{"torn second", encode(at(8)), corrupt, 0, 8, true, nil, "slot 1 is unusable"},
		{"other blank", encode(at(8)), blank, 0, 8, true, nil, "slot 1 is unusable"},
		{"both blank", blank, blank, 0, 0, false, ErrNoMetadata, "hastctl create"},
		{"both corrupt", corrupt, corrupt, 0, 0, false, ErrCorrupt, "slot 0: damaged metadata"},
		{"corrupt and blank", corrupt, blank, 0, 0, false, ErrCorrupt, "slot 1: no HAST"},
		{"version and older", newVersion, encode(at(8)), 0, 0, false, ErrVersion, "slot 1: valid"},
		{"version and blank", blank, newVersion, 0, 0, false, ErrVersion, "knows 1"},
		{"two creates", encode(at(8)), encode(other), 0, 0, false, ErrCorrupt, "two different creations"},
		{"same sequence", encode(at(5)), encode(sameSeq), 0, 0, false, ErrCorrupt, "same sequence"},
		{"short", nil, nil, 0, 0, false, ErrNoMetadata, "hastctl create"},
	} {
		sb, slot, err := PickSuperblock(c.a, c.b)
		if !errors.Is(err, c.err) || slot != c.slot || sb.Sequence != c.seq || (sb.Doubt != "") != c.doubt {
			t.Errorf("%s: slot %d, sequence %d, doubt %q, %v", c.name, slot, sb.Sequence, sb.Doubt, err)
			continue
		}
		said := sb.Doubt
		if err != nil {
			said = err.Error()
		}
		if !strings.Contains(said, c.says) {
			t.Errorf("%s: says %q, want %q in it", c.name, said, c.says)
		}
	}
}

func TestSuperblockText(t *testing.T) {
	s := testSuper()
	s.Flags |= FlagClean
	s.Doubt = "why"
	text := s.String()
	for _, want := range []string{"name:        cvs\n", "flags:       primary,clean,all-dirty\n", "epoch:       9/hb2\n",
		"since:       2023-11-14T22:15:00Z by hb1\n", "sync:        source of 0a00", "headtail:    010203", "doubt:       why\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	raw, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"data_size":107374182400`, `"data":"uptodate"`, `"flags":"primary,clean,all-dirty"`, `"mode":"memsync"`, `"gen_node":"hb1"`} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("no %s in %s", want, raw)
		}
	}
	blank := Superblock{}
	if raw, err = json.Marshal(blank); err != nil || strings.Contains(string(raw), `"mode"`) {
		t.Error(string(raw), err)
	}
	if len(flagNames) > 32 || Flags(1)<<len(flagNames) != flagsEnd {
		t.Error("a flag has no name")
	}
}

func FuzzDecodeSuperblock(f *testing.F) {
	f.Add(encode(testSuper()), true)
	f.Add([]byte(superMagic), false)
	f.Fuzz(func(t *testing.T, src []byte, sum bool) {
		src = slices.Clone(src)
		if sum && len(src) >= sbSector {
			le32(src[sbCRC:], superCRC(src))
		}
		s, err := DecodeSuperblock(src)
		if err != nil {
			return
		}
		if again := encode(s); !slices.Equal(again[:sbSector], src[:sbSector]) {
			t.Fatal("accepted, and not what would be written")
		}
		_ = s.String()
		LayoutFor(s.Geometry, int(s.HotExtents))
	})
}
