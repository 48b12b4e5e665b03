package hold

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Limits; everything that comes over the socket is held against them.
const (
	// MaxLabel is the longest label in bytes: a resource's name and a word.
	MaxLabel = 96
	// MaxFiles is the most descriptors of one label: a front-end has one or two.
	MaxFiles = 8
	// MaxBlob is the largest blob in bytes: what a successor has to know of one device.
	MaxBlob = 4 << 10
	// MaxEntries is the most labels of a store. There is one hold for each front-end, so this leaves room for what nobody has thought of.
	MaxEntries = 16
)

// ErrNotHeld: there is no such label.
var ErrNotHeld = errors.New("not held here")

// entry is what one label stands for. The descriptors are the store's.
type entry struct {
	blob json.RawMessage
	fds  []int
}

// Store keeps descriptors under labels. The zero value is empty and ready. Safe for concurrent use.
type Store struct {
	mu      sync.Mutex
	entries map[string]entry
}

// Put keeps duplicates of fds, with blob (JSON, may be nil), in place of what label had. The caller keeps its own.
func (s *Store) Put(label string, blob json.RawMessage, fds ...int) error {
	if err := check(label, blob, len(fds)); err != nil {
		return err
	}
	own, err := duplicate(fds)
	if err != nil {
		return fmt.Errorf("hold %s: %w", label, err)
	}
	return s.take(label, blob, own)
}

// take is Put for descriptors that become the store's.
func (s *Store) take(label string, blob json.RawMessage, fds []int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	old, exists := s.entries[label]
	if !exists && len(s.entries) >= MaxEntries {
		closeAll(fds)
		return fmt.Errorf("hold %s: %d labels are held already", label, MaxEntries)
	}
	if s.entries == nil {
		s.entries = make(map[string]entry)
	}
	s.entries[label] = entry{slices.Clone(blob), fds}
	closeAll(old.fds)
	return nil
}

// Get returns what label stands for. The descriptors are fresh duplicates, closed on exec, which the caller closes. ErrNotHeld.
func (s *Store) Get(label string) (json.RawMessage, []int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.entries[label]
	if !ok {
		return nil, nil, fmt.Errorf("%q: %w", label, ErrNotHeld)
	}
	fds, err := duplicate(e.fds)
	if err != nil {
		return nil, nil, fmt.Errorf("lend %s: %w", label, err)
	}
	return slices.Clone(e.blob), fds, nil
}

// Drop closes what label stands for. ErrNotHeld.
func (s *Store) Drop(label string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.entries[label]
	if !ok {
		return fmt.Errorf("%q: %w", label, ErrNotHeld)
	}
	delete(s.entries, label)
	closeAll(e.fds)
	return nil
}

// List returns the labels, sorted.
func (s *Store) List() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	labels := make([]string, 0, len(s.entries))
	for l := range s.entries {
		labels = append(labels, l)
	}
	slices.Sort(labels)
	return labels
}

// Close closes everything.
func (s *Store) Close() {
	for _, l := range s.List() {
		s.Drop(l) // unless somebody else was faster
	}
}

func check(label string, blob json.RawMessage, files int) error {
	switch {
	case label == "" || len(label) > MaxLabel || strings.ContainsFunc(label, func(r rune) bool { return r < ' ' }):
		return fmt.Errorf("hold: a label has 1 to %d printable bytes", MaxLabel)
	case len(blob) > MaxBlob:
		return fmt.Errorf("hold %s: a blob of %d bytes, at most %d", label, len(blob), MaxBlob)
	case files > MaxFiles:
		return fmt.Errorf("hold %s: %d descriptors, at most %d", label, files, MaxFiles)
	}
	return nil
}

func duplicate(fds []int) ([]int, error) {
	own := make([]int, 0, len(fds))
	for _, fd := range fds {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			closeAll(own)
			return nil, fmt.Errorf("duplicate a descriptor: %w", err)
		}
		own = append(own, n)
	}
	return own, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
