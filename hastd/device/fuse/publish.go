package fuse

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Publish makes devDir/name a symbolic link to l, in one step, and returns its path. A link
// works on every kind of /dev, and tools that resolve it show the device that the kernel knows; a node of our own
// would outlive a crash and then be somebody else's loop device under our name.
func Publish(devDir, name string, l Loop) (string, error) {
	if err := os.MkdirAll(devDir, 0o755); err != nil {
		return "", fmt.Errorf("publish %s: %w", name, err)
	}
	path := filepath.Join(devDir, name)
	if st, err := os.Lstat(path); err == nil && st.Mode().Type() != os.ModeSymlink {
		return "", fmt.Errorf("publish %s: something that is not a link is in its place; remove it", path)
	}
	fresh := filepath.Join(devDir, "."+name+".new")
	os.Remove(fresh)
	if err := os.Symlink(l.Path(), fresh); err != nil {
		return "", fmt.Errorf("publish %s: %w", path, err)
	}
	if err := os.Rename(fresh, path); err != nil {
		os.Remove(fresh)
		return "", fmt.Errorf("publish %s: %w", path, err)
	}
	return path, nil
}

// Unpublish removes the link, and devDir once it is empty. No link is no error.
func Unpublish(devDir, name string) error {
	path := filepath.Join(devDir, name)
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil && st.Mode().Type() != os.ModeSymlink {
		return fmt.Errorf("unpublish %s: it is not a link; left alone", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unpublish %s: %w", name, err)
	}
	os.Remove(devDir) // fails while others are published
	return nil
}
