package extent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"hast/proto"
)

// SuperSize is the size in bytes of a superblock slot. The content fits its
// first 512 bytes, which every disk writes as a whole; the rest is zero.
const SuperSize = 4096

// SuperVersion is the on-disk version of everything in the metadata area.
const SuperVersion = 1

// HistoryLen is the number of former generations that a superblock remembers.
const HistoryLen = 8

// superMagic begins every superblock, of all versions.
const superMagic = "HASTLNX\x00"

// Why a superblock slot is not usable. Match with errors.Is.
var (
	// ErrNoMetadata: the slot does not begin with HAST's magic.
	ErrNoMetadata = errors.New("no HAST metadata")
	// ErrVersion: another program version wrote it.
	ErrVersion = errors.New("unknown metadata version")
	// ErrCorrupt: it is HAST's, but its checksum or content is wrong.
	ErrCorrupt = errors.New("damaged metadata")
)

// Flags are the yes-or-no facts of a superblock.
type Flags uint32

// The flags.
const (
	// FlagPrimary: promoted and not cleanly demoted; found at start it means "crashed as primary".
	FlagPrimary Flags = 1 << iota
	// FlagServed: has served I/O in this term.
	FlagServed
	// FlagClean: stopped in an orderly way; HeadTail is valid.
	FlagClean
	// FlagFlushFailed: a flush failed; the copy is not to be trusted until attach or a sync (rule 11).
	FlagFlushFailed
	// FlagFrozen: I/O waits for a proof about the peer, across restarts.
	FlagFrozen
	// FlagConnected: the peer was connected when this was written.
	FlagConnected
	// FlagPeerOff: the peer was proven fenced or outdated in this generation (rule 8 b).
	FlagPeerOff
	// FlagStandalone: an operator chose to go on without the peer.
	FlagStandalone
	// FlagAllDirty: every block counts as dirty, whatever the bitmap says.
	FlagAllDirty
	// FlagIntact: a secondary stopped in an orderly way while it was in sync: it has on stable storage everything that was
	// acknowledged on the strength of its answers. Gone with the next session, or the first request served.
	FlagIntact
	// FlagCrashed: a term as primary that served I/O ended with a crash, and no peer has been synced with since.
	FlagCrashed
	// FlagRebooted: and the kernel went down with it, so that what its disk had not flushed may be gone.
	FlagRebooted
	// FlagMerged: the marks were taken over from the peer in a handshake, and no session has begun since. They are no sign that this
	// copy has anything which the peer lacks.
	FlagMerged

	flagsEnd
)

var flagNames = [...]string{"primary", "served", "clean", "flush-failed", "frozen", "connected", "peer-off", "standalone", "all-dirty", "intact", "crashed", "rebooted", "merged"}

// String returns the names of the flags, separated by commas, or "none".
func (f Flags) String() string {
	var names []string
	for i, name := range flagNames {
		if f>>i&1 != 0 {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ",")
}

// MarshalText lets flags appear as words in JSON.
func (f Flags) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// The role of this node in the sync session SyncID.
const (
	SyncNone   uint8 = 0
	SyncSource uint8 = 1
	SyncTarget uint8 = 2
)

// Digest is a SHA-256 digest.
type Digest [32]byte

// String returns 64 hexadecimal digits.
func (d Digest) String() string { return fmt.Sprintf("%x", d[:]) }

// MarshalText writes the hexadecimal form.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Superblock is what a node knows about its copy, stable on its own disk. It is a plain value.
type Superblock struct {
	Version  uint32   `json:"version"`
	MetaID   proto.ID `json:"meta_id"` // random at create; ties map slots and pages to this superblock
	Sequence uint64   `json:"sequence"`
	Name     string   `json:"name"`     // of the resource, 1 ... proto.MaxName bytes
	Resource proto.ID `json:"resource"` // zero until the first connection or the first write
	Geometry
	HotExtents uint32               `json:"hot_extents"`
	Created    int64                `json:"created"` // unix seconds
	Current    proto.ID             `json:"current"` // the generation of the data
	Base       proto.ID             `json:"base"`    // the generation at which the dirty bitmap began; zero: none
	History    [HistoryLen]proto.ID `json:"history"` // former generations, newest first
	GenSince   int64                `json:"gen_since"`
	GenNode    proto.Node           `json:"gen_node"` // who began Current
	Data       proto.DataState      `json:"data"`
	Flags      Flags                `json:"flags"`
	Epoch      proto.Epoch          `json:"epoch"`
	SyncID     proto.ID             `json:"sync_id"` // unfinished sync session; zero: none
	SyncRole   uint8                `json:"sync_role"`
	BootID     proto.ID             `json:"boot_id"`        // the kernel's boot id at promotion
	Mode       proto.Mode           `json:"mode,omitempty"` // at promotion or its last change; 0 before
	HeadTail   Digest               `json:"head_tail"`
	Forced     int64                `json:"forced"` // unix time of the last forced promotion; 0: none

	// Doubt is not stored. PickSuperblock sets it where the other slot is damaged: it may have held a newer
	// state, so whoever loads this must trust neither the marks nor the data state (FlagAllDirty, not promoted unasked).
	Doubt string `json:"doubt,omitempty"`
}

// Byte offsets inside a slot; docs/protocol/disk.md is the reference.
const (
	sbMagic    = 0   // 8
	sbVersion  = 8   // u32
	sbCRC      = 12  // u32, crc32c of bytes 0..11 and 16..511
	sbSequence = 16  // u64
	sbMetaID   = 24  // 16
	sbResource = 40  // 16
	sbCurrent  = 56  // 16
	sbBase     = 72  // 16
	sbHistory  = 88  // 8 x 16
	sbSyncID   = 216 // 16
	sbBootID   = 232 // 16
	sbDataSize = 248 // u64
	sbExtent   = 256 // u32
	sbLogical  = 260 // u32
	sbHot      = 264 // u32
	sbFlags    = 268 // u32
	sbCreated  = 272 // i64
	sbGenSince = 280 // i64
	sbForced   = 288 // i64
	sbEpoch    = 296 // u64
	sbEpochBy  = 304 // 32
	sbGenNode  = 336 // 32
	sbHeadTail = 368 // 32
	sbName     = 400 // 64, zero padded
	sbData     = 464 // u8
	sbMode     = 465 // u8
	sbSyncRole = 466 // u8
	sbEnd      = 467 // zero up to 4096
	sbSector   = 512
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Encode writes s to the SuperSize bytes of dst. It does not allocate.
func (s *Superblock) Encode(dst []byte) {
	dst = dst[:SuperSize]
	clear(dst)
	le := binary.LittleEndian
	copy(dst[sbMagic:], superMagic)
	le.PutUint32(dst[sbVersion:], SuperVersion)
	le.PutUint64(dst[sbSequence:], s.Sequence)
	copy(dst[sbMetaID:], s.MetaID[:])
	copy(dst[sbResource:], s.Resource[:])
	copy(dst[sbCurrent:], s.Current[:])
	copy(dst[sbBase:], s.Base[:])
	for i := range s.History {
		copy(dst[sbHistory+16*i:], s.History[i][:])
	}
	copy(dst[sbSyncID:], s.SyncID[:])
	copy(dst[sbBootID:], s.BootID[:])
	le.PutUint64(dst[sbDataSize:], uint64(s.DataSize))
	le.PutUint32(dst[sbExtent:], s.ExtentSize)
	le.PutUint32(dst[sbLogical:], s.Logical)
	le.PutUint32(dst[sbHot:], s.HotExtents)
	le.PutUint32(dst[sbFlags:], uint32(s.Flags))
	le.PutUint64(dst[sbCreated:], uint64(s.Created))
	le.PutUint64(dst[sbGenSince:], uint64(s.GenSince))
	le.PutUint64(dst[sbForced:], uint64(s.Forced))
	le.PutUint64(dst[sbEpoch:], s.Epoch.Number)
	copy(dst[sbEpochBy:], s.Epoch.Node[:])
	copy(dst[sbGenNode:], s.GenNode[:])
	copy(dst[sbHeadTail:], s.HeadTail[:])
	copy(dst[sbName:sbName+proto.MaxName], s.Name)
	dst[sbData] = uint8(s.Data)
	dst[sbMode] = uint8(s.Mode)
	dst[sbSyncRole] = s.SyncRole
	le.PutUint32(dst[sbCRC:], superCRC(dst))
}

// superCRC covers the first sector but for the checksum itself. In every
// version magic, version and checksum stay where they are.
func superCRC(slot []byte) uint32 {
	crc := crc32.Update(0, castagnoli, slot[:sbCRC])
	return crc32.Update(crc, castagnoli, slot[sbSequence:sbSector])
}

// DecodeSuperblock reads one slot, SuperSize bytes that may be anything. The
// error is one of ErrNoMetadata, ErrVersion and ErrCorrupt, with details. It does not check that
// the result makes sense beyond its own fields.
func DecodeSuperblock(src []byte) (Superblock, error) {
	var s Superblock
	if len(src) < SuperSize || string(src[:len(superMagic)]) != superMagic {
		return s, ErrNoMetadata
	}
	le := binary.LittleEndian
	if crc := le.Uint32(src[sbCRC:]); crc != superCRC(src) {
		return s, fmt.Errorf("%w: superblock checksum %08x instead of %08x", ErrCorrupt, superCRC(src), crc)
	}
	if v := le.Uint32(src[sbVersion:]); v != SuperVersion {
		return s, fmt.Errorf("%w: %d, this program knows %d", ErrVersion, v, SuperVersion)
	}
	s.decode(src)
	if err := s.validate(src); err != nil {
		return Superblock{}, fmt.Errorf("%w: superblock: %w", ErrCorrupt, err)
	}
	return s, nil
}

func (s *Superblock) decode(src []byte) {
	le := binary.LittleEndian
	s.Version = le.Uint32(src[sbVersion:])
	s.Sequence = le.Uint64(src[sbSequence:])
	s.MetaID = proto.ID(src[sbMetaID:])
	s.Resource = proto.ID(src[sbResource:])
	s.Current = proto.ID(src[sbCurrent:])
	s.Base = proto.ID(src[sbBase:])
	for i := range s.History {
		s.History[i] = proto.ID(src[sbHistory+16*i:])
	}
	s.SyncID = proto.ID(src[sbSyncID:])
	s.BootID = proto.ID(src[sbBootID:])
	s.DataSize = proto.Offset(le.Uint64(src[sbDataSize:]))
	s.ExtentSize = le.Uint32(src[sbExtent:])
	s.Logical = le.Uint32(src[sbLogical:])
	s.HotExtents = le.Uint32(src[sbHot:])
	s.Flags = Flags(le.Uint32(src[sbFlags:]))
	s.Created = int64(le.Uint64(src[sbCreated:]))
	s.GenSince = int64(le.Uint64(src[sbGenSince:]))
	s.Forced = int64(le.Uint64(src[sbForced:]))
	s.Epoch.Number = le.Uint64(src[sbEpoch:])
	s.Epoch.Node = proto.Node(src[sbEpochBy:])
	s.GenNode = proto.Node(src[sbGenNode:])
	s.HeadTail = Digest(src[sbHeadTail:])
	s.Name = string(bytes.TrimRight(src[sbName:sbName+proto.MaxName], "\x00"))
	s.Data = proto.DataState(src[sbData])
	s.Mode = proto.Mode(src[sbMode])
	s.SyncRole = src[sbSyncRole]
}

// validate checks what a valid checksum does not: that this version can have written it.
func (s *Superblock) validate(src []byte) error {
	if err := s.Geometry.Check(int(s.HotExtents)); err != nil {
		return err
	}
	switch {
	case s.MetaID.IsZero():
		return errors.New("no metadata id")
	case s.Sequence > maxSequence:
		return fmt.Errorf("sequence %d", s.Sequence)
	case s.Name == "" || strings.ContainsRune(s.Name, 0):
		return fmt.Errorf("resource name %q", s.Name)
	case s.Flags >= flagsEnd:
		return fmt.Errorf("unknown flags %#x", uint32(s.Flags&^(flagsEnd-1)))
	case !s.Data.Valid():
		return fmt.Errorf("data state %d", s.Data)
	case s.Mode != 0 && !s.Mode.Valid():
		return fmt.Errorf("replication mode %d", s.Mode)
	case s.SyncRole > SyncTarget || (s.SyncRole == SyncNone) != s.SyncID.IsZero():
		return fmt.Errorf("sync role %d in session %s", s.SyncRole, s.SyncID)
	case len(bytes.Trim(src[sbEnd:sbSector], "\x00")) != 0:
		return errors.New("bytes behind the last field")
	}
	return nil
}

// maxSequence: no honest counter comes near it, and adding to it never wraps.
const maxSequence = 1 << 62

// PickSuperblock decides between the two slots: the newest valid one, with its
// index. A slot of an unknown version is never passed over, because it may be
// the newer one; a damaged one is, and sets Doubt. The error says what was seen
// in both slots.
func PickSuperblock(a, b []byte) (sb Superblock, slot int, err error) {
	sa, ea := DecodeSuperblock(a)
	sbb, eb := DecodeSuperblock(b)
	switch {
	case ea == nil && eb == nil && sa.MetaID != sbb.MetaID:
		return sb, 0, fmt.Errorf("%w: the superblock slots are of two different creations (%s and %s): run hastctl create again",
			ErrCorrupt, sa.MetaID.Short(), sbb.MetaID.Short())
	case ea == nil && eb == nil && sa.Sequence == sbb.Sequence && !bytes.Equal(a[:sbSector], b[:sbSector]):
		return sb, 0, fmt.Errorf("%w: the superblock slots differ and have the same sequence %d", ErrCorrupt, sa.Sequence)
	case ea == nil && eb == nil && sbb.Sequence > sa.Sequence:
		return sbb, 1, nil
	case ea == nil && eb == nil:
		return sa, 0, nil
	case errors.Is(ea, ErrVersion) || errors.Is(eb, ErrVersion):
	case ea == nil:
		sa.Doubt = fmt.Sprintf("superblock slot 1 is unusable (%v); slot 0 may be older than it was", eb)
		return sa, 0, nil
	case eb == nil:
		sbb.Doubt = fmt.Sprintf("superblock slot 0 is unusable (%v); slot 1 may be older than it was", ea)
		return sbb, 1, nil
	case errors.Is(ea, ErrNoMetadata) && errors.Is(eb, ErrNoMetadata):
		return sb, 0, fmt.Errorf("%w here: run hastctl create", ErrNoMetadata)
	}
	return sb, 0, &SlotsError{ea, eb}
}

// SlotsError says why neither superblock slot can be used; a nil member is a slot
// that is valid, but must not be used because of the other.
type SlotsError [2]error

// Error names both slots.
func (e *SlotsError) Error() string {
	words := func(err error) string {
		if err == nil {
			return "valid"
		}
		return err.Error()
	}
	return fmt.Sprintf("superblock slot 0: %s; slot 1: %s", words(e[0]), words(e[1]))
}

// Unwrap lets errors.Is look into both.
func (e *SlotsError) Unwrap() []error {
	var list []error
	for _, err := range e {
		if err != nil {
			list = append(list, err)
		}
	}
	return list
}

// String returns the superblock as lines of "key: value" for hastctl dump.
func (s *Superblock) String() string {
	var b strings.Builder
	line := func(key string, value any) { fmt.Fprintf(&b, "%-12s %v\n", key+":", value) }
	line("name", s.Name)
	line("version", s.Version)
	line("created", stamp(s.Created))
	line("metaid", s.MetaID)
	line("sequence", s.Sequence)
	line("datasize", uint64(s.DataSize))
	line("extentsize", s.ExtentSize)
	line("logical", s.Logical)
	line("hotextents", s.HotExtents)
	line("resource", orNone(s.Resource))
	line("data", s.Data)
	line("current", orNone(s.Current))
	line("since", stamp(s.GenSince)+" by "+orDash(s.GenNode.String()))
	line("base", orNone(s.Base))
	for i, id := range s.History {
		if !id.IsZero() {
			line(fmt.Sprintf("history[%d]", i), id)
		}
	}
	line("flags", s.Flags)
	line("epoch", s.Epoch)
	line("sync", [...]string{"none", "source of ", "target of "}[min(s.SyncRole, 2)]+strings.TrimPrefix(orNone(s.SyncID), "none"))
	line("bootid", orNone(s.BootID))
	if s.Mode.Valid() {
		line("mode", s.Mode)
	}
	if s.Flags&FlagClean != 0 {
		line("headtail", s.HeadTail)
	}
	if s.Forced != 0 {
		line("forced", stamp(s.Forced))
	}
	if s.Doubt != "" {
		line("doubt", s.Doubt)
	}
	return b.String()
}

func stamp(unix int64) string {
	if unix == 0 {
		return "never"
	}
	return time.Unix(unix, 0).UTC().Format(time.RFC3339)
}

func orNone(id proto.ID) string {
	if id.IsZero() {
		return "none"
	}
	return id.String()
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
