package wire

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"hast/proto"
)

// knownFlags are the flags that this version may receive.
const knownFlags = FlagLast<<1 - 1

// OnData reports whether frames of this type travel on the data connection.
func (t Type) OnData() bool { return t >= TypeWrite && t <= TypeDigest }

// OnControl reports whether frames of this type travel on the control connection.
func (t Type) OnControl() bool { return t >= TypeAck && t <= TypeBye }

// String returns a word for logs and errors.
func (t Type) String() string {
	if t.OnData() {
		return dataNames[t-TypeWrite]
	}
	if t.OnControl() {
		return controlNames[t-TypeAck]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

var (
	dataNames    = [...]string{"write", "zero", "flush", "read", "data", "digest"}
	controlNames = [...]string{"ack", "digest result", "hello", "verdict", "bitmap", "start", "started", "new generation",
		"new generation ok", "sync done", "sync done ok", "keepalive", "bye"}
)

// Encode writes h to b[:HeaderSize]. It does not check h: what this node sends is checked by the other.
func Encode(h *Header, b []byte) {
	b = b[:HeaderSize:HeaderSize]
	b[4], b[5], b[6], b[7] = byte(h.Type), h.Flags, byte(h.Compression), byte(h.Checksum)
	le := binary.LittleEndian
	le.PutUint64(b[8:], h.Seq)
	le.PutUint64(b[16:], uint64(h.Offset))
	le.PutUint32(b[24:], uint32(h.Length))
	le.PutUint32(b[28:], h.Payload)
	le.PutUint64(b[32:], h.Aux)
	le.PutUint64(b[40:], h.Sum)
	le.PutUint32(b[0:], crc32.Checksum(b[4:], castagnoli))
}

// Decode reads a header from b[:HeaderSize] and checks its sum and every limit,
// so that whoever follows may trust h's sizes. It borrows b. After an error the stream has lost its
// framing and the connection must end.
func Decode(b []byte, h *Header) error {
	b = b[:HeaderSize:HeaderSize]
	le := binary.LittleEndian
	if le.Uint32(b) != crc32.Checksum(b[4:], castagnoli) {
		return fmt.Errorf("header checksum does not match (bytes % x)", b[:8])
	}
	*h = Header{
		Type: Type(b[4]), Flags: b[5], Compression: Compression(b[6]), Checksum: Checksum(b[7]),
		Seq: le.Uint64(b[8:]), Offset: proto.Offset(le.Uint64(b[16:])), Length: proto.Length(le.Uint32(b[24:])),
		Payload: le.Uint32(b[28:]), Aux: le.Uint64(b[32:]), Sum: le.Uint64(b[40:]),
	}
	return h.check()
}

// check applies the limits of docs/protocol/wire.md.
func (h *Header) check() error {
	switch {
	case !h.Type.OnData() && !h.Type.OnControl():
		return fmt.Errorf("unknown frame %s: the peer runs another version", h.Type)
	case h.Flags&^knownFlags != 0:
		return h.bad("unknown flags %#02x", h.Flags)
	case !h.Compression.Valid():
		return h.bad("unknown compression %d", uint8(h.Compression))
	case !h.Checksum.Valid():
		return h.bad("unknown checksum %d", uint8(h.Checksum))
	case h.Payload == 0 && h.Checksum != ChecksumNone:
		return h.bad("checksum %s without payload", h.Checksum)
	case h.Payload != 0 && int64(h.Payload) <= int64(h.Prefix()):
		return h.bad("payload of %d bytes is less than its checksum", h.Payload)
	case h.Checksum != ChecksumCRC32C && h.Checksum != ChecksumXXHash && h.Sum != 0:
		return h.bad("a sum that checksum %s does not have", h.Checksum)
	}
	if h.Type.OnControl() {
		return h.checkControl()
	}
	return h.checkData()
}

func (h *Header) checkControl() error {
	limit := MaxBody
	switch h.Type {
	case TypeAck, TypeDigestResult, TypeStarted, TypeNewGenOK, TypeSyncDoneOK, TypeKeepalive:
		limit = 0
	case TypeBye:
		limit = MaxByeText
	}
	if h.Compression != CompressionNone {
		return h.bad("compression %s in a control frame", h.Compression)
	}
	if h.Body() > limit {
		return h.bad("a body of %d bytes, at most %d", h.Body(), limit)
	}
	return nil
}

func (h *Header) checkData() error {
	if uint64(h.Offset)+uint64(h.Length) < uint64(h.Offset) || uint64(h.Offset)+uint64(h.Length) > math.MaxInt64 {
		return h.bad("%d bytes at offset %d is beyond any device", h.Length, h.Offset)
	}
	most := proto.MaxRequest
	switch h.Type {
	case TypeFlush:
		if h.Length != 0 {
			return h.bad("a length")
		}
	case TypeZero:
		most = MaxZero
	case TypeDigest:
		most = MaxDigestBlocks * proto.BlockSize
		if h.Length%proto.BlockSize != 0 || h.Offset%proto.BlockSize != 0 {
			return h.bad("%d bytes at offset %d are not whole blocks", h.Length, h.Offset)
		}
	}
	if h.Length > most || h.Length == 0 && h.Type != TypeFlush {
		return h.bad("a length of %d bytes, allowed are 1 to %d", h.Length, most)
	}
	return h.checkPayload()
}

// checkPayload compares the size of the payload with what the frame says of it.
func (h *Header) checkPayload() error {
	size := h.DataSize()
	switch {
	case size == 0 || h.Compression == CompressionHole:
		if h.Payload != 0 || size == 0 && h.Compression != CompressionNone {
			return h.bad("%d bytes of payload with compression %s, where none belongs", h.Payload, h.Compression)
		}
		if size != 0 && h.Type == TypeDigest {
			return h.bad("compression %s of digests", h.Compression)
		}
	case h.Compression == CompressionNone:
		if h.Body() != size {
			return h.bad("a payload of %d bytes for %d bytes of data", h.Body(), size)
		}
	default:
		if h.Type == TypeDigest || h.Body() <= 0 || h.Body() >= size {
			return h.bad("%d bytes compressed to %d", size, h.Body())
		}
	}
	return nil
}

// DataSize returns the bytes that the payload stands for, and which the
// destination needs: Length for Write and for a Data without error, the
// digests' size for Digest, 0 for the other frames of the data connection. It is at most proto.MaxRequest.
func (h *Header) DataSize() int {
	switch h.Type {
	case TypeWrite:
		return int(h.Length)
	case TypeData:
		if h.Aux == 0 {
			return int(h.Length)
		}
	case TypeDigest:
		return int(h.Length / proto.BlockSize * DigestSize)
	}
	return 0
}

// Prefix returns how many bytes of a SHA-256 sum precede the payload: 32 or 0.
func (h *Header) Prefix() int {
	if h.Checksum == ChecksumSHA256 && h.Payload != 0 {
		return PrefixSize
	}
	return 0
}

// Body returns the bytes of payload without the prefix.
func (h *Header) Body() int { return int(h.Payload) - h.Prefix() }

func (h *Header) bad(format string, args ...any) error {
	return fmt.Errorf("bad %s frame (seq %d): %s", h.Type, h.Seq, fmt.Sprintf(format, args...))
}
