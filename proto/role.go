package proto

import "fmt"

// Role is what a node does for one resource. The zero value is invalid.
type Role uint8

// The three roles of HAST (hastd(8)). A resource starts in RoleInit.
const (
	// RoleInit: no worker, no device, the backing device is not held.
	RoleInit Role = iota + 1
	// RolePrimary: the block device exists here, writes are accepted here.
	RolePrimary
	// RoleSecondary: receives what the primary writes.
	RoleSecondary
)

// String returns HAST's word for r, or "invalid".
func (r Role) String() string {
	switch r {
	case RoleInit:
		return "init"
	case RolePrimary:
		return "primary"
	case RoleSecondary:
		return "secondary"
	}
	return "invalid"
}

// Valid reports whether r is one of the three roles.
func (r Role) Valid() bool { return r >= RoleInit && r <= RoleSecondary }

// ParseRole is the inverse of String.
func ParseRole(s string) (Role, error) {
	for r := RoleInit; r <= RoleSecondary; r++ {
		if r.String() == s {
			return r, nil
		}
	}
	return 0, fmt.Errorf("unknown role %q: use init, primary or secondary", s)
}

// MarshalText and UnmarshalText let roles appear as words in JSON and TOML.
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText accepts the words of String.
func (r *Role) UnmarshalText(b []byte) (err error) { *r, err = ParseRole(string(b)); return err }
