package store

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"hast/proto"
)

// ErrInUse: somebody else holds the device.
var ErrInUse = errors.New("in use")

// Open opens a backing device or file for exclusive use: O_EXCL for block
// devices (refused while mounted or held by device-mapper, md or another hastd), a lock of the open file description for files.
// The lock goes with the descriptor to whoever it is passed to, and ends when the last copy is closed.
func Open(path string) (*os.File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("backing device: %w", err)
	}
	flags := unix.O_RDWR | unix.O_DIRECT | unix.O_CLOEXEC
	block := st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0
	switch {
	case block:
		flags |= unix.O_EXCL
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("backing device %s: neither a block device nor a regular file", path)
	}
	fd, err := unix.Open(path, flags, 0)
	if err != nil {
		if block && err == unix.EBUSY {
			return nil, fmt.Errorf("backing device %s: %w: it is mounted, or part of another device (lsblk %s shows which)", path, ErrInUse, path)
		}
		if err == unix.EINVAL {
			return nil, fmt.Errorf("backing device %s: direct I/O is not possible there (tmpfs and some network file systems lack it): choose another place", path)
		}
		return nil, fmt.Errorf("backing device %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil && !(block && err == unix.EOPNOTSUPP) {
		f.Close()
		if err == unix.EWOULDBLOCK {
			return nil, fmt.Errorf("backing device %s: %w by another hastd%s: set its role to init, or stop it, first", path, ErrInUse, holder(st))
		}
		return nil, fmt.Errorf("backing device %s: lock: %w", path, err)
	}
	return f, nil
}

// holder names the process that holds the lock, where /proc/locks tells.
func holder(st os.FileInfo) string {
	sys, ok := st.Sys().(*syscall.Stat_t)
	b, err := os.ReadFile("/proc/locks")
	if err != nil || !ok {
		return ""
	}
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(sys.Dev), unix.Minor(sys.Dev), sys.Ino)
	for _, line := range strings.Split(string(b), "\n") {
		f := strings.Fields(line)
		if len(f) >= 6 && f[1] == "FLOCK" && f[5] == file {
			return " (process " + f[4] + ")"
		}
	}
	return ""
}

// size returns the size in bytes and the logical block size of an open device or file.
func size(f *os.File) (bytes int64, logical uint32, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, 0, err
	}
	if st.Mode().IsRegular() {
		var x unix.Statx_t
		if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_DIOALIGN, &x); err == nil && x.Mask&unix.STATX_DIOALIGN != 0 {
			logical = x.Dio_offset_align // what direct I/O on the file needs (Linux 6.1)
		}
		return st.Size(), logical, nil
	}
	if bytes, err = f.Seek(0, 2); err != nil {
		return 0, 0, fmt.Errorf("size of %s: %w", f.Name(), err)
	}
	n, err := unix.IoctlGetInt(int(f.Fd()), unix.BLKSSZGET)
	if err != nil {
		return 0, 0, fmt.Errorf("block size of %s: %w", f.Name(), err)
	}
	return bytes, uint32(n), nil
}

// errno maps an error of a system call to the few that cross an interface.
func errno(err error) proto.Errno {
	switch {
	case err == nil:
		return proto.OK
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		return proto.ENOSPC
	}
	return proto.EIO
}
