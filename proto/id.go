package proto

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// ID is 128 random bits that name a resource, a generation of its data, or a
// sync session. The zero ID means "none".
type ID [16]byte

// IsZero reports whether id is "none".
func (id ID) IsZero() bool { return id == ID{} }

// String returns 32 hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Short returns the first 8 digits, for messages to people.
func (id ID) Short() string { return hex.EncodeToString(id[:4]) }

// ParseID is the inverse of String.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return id, fmt.Errorf("id %q: want %d hexadecimal digits", s, 2*len(id))
	}
	_, err := hex.Decode(id[:], []byte(s))
	return id, err
}

// IDFromWords makes an ID of two random words; pure code gets its randomness
// handed in this way.
func IDFromWords(a, b uint64) ID {
	var id ID
	binary.LittleEndian.PutUint64(id[:8], a)
	binary.LittleEndian.PutUint64(id[8:], b)
	return id
}

// MarshalText writes the hexadecimal form.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads the hexadecimal form.
func (id *ID) UnmarshalText(b []byte) (err error) { *id, err = ParseID(string(b)); return err }

// Node names a node inside records of fixed size: its configured name, at most 32 bytes, zero padded.
type Node [32]byte

// MakeNode returns the fixed-size form of a configured node name; names longer
// than 32 bytes are refused by the configuration, and cut here.
func MakeNode(name string) (n Node) { copy(n[:], name); return n }

// String returns the name without its padding.
func (n Node) String() string {
	for i, c := range n {
		if c == 0 {
			return string(n[:i])
		}
	}
	return string(n[:])
}

// IsZero reports whether n names nobody.
func (n Node) IsZero() bool { return n == Node{} }

// MarshalText writes the name.
func (n Node) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads a name.
func (n *Node) UnmarshalText(b []byte) error {
	if len(b) > len(n) {
		return fmt.Errorf("node name %q is longer than %d bytes", b, len(n))
	}
	*n = MakeNode(string(b))
	return nil
}

// Epoch is one term of primaryship (architecture: rule 5). It is stable on the
// node that holds it before that node permits its first write.
type Epoch struct {
	Number uint64 `json:"number"`
	Node   Node   `json:"node"`
}

// String returns "number/node".
func (e Epoch) String() string { return fmt.Sprintf("%d/%s", e.Number, e.Node) }
