package peer

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// x/sys/unix.Writev and Readv build a vector on the heap for each call; these
// take the caller's, which it keeps from batch to batch.

// writev writes v to a non-blocking fd.
func writev(fd uintptr, v []unix.Iovec) (int, unix.Errno) {
	n, _, e := unix.Syscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)))
	if e != 0 {
		return 0, unix.Errno(e)
	}
	return int(n), 0
}

// readv reads from a non-blocking fd into v.
func readv(fd uintptr, v []unix.Iovec) (int, unix.Errno) {
	n, _, e := unix.Syscall(unix.SYS_READV, fd, uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)))
	if e != 0 {
		return 0, unix.Errno(e)
	}
	return int(n), 0
}

// neighbours reports whether b follows v in memory. Only parts of one array are
// joined on that ground: the headers, which lie in one.
func neighbours(v *unix.Iovec, b *byte) bool {
	return uintptr(unsafe.Pointer(v.Base))+uintptr(v.Len) == uintptr(unsafe.Pointer(b))
}

// addressPlus returns the address n bytes behind p, inside the same allocation.
func addressPlus(p *byte, n int) *byte { return (*byte)(unsafe.Add(unsafe.Pointer(p), n)) }
