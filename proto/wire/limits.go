package wire

import "hast/proto"

// Limits of a frame. They are part of the protocol: a frame that exceeds one ends the connection (rule 15).
const (
	// MaxZero is the longest Zero in bytes: long enough that a mkfs's discards travel in few frames, short enough that
	// one of them does not keep a disk without UNMAP busy for longer than any timeout.
	MaxZero proto.Length = 1 << 30
	// MaxBody is the largest body of a control frame in bytes; longer things travel in several frames.
	MaxBody = 64 << 10
	// MaxByeText is the longest text of a Bye in bytes: a sentence for a log.
	MaxByeText = 512
	// DigestSize is the size of one block's digest in bytes: 128 bits, so that what is not sent is equal.
	DigestSize = 16
	// MaxDigestBlocks is the most blocks of one Digest: one bit each in the answer's 64-bit mask.
	MaxDigestBlocks = 64
	// PrefixSize is the size in bytes of a SHA-256 sum, which precedes the payload because it does not fit the header.
	PrefixSize = 32
	// MaxPayload is the most bytes that can follow a header.
	MaxPayload = int(proto.MaxRequest) + PrefixSize
)
