package wire

import "fmt"

// Compression says how a frame's payload represents the data. It is a byte of
// every header, so the two nodes may be configured differently. As a setting it says what the sender may try.
type Compression uint8

// The compressions. Each setting includes the ones before it.
const (
	// CompressionNone: the payload is the data.
	CompressionNone Compression = iota
	// CompressionHole: the data are zeroes, and no payload follows.
	CompressionHole
	// CompressionLZ4: the payload is one LZ4 block, smaller than the data.
	CompressionLZ4
)

// Valid reports whether c is one of the three.
func (c Compression) Valid() bool { return c <= CompressionLZ4 }

// String returns the word of hast.toml(5), or "invalid".
func (c Compression) String() string {
	switch c {
	case CompressionNone:
		return "none"
	case CompressionHole:
		return "hole"
	case CompressionLZ4:
		return "lz4"
	}
	return "invalid"
}

// ParseCompression is the inverse of String.
func ParseCompression(s string) (Compression, error) {
	for c := CompressionNone; c.Valid(); c++ {
		if c.String() == s {
			return c, nil
		}
	}
	return 0, fmt.Errorf("unknown compression %q: use none, hole or lz4", s)
}
