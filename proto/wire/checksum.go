package wire

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/cespare/xxhash/v2"
)

// Checksum says how a frame's payload is protected against corruption on the
// way. None of them protects against an attacker: that is what encryption is for.
type Checksum uint8

// The checksums.
const (
	ChecksumNone Checksum = iota
	// ChecksumCRC32C: Castagnoli's polynomial, in hardware.
	ChecksumCRC32C
	// ChecksumXXHash: XXH64 with seed 0.
	ChecksumXXHash
	// ChecksumSHA256: 32 bytes in front of the payload.
	ChecksumSHA256
)

// ErrChecksum says that a payload is not what the peer sent.
var ErrChecksum = errors.New("payload checksum does not match: the network or a node's memory corrupts data")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Valid reports whether s is one of the four.
func (s Checksum) Valid() bool { return s <= ChecksumSHA256 }

// String returns the word of hast.toml(5), or "invalid".
func (s Checksum) String() string {
	switch s {
	case ChecksumNone:
		return "none"
	case ChecksumCRC32C:
		return "crc32c"
	case ChecksumXXHash:
		return "xxhash"
	case ChecksumSHA256:
		return "sha256"
	}
	return "invalid"
}

// ParseChecksum is the inverse of String.
func ParseChecksum(s string) (Checksum, error) {
	for c := ChecksumNone; c.Valid(); c++ {
		if c.String() == s {
			return c, nil
		}
	}
	return 0, fmt.Errorf("unknown checksum %q: use none, crc32c, xxhash or sha256", s)
}

// seal stores the sum of body, the bytes that will be sent, in h and, for SHA-256, in prefix.
func seal(h *Header, body []byte, prefix *[PrefixSize]byte) {
	switch h.Checksum {
	case ChecksumCRC32C:
		h.Sum = uint64(crc32.Checksum(body, castagnoli))
	case ChecksumXXHash:
		h.Sum = xxhash.Sum64(body)
	case ChecksumSHA256:
		*prefix = sha256.Sum256(body)
	}
}

// Verify compares body, the h.Body() bytes that arrived, with the sum in h or,
// for SHA-256, in prefix (the h.Prefix() bytes before them). It borrows both, and returns nil or ErrChecksum.
func Verify(h *Header, prefix, body []byte) error {
	ok := true
	switch h.Checksum {
	case ChecksumCRC32C:
		ok = h.Sum == uint64(crc32.Checksum(body, castagnoli))
	case ChecksumXXHash:
		ok = h.Sum == xxhash.Sum64(body)
	case ChecksumSHA256:
		sum := sha256.Sum256(body)
		ok = string(sum[:]) == string(prefix)
	}
	if !ok {
		return ErrChecksum
	}
	return nil
}
