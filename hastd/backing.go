package hastd

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openMetadata opens an external metadata file for a worker. Whoever holds the
// backing device holds its metadata, so it has no lock of its own.
func openMetadata(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_DIRECT, 0)
	if errors.Is(err, unix.EINVAL) { // a file system without direct I/O
		f, err = os.OpenFile(path, os.O_RDWR, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	return f, nil
}

// openBacking opens the backing device with the lock that makes one incarnation
// at a time true: O_EXCL on a block device, an exclusive lock on a file. The lock belongs to the open file, so it goes with the
// descriptor to the worker and ends with that worker's last I/O. held tells that another process has it.
func openBacking(path string) (f *os.File, held bool, err error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, false, fmt.Errorf("backing device: %w", err)
	}
	flags := os.O_RDWR | unix.O_DIRECT
	block := st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0
	switch {
	case block:
		flags |= unix.O_EXCL
	case !st.Mode().IsRegular():
		return nil, false, fmt.Errorf("backing device %s is neither a block device nor a regular file", path)
	}
	f, err = os.OpenFile(path, flags, 0)
	if errors.Is(err, unix.EINVAL) { // a file system without direct I/O
		f, err = os.OpenFile(path, flags&^unix.O_DIRECT, 0)
	}
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, true, fmt.Errorf("backing device %s is in use: mounted, or part of another device (see lsblk)", path)
	case err != nil:
		return nil, false, fmt.Errorf("backing device: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, errors.Is(err, unix.EWOULDBLOCK), fmt.Errorf("backing device %s: locked by another process: %w", path, err)
	}
	return f, false, nil
}
