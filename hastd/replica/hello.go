package replica

import (
	"encoding/binary"
	"errors"

	"hast/extent"
	"hast/hastd/role"
	"hast/proto"
)

// The bodies of the handshake's frames; docs/protocol/wire.md has them byte by byte.

// hello is what a node says of itself at connect: what role.Decide compares, and what people want to read in a refusal.
type hello struct {
	role.Side
	GenSince int64
	GenNode  proto.Node
	Dirty    uint64   // bytes
	Boot     proto.ID // of the running kernel: another one means that the disk's cache may be gone
	Hot      uint32
}

// helloVersion is the version of all bodies; an unknown one is refused.
const helloVersion = 1

const (
	hsMarks = 1 << iota
	hsBlank
	hsCrashed
	hsRebooted
	hsIntact
	hsServed
	hsForced
	hsFlushFailed
	hsMerged
)

// helloSize is the fixed size of a HELLO body in bytes.
const helloSize = 16 + 4 + 4 + 32 + 16*3 + 16*extent.HistoryLen + 8 + 32 + 16 + 4 + 8 + 4 + 4 + 8 + 32 + 8 + 4

var errBody = errors.New("malformed handshake frame")

type encoder struct{ b []byte }

func (e *encoder) u8(v uint8)        { e.b = append(e.b, v) }
func (e *encoder) u32(v uint32)      { e.b = binary.LittleEndian.AppendUint32(e.b, v) }
func (e *encoder) u64(v uint64)      { e.b = binary.LittleEndian.AppendUint64(e.b, v) }
func (e *encoder) id(v proto.ID)     { e.b = append(e.b, v[:]...) }
func (e *encoder) node(v proto.Node) { e.b = append(e.b, v[:]...) }

// decoder reads what encoder wrote; a short body sets bad and yields zeroes.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n int) []byte {
	if len(d.b) < n {
		d.bad = true
		return make([]byte, n)
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) u8() uint8            { return d.take(1)[0] }
func (d *decoder) u32() uint32          { return binary.LittleEndian.Uint32(d.take(4)) }
func (d *decoder) u64() uint64          { return binary.LittleEndian.Uint64(d.take(8)) }
func (d *decoder) id() (v proto.ID)     { copy(v[:], d.take(16)); return v }
func (d *decoder) node() (v proto.Node) { copy(v[:], d.take(32)); return v }

func (d *decoder) end() error {
	if d.bad || len(d.b) != 0 {
		return errBody
	}
	return nil
}

func (h *hello) encode(dst []byte) []byte {
	e := encoder{dst}
	e.u32(helloVersion)
	e.u8(uint8(h.Role))
	e.u8(uint8(h.Data))
	e.u8(uint8(h.Mode))
	e.u8(h.SyncRole)
	e.node(h.Node)
	e.id(h.Resource)
	e.id(h.Current)
	e.id(h.Base)
	for _, id := range h.History {
		e.id(id)
	}
	e.u64(h.Epoch.Number)
	e.node(h.Epoch.Node)
	e.id(h.SyncID)
	var f uint32
	for i, b := range []bool{h.Marks, h.Blank, h.Crashed, h.Rebooted, h.Intact, h.Served, h.Forced, h.FlushFailed, h.Merged} {
		if b {
			f |= 1 << i
		}
	}
	e.u32(f)
	e.u64(uint64(h.DataSize))
	e.u32(h.ExtentSize)
	e.u32(h.Logical)
	e.u64(uint64(h.GenSince))
	e.node(h.GenNode)
	e.u64(h.Dirty)
	e.id(h.Boot)
	e.u32(h.Hot)
	return e.b
}

func decodeHello(b []byte) (h hello, err error) {
	d := decoder{b: b}
	if v := d.u32(); v != helloVersion {
		return h, errors.New("unknown version of the handshake: upgrade the older node")
	}
	h.Role = proto.Role(d.u8())
	h.Data = proto.DataState(d.u8())
	h.Mode = proto.Mode(d.u8())
	h.SyncRole = d.u8()
	h.Node = d.node()
	h.Resource = d.id()
	h.Current = d.id()
	h.Base = d.id()
	for i := range h.History {
		h.History[i] = d.id()
	}
	h.Epoch.Number = d.u64()
	h.Epoch.Node = d.node()
	h.SyncID = d.id()
	f := d.u32()
	h.Marks, h.Blank, h.Crashed, h.Rebooted = f&hsMarks != 0, f&hsBlank != 0, f&hsCrashed != 0, f&hsRebooted != 0
	h.Intact, h.Served, h.Forced = f&hsIntact != 0, f&hsServed != 0, f&hsForced != 0
	h.FlushFailed, h.Merged = f&hsFlushFailed != 0, f&hsMerged != 0
	h.DataSize = proto.Offset(d.u64())
	h.ExtentSize = d.u32()
	h.Logical = d.u32()
	h.GenSince = int64(d.u64())
	h.GenNode = d.node()
	h.Dirty = d.u64()
	h.Boot = d.id()
	h.Hot = d.u32()
	if err := d.end(); err != nil {
		return h, err
	}
	if (h.Role != proto.RolePrimary && h.Role != proto.RoleSecondary) || !h.Data.Valid() || !h.Mode.Valid() || h.SyncRole > 2 {
		return h, errBody
	}
	return h, nil
}

// start is what the primary decided to begin with; the secondary makes it stable and answers STARTED.
type start struct {
	Action   role.Action // the secondary's
	Epoch    proto.Epoch
	Resource proto.ID
	Current  proto.ID
	Session  proto.ID
	Mode     proto.Mode
	Key      [32]byte // of the digests on this connection
	Whole    bool     // the target stays up to date: what is compared was never acknowledged
}

func (s *start) encode(dst []byte) []byte {
	e := encoder{dst}
	e.u32(helloVersion)
	e.u8(uint8(s.Action))
	e.u8(uint8(s.Mode))
	e.u64(s.Epoch.Number)
	e.node(s.Epoch.Node)
	e.id(s.Resource)
	e.id(s.Current)
	e.id(s.Session)
	e.b = append(e.b, s.Key[:]...)
	e.u8(map[bool]uint8{true: 1}[s.Whole])
	return e.b
}

func decodeStart(b []byte) (s start, err error) {
	d := decoder{b: b}
	if d.u32() != helloVersion {
		return s, errBody
	}
	s.Action = role.Action(d.u8())
	s.Mode = proto.Mode(d.u8())
	s.Epoch.Number = d.u64()
	s.Epoch.Node = d.node()
	s.Resource = d.id()
	s.Current = d.id()
	s.Session = d.id()
	copy(s.Key[:], d.take(32))
	whole := d.u8()
	s.Whole = whole == 1
	if whole > 1 {
		return s, errBody
	}
	// What is refused is not begun, so no other action than these is a START's.
	if !s.Mode.Valid() || s.Action < role.NoSync || s.Action > role.TargetFull {
		return s, errBody
	}
	return s, d.end()
}

// lineage is a generation with its past: what SYNC_DONE makes the target adopt, and NEWGEN makes the peer begin.
type lineage struct {
	Current  proto.ID
	History  [extent.HistoryLen]proto.ID
	GenSince int64
	GenNode  proto.Node
}

func (l *lineage) encode(dst []byte) []byte {
	e := encoder{dst}
	e.id(l.Current)
	for _, id := range l.History {
		e.id(id)
	}
	e.u64(uint64(l.GenSince))
	e.node(l.GenNode)
	return e.b
}

func decodeLineage(b []byte) (l lineage, err error) {
	d := decoder{b: b}
	l.Current = d.id()
	for i := range l.History {
		l.History[i] = d.id()
	}
	l.GenSince = int64(d.u64())
	l.GenNode = d.node()
	return l, d.end()
}

// verdictSize is the size of a VERDICT body: version, action, two reserved bytes.
const verdictSize = 8

func encodeVerdict(dst []byte, a role.Action) []byte {
	e := encoder{dst}
	e.u32(helloVersion)
	e.u32(uint32(a))
	return e.b
}

func decodeVerdict(b []byte) (role.Action, error) {
	d := decoder{b: b}
	v, a := d.u32(), d.u32()
	if err := d.end(); err != nil || v != helloVersion || a < uint32(role.NoSync) || a > uint32(role.Impossible) {
		return 0, errBody
	}
	return role.Action(a), nil
}
