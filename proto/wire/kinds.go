package wire

// Compression of a frame's payload. CompressionNone is the zero value.
type Compression uint8

// The compressions (hast.conf(5): compression).
const (
	CompressionNone Compression = iota
	CompressionHole             // all zero: no payload on the wire
	CompressionLZ4
)

// Checksum of a frame's payload. ChecksumNone is the zero value.
type Checksum uint8

// The checksums (hast.conf(5): checksum).
const (
	ChecksumNone Checksum = iota
	ChecksumCRC32C
	ChecksumXXHash
	ChecksumSHA256
)
