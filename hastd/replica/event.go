package replica

import (
	"hast/proto"
	"hast/proto/wire"
)

// Time is monotonic nanoseconds (CLOCK_BOOTTIME in the daemon, simulated time in tests).
type Time int64

// Tag names one entry of the engine's request table: a request and the buffer
// it owns. Tags below Limits.AppTags belong to the front-end (Primary) or to
// received frames (Secondary) and are chosen by the engine; the Primary's sync
// uses tags Limits.AppTags ... Limits.AppTags+Limits.SyncTags-1, whose buffers
// (SyncPiece bytes each) the engine keeps ready for the machine. The InternalTags tags above those are flushes
// of the machine's own; they have no buffer.
//
// The Seq of a frame that a Primary sends names its tag in the low 32 bits.
type Tag uint32

// SyncPiece is the largest piece of a sync in bytes: 64 blocks, one bit each in a digest's mask.
const SyncPiece = 64 * proto.BlockSize

// InternalTags is the number of tags for flushes.
const InternalTags = 64

// Conn numbers the connections of a worker's life, from 1; 0 is none. Events of
// an older connection are ignored by the machines.
type Conn uint32

// EventKind says what happened. The zero value is invalid.
type EventKind uint8

// What the engine tells a machine. Fields not named are zero.
const (
	// EvStart: the worker begins. First event, once. Random, Wall.
	EvStart EventKind = iota + 1
	// EvIO: a request of the front-end. Tag, Op, Off, Len, FUA, NoUnmap; a write's payload is in Tag's buffer. Primary only.
	EvIO
	// EvDisk: a disk operation (EfDisk) finished. Tag, Errno. For a read with a sync tag, Mask = 1 if all bytes are zero.
	EvDisk
	// EvDigest: EfDigest finished. Tag, Errno; Mask is the comparison's result on the Secondary.
	EvDigest
	// EvMeta: the metadata transaction (EfMeta) finished. Errno; Op is OpFlush if it was the flush that failed.
	EvMeta
	// EvPeerUp: an authenticated connection pair exists. Conn. At most one at a
	// time: the engine sends EvPeerDown for the old one first.
	EvPeerUp
	// EvPeerDown: the pair is gone; nothing more will arrive from Conn. Conn, Text, Wall.
	EvPeerDown
	// EvFrame: a frame arrived and its payload, if any, was verified. Conn, Head.
	// For Write, Zero, Flush, Read and Digest on a Secondary: Tag is a table entry that now belongs to the machine until
	// EfRelease, with the payload in its buffer. For Data on a Primary: Tag is the request which Seq names, payload in its buffer
	// (the engine checks that Seq names a tag with a read outstanding).
	// For control frames: Body is the payload, borrowed during Step.
	EvFrame
	// EvTick: time passed; sent when Deadline() is reached, or more often. Wall.
	EvTick
	// EvSettings: the configuration changed. Settings.
	EvSettings
	// EvPermit: the parent lets a primary that is being promoted go on without its peer, because the peer is
	// known not to be primary, or (Force) because an operator said so. Wall.
	EvPermit
	// EvLease: the role lease expired (Lease false) or is good again (true).
	EvLease
	// EvStop: stop in an orderly way: finish, flush, clean the map; answered by EfStopped.
	EvStop
)

// Event is one input of a machine. It is passed by pointer, borrowed during
// Step, and never retained.
type Event struct {
	Kind     EventKind
	Tag      Tag
	Op       proto.Op
	FUA      bool
	NoUnmap  bool
	Lease    bool
	Errno    proto.Errno
	Conn     Conn
	Len      proto.Length
	Off      proto.Offset
	Mask     uint64
	Head     wire.Header
	Body     []byte
	Text     string
	Force    bool
	Wall     int64     // unix seconds, on EvStart, EvTick, EvPermit and EvPeerDown: for messages to people only
	Random   [4]uint64 // on EvStart: the seed of all ids and keys of this worker
	Settings *Settings
}

// Settings is what may change while the machine runs.
type Settings struct {
	Mode proto.Mode
	// Freeze: wait instead of going on when the peer is lost (on_peer_loss = "freeze").
	Freeze bool
	// Standalone: no peer is configured (remote = "none").
	Standalone bool
	// SyncRate bounds the sync in bytes per second; 0: as fast as application I/O allows.
	SyncRate uint64
	// IdleClean is after how long without a write an extent leaves the activity map.
	IdleClean Time
}
