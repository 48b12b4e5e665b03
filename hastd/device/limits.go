package device

import "hast/proto"

// MaxZero is the longest piece of a zero request in bytes. Front-ends cut what is
// longer: a discard of a whole device arrives as one request of up to 4 GiB, and as one piece it would hold its range
// lock, and every write to that range, for as long as a disk takes for all of it.
const MaxZero proto.Length = 64 << 20

// ZeroPiece returns the length of the first piece of a zero request of left
// bytes at off: pieces end at multiples of MaxZero, so that none but the first and the last is unaligned to the extents.
func ZeroPiece(off proto.Offset, left uint64) proto.Length {
	room := uint64(MaxZero) - uint64(off)%uint64(MaxZero)
	return proto.Length(min(left, room))
}
