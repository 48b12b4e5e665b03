package proto

import "fmt"

// DataState is what a node knows about its own copy, kept in its superblock
// (architecture: rule 8). The zero value is invalid. A larger value is a better copy.
type DataState uint8

const (
	// DataInconsistent: a mixture of old and new blocks; a sync is unfinished or a write failed.
	DataInconsistent DataState = iota + 1
	// DataOutdated: whole, and known to be older than the peer's.
	DataOutdated
	// DataConsistent: whole, not known to be the newest.
	DataConsistent
	// DataUpToDate: whole and known to be the newest.
	DataUpToDate
)

// String returns the word used in status, dump and logs.
func (s DataState) String() string {
	switch s {
	case DataInconsistent:
		return "inconsistent"
	case DataOutdated:
		return "outdated"
	case DataConsistent:
		return "consistent"
	case DataUpToDate:
		return "uptodate"
	}
	return "invalid"
}

// Valid reports whether s is one of the four states.
func (s DataState) Valid() bool { return s >= DataInconsistent && s <= DataUpToDate }

// MarshalText lets states appear as words in JSON.
func (s DataState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText accepts the words of String.
func (s *DataState) UnmarshalText(b []byte) error {
	for v := DataInconsistent; v <= DataUpToDate; v++ {
		if v.String() == string(b) {
			*s = v
			return nil
		}
	}
	return fmt.Errorf("unknown data state %q", b)
}
