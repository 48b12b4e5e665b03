package hastd

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"hast/hastd/store"
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

// openBacking opens the backing device with its lock. held tells that another process has it.
func openBacking(path string) (f *os.File, held bool, err error) {
	f, err = store.Open(path)
	return f, errors.Is(err, store.ErrInUse), err
}
