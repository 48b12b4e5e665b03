package proto

import "fmt"

// Mode says which copies must exist before a write is acknowledged (the
// replication directive of hast.conf(5)). The zero value is invalid.
type Mode uint8

// The replication modes; docs/safety.md says what each of them promises.
const (
	// ModeFullsync: on the local disk and on the peer's disk.
	ModeFullsync Mode = iota + 1
	// ModeMemsync: on the local disk and in the peer's memory.
	ModeMemsync
	// ModeAsync: on the local disk.
	ModeAsync
)

// String returns HAST's word for m, or "invalid".
func (m Mode) String() string {
	switch m {
	case ModeFullsync:
		return "fullsync"
	case ModeMemsync:
		return "memsync"
	case ModeAsync:
		return "async"
	}
	return "invalid"
}

// Valid reports whether m is one of the three modes.
func (m Mode) Valid() bool { return m >= ModeFullsync && m <= ModeAsync }

// ParseMode is the inverse of String.
func ParseMode(s string) (Mode, error) {
	for m := ModeFullsync; m <= ModeAsync; m++ {
		if m.String() == s {
			return m, nil
		}
	}
	return 0, fmt.Errorf("unknown replication mode %q: use fullsync, memsync or async", s)
}

// MarshalText lets modes appear as words in JSON and TOML.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText accepts the words of String.
func (m *Mode) UnmarshalText(b []byte) (err error) { *m, err = ParseMode(string(b)); return err }
