package wire

import "hast/proto"

// HeaderSize is the fixed size in bytes of every frame's header on the wire.
//
// Layout, little-endian (docs/protocol/wire.md is the byte-level reference):
//
//	 0  u32  crc32c of bytes 4..47
//	 4  u8   type
//	 5  u8   flags
//	 6  u8   compression of the payload (Compression)
//	 7  u8   checksum of the payload (Checksum)
//	 8  u64  seq
//	16  u64  offset
//	24  u32  length
//	28  u32  payload bytes that follow this header
//	32  u64  aux
//	40  u64  payload checksum (crc32c or xxhash; sha256 uses a 32-byte prefix of the payload)
const HeaderSize = 48

// Type says what a frame is. The zero value is invalid; unknown types are an
// error that ends the connection.
type Type uint8

// Frames on the data connection (requests with data primary → secondary, read replies back).
const (
	// TypeWrite carries Length bytes for Offset. Answered by Ack.
	TypeWrite Type = iota + 1
	// TypeZero asks for Length zero bytes at Offset, without payload. Answered by Ack.
	TypeZero
	// TypeFlush: everything before it is on stable storage before its Ack, and
	// before anything after it is started. Answered by Ack.
	TypeFlush
	// TypeRead asks for Length bytes. Answered by Data on the same connection.
	TypeRead
	// TypeData answers Read: payload, or Aux = error code and no payload.
	TypeData
	// TypeDigest carries one 16-byte keyed digest for each 4 KiB block of
	// [Offset, Offset+Length), at most 64 blocks. Answered by DigestResult.
	TypeDigest
)

// Frames on the control connection.
const (
	// TypeAck answers Write, Zero and Flush: Aux = error code, flag Received or final.
	TypeAck Type = iota + 32
	// TypeDigestResult answers Digest: Aux = mask, bit i set where block i is equal; Length = error code.
	TypeDigestResult
	// TypeHello, TypeVerdict, TypeBitmap, TypeStart, TypeStarted: the handshake, in this order.
	TypeHello
	TypeVerdict
	TypeBitmap
	TypeStart
	TypeStarted
	// TypeNewGen tells the secondary to begin a generation, because the primary's own copy is lost. Answered by NewGenOK.
	TypeNewGen
	TypeNewGenOK
	// TypeSyncDone tells the target (or, where the primary was the target, the source) that both copies are equal. Answered by SyncDoneOK.
	TypeSyncDone
	TypeSyncDoneOK
	// TypeKeepalive is a sign of life, as every frame is. With Aux = KeepaliveAsk it is answered by one without.
	TypeKeepalive
	// TypeBye announces an orderly end: Aux = reason code; the payload is a message for people, at most 512 bytes.
	TypeBye
)

// KeepaliveAsk in the Aux of a Keepalive asks for one in return.
const KeepaliveAsk = 1

// Flags of a frame.
const (
	// FlagFUA: the range is on stable storage before the Ack.
	FlagFUA uint8 = 1 << iota
	// FlagWantReceived asks for an early Ack with FlagReceived (memsync).
	FlagWantReceived
	// FlagReceived marks that early Ack; a final one follows.
	FlagReceived
	// FlagSync marks traffic of a sync, not of the application.
	FlagSync
	// FlagNoUnmap: Zero must keep the space allocated.
	FlagNoUnmap
	// FlagLast marks the last frame of a Bitmap.
	FlagLast
)

// Header is a decoded frame header. It is a plain value and holds no reference to a buffer.
type Header struct {
	Type        Type
	Flags       uint8
	Compression Compression
	Checksum    Checksum
	Seq         uint64
	Offset      proto.Offset
	Length      proto.Length
	Payload     uint32 // bytes on the wire after the header
	Aux         uint64
	Sum         uint64
}
