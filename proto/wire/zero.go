package wire

import "encoding/binary"

// AllZero reports whether every byte of b is zero. On data it stops at the first
// word that is not; on zeroes it reads 64 bytes per step.
func AllZero(b []byte) bool {
	for len(b) >= 64 {
		c := b[:64:64]
		x := binary.LittleEndian.Uint64(c[0:]) | binary.LittleEndian.Uint64(c[8:]) |
			binary.LittleEndian.Uint64(c[16:]) | binary.LittleEndian.Uint64(c[24:]) |
			binary.LittleEndian.Uint64(c[32:]) | binary.LittleEndian.Uint64(c[40:]) |
			binary.LittleEndian.Uint64(c[48:]) | binary.LittleEndian.Uint64(c[56:])
		if x != 0 {
			return false
		}
		b = b[64:]
	}
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}
