package wire

import (
	"fmt"

	"github.com/pierrec/lz4/v4"
)

// When LZ4 is tried, and when it is left alone.
const (
	// MinCompress is the smallest payload in bytes worth compressing: below it the bytes saved cost less than the cycles.
	MinCompress = 1 << 10
	// adaptAfter incompressible payloads in a row make the encoder skip some: one alone says little.
	adaptAfter = 4
	// maxSkip is the most payloads skipped before the next try, so that data that change their nature are noticed
	// after 16 MiB of 64 KiB writes.
	maxSkip = 256
)

// ScratchSize returns the size of the scratch that Encoder.Payload needs to
// compress n bytes: compression must save an eighth.
func ScratchSize(n int) int { return n - n/8 }

// Encoder prepares payloads for sending: compress first, then sum what will be
// sent. It remembers how well compression paid. Not safe for concurrent use. About 150 KiB with LZ4.
type Encoder struct {
	compression Compression
	checksum    Checksum
	lz          *lz4.Compressor
	misses      int // incompressible in a row
	skip        int // payloads still to pass without a try
	span        int // how many to skip the next time
}

// NewEncoder returns an encoder that may use compressions up to c and always s.
// Both must be valid.
func NewEncoder(c Compression, s Checksum) *Encoder {
	e := &Encoder{compression: c, checksum: s}
	if c == CompressionLZ4 {
		e.lz = new(lz4.Compressor)
	}
	return e
}

// Wants reports whether the next payload of n bytes would be compressed into scratch memory.
func (e *Encoder) Wants(n int) bool {
	return e.lz != nil && e.skip == 0 && n >= MinCompress
}

// Payload decides how src (h.DataSize() bytes) travels and sets h's Compression, Checksum, Payload and Sum. It
// returns the bytes to send after the header: nothing, src, or a part of scratch.
// With SHA-256, prefix must be sent before them (if h.Prefix() is not 0). scratch
// needs ScratchSize(len(src)) bytes; if it is shorter, LZ4 is not tried. Borrows src and scratch until the bytes are sent.
func (e *Encoder) Payload(h *Header, src, scratch []byte, prefix *[PrefixSize]byte) []byte {
	body := src
	h.Compression = CompressionNone
	if h.Type != TypeDigest && e.compression >= CompressionHole {
		if AllZero(src) {
			h.Compression, h.Checksum, h.Payload, h.Sum = CompressionHole, ChecksumNone, 0, 0
			return nil
		}
		if z := e.compress(src, scratch); z != nil {
			h.Compression, body = CompressionLZ4, z
		}
	}
	e.sum(h, e.checksum, body, prefix)
	return body
}

// Body does the same for the body of a control frame, which is never compressed
// and always has a sum: a wrong bitmap would be a silent wrong sync. body may be empty.
func (e *Encoder) Body(h *Header, body []byte, prefix *[PrefixSize]byte) {
	h.Compression = CompressionNone
	if len(body) == 0 {
		h.Checksum, h.Payload, h.Sum = ChecksumNone, 0, 0
		return
	}
	e.sum(h, max(e.checksum, ChecksumCRC32C), body, prefix)
}

func (e *Encoder) sum(h *Header, s Checksum, body []byte, prefix *[PrefixSize]byte) {
	h.Checksum, h.Payload, h.Sum = s, uint32(len(body)), 0
	if s == ChecksumSHA256 {
		h.Payload += PrefixSize
	}
	seal(h, body, prefix)
}

// compress returns the LZ4 block of src in scratch, or nil where it does not pay.
func (e *Encoder) compress(src, scratch []byte) []byte {
	if e.lz == nil || len(src) < MinCompress {
		return nil
	}
	if e.skip > 0 {
		e.skip--
		return nil
	}
	if len(scratch) < ScratchSize(len(src)) {
		return nil
	}
	// A destination that is too short is reported as an error and means the same as "incompressible".
	n, err := e.lz.CompressBlock(src, scratch[:ScratchSize(len(src))])
	if err == nil && n > 0 {
		e.misses, e.span = 0, 0
		return scratch[:n]
	}
	if e.misses++; e.misses >= adaptAfter {
		e.span = min(max(2*e.span, adaptAfter), maxSkip)
		e.skip = e.span
	}
	return nil
}

// Expand makes the data of a compressed payload: zeroes for a hole, the
// decompressed block for LZ4. body are the h.Body() verified bytes that arrived; dst must have exactly
// h.DataSize() bytes, and must not overlap body. It is not for CompressionNone, whose
// payload is the data. An error means that the peer sends garbage.
func Expand(h *Header, body, dst []byte) error {
	if h.Compression == CompressionHole {
		clear(dst)
		return nil
	}
	n, err := lz4.UncompressBlock(body, dst)
	if err != nil || n != len(dst) {
		return fmt.Errorf("bad %s frame (seq %d): its %d bytes do not decompress to %d", h.Type, h.Seq, len(body), len(dst))
	}
	return nil
}
