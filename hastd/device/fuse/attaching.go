package fuse

import (
	"os"

	"golang.org/x/sys/unix"
)

// attaching reports whether a request comes from a thread of the process that started this one, which attaches and detaches the
// device and never writes to it. The kernel flushes a file on which a loop device is put, in that process's name. Nobody's writes
// are behind such a flush; carried out while the peer is away it would begin a generation (rule 6), and a
// promotion alone, without one write, would be a branch of its own.
//
// The parent's threads are asked for with signal 0: a worker can't see /proc. tid is as the kernel gives it in the mounter's pid
// namespace, which is the parent's and ours.
func attaching(tid uint32) bool {
	if tid == 0 {
		return false
	}
	err := unix.Tgkill(os.Getppid(), int(tid), 0)
	return err == nil || err == unix.EPERM
}
