package hastd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// pidfile is a locked file that holds this process's id. The lock, not the
// number, says that a daemon runs.
type pidfile struct {
	path string
	f    *os.File
}

// errRunning: another daemon holds the pidfile (exit 75).
var errRunning = errors.New("hastd is already running")

// lockPidfile creates or takes over path. An unlocked file of a former life is taken over.
func lockPidfile(path string) (*pidfile, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("pidfile: %w", err)
	}
	// A holder that ends between our open and our lock removes the name; then the file that we locked is
	// nobody's, and has to be made anew.
	for range 10 {
		p, again, err := tryPidfile(path)
		if !again {
			return p, err
		}
	}
	return nil, fmt.Errorf("pidfile %s: another process keeps replacing it", path)
}

func tryPidfile(path string) (p *pidfile, again bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, fmt.Errorf("pidfile: %w", err)
	}
	defer func() {
		if p == nil {
			f.Close()
		}
	}()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, false, fmt.Errorf("pidfile %s: cannot lock: %w", path, err)
		}
		b, _ := io.ReadAll(io.LimitReader(f, 32))
		return nil, false, fmt.Errorf("%w, pid %s (pidfile %s)", errRunning, strings.TrimSpace(string(b)), path)
	}
	mine, err1 := f.Stat()
	now, err2 := os.Stat(path)
	if err1 != nil || err2 != nil || !os.SameFile(mine, now) {
		return nil, true, nil
	}
	if err := f.Truncate(0); err != nil {
		return nil, false, fmt.Errorf("pidfile: %w", err)
	}
	if _, err := fmt.Fprintf(f, "%d\n", os.Getpid()); err != nil {
		return nil, false, fmt.Errorf("pidfile: %w", err)
	}
	return &pidfile{path, f}, false, nil
}

// remove takes the name away and gives the lock up.
func (p *pidfile) remove() {
	os.Remove(p.path)
	p.f.Close()
}
