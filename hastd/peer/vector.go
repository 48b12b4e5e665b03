package peer

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// neighbours reports whether b follows v in memory. Only parts of one array are
// joined on that ground: the headers, which lie in one.
func neighbours(v *unix.Iovec, b *byte) bool {
	return uintptr(unsafe.Pointer(v.Base))+uintptr(v.Len) == uintptr(unsafe.Pointer(b))
}

// addressPlus returns the address n bytes behind p, inside the same allocation.
func addressPlus(p *byte, n int) *byte { return (*byte)(unsafe.Add(unsafe.Pointer(p), n)) }
