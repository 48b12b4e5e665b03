package peer

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"time"

	"hast/proto"
)

// Version is the protocol version that this build speaks; it speaks no other.
const Version uint16 = 1

// Sizes in bytes of what the parents exchange. They never change: a later
// version must be able to read them and to say in words that it cannot go on.
const (
	PreambleSize = 160
	ReplySize    = 128
	// MaxReplyText is the longest text of a reply in bytes.
	MaxReplyText = 84
	// MaxNode is the longest node name in bytes.
	MaxNode = len(proto.Node{})
)

const preambleMagic, replyMagic = "HAST", "HASR"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Kind says which of a link's two connections is meant. The zero value is invalid.
type Kind uint8

// The two connections.
const (
	Data    Kind = iota + 1 // requests with data, and read replies
	Control                 // everything else
)

// String returns a word for logs.
func (k Kind) String() string {
	switch k {
	case Data:
		return "data"
	case Control:
		return "control"
	}
	return "invalid"
}

// Code is a parent's answer to a preamble. The zero value is invalid.
type Code uint8

// The answers. Whoever gets another one than CodeOK closes the connection; all are worth another try later.
const (
	CodeOK              Code = iota + 1
	CodeUnknownResource      // no such resource in the configuration there
	CodeNotForYou            // address or node names do not fit the configuration there
	CodeInit                 // the resource's role there is init: nobody serves it
	CodeBusy                 // the worker there is starting or going
	CodeVersion              // no common protocol version
)

// String returns a sentence for people.
func (c Code) String() string {
	switch c {
	case CodeOK:
		return "ok"
	case CodeUnknownResource:
		return "the peer's configuration has no such resource"
	case CodeNotForYou:
		return "the peer expects this resource's peer under another address or node name"
	case CodeInit:
		return "the resource's role on the peer is init"
	case CodeBusy:
		return "the peer is busy starting or stopping the resource"
	case CodeVersion:
		return "the peer speaks no protocol version that this node speaks"
	}
	return "invalid"
}

// Preamble is the first message on a connection, in the clear: who calls, whom, about which resource. What it
// says is not proven; the workers' handshake covers its bytes.
type Preamble struct {
	Low, High uint16 // protocol versions spoken
	Kind      Kind
	Token     [16]byte // chosen by the dialler; the two connections of a pair have the same
	Resource  string   // at most proto.MaxName bytes
	From, To  string   // node names, at most MaxNode bytes
}

// Reply answers a preamble.
type Reply struct {
	Version uint16 // chosen; 0 if there is no common one
	Code    Code
	Text    string // for people; cut at MaxReplyText bytes
}

// Pick returns the highest version that both sides speak, or 0.
func (p *Preamble) Pick() uint16 {
	if p.Low <= Version && Version <= p.High {
		return Version
	}
	return 0
}

// Encode returns the PreambleSize bytes of p. Names that are too long are an error.
func (p *Preamble) Encode() ([]byte, error) {
	if len(p.Resource) > proto.MaxName || len(p.From) > MaxNode || len(p.To) > MaxNode {
		return nil, fmt.Errorf("resource %q, nodes %q and %q: a name is too long for the preamble", p.Resource, p.From, p.To)
	}
	b := make([]byte, PreambleSize)
	copy(b, preambleMagic)
	binary.LittleEndian.PutUint16(b[4:], p.Low)
	binary.LittleEndian.PutUint16(b[6:], p.High)
	b[8] = byte(p.Kind)
	copy(b[12:28], p.Token[:])
	copy(b[28:92], p.Resource)
	copy(b[92:124], p.From)
	copy(b[124:156], p.To)
	binary.LittleEndian.PutUint32(b[156:], crc32.Checksum(b[:156], castagnoli))
	return b, nil
}

// ParsePreamble reads what Encode made. A caller that speaks only newer
// versions gets a Preamble as well: Pick says 0 then.
func ParsePreamble(b []byte) (*Preamble, error) {
	if len(b) != PreambleSize || string(b[:4]) != preambleMagic {
		return nil, errors.New("not a HAST preamble: something else connects to this port")
	}
	if binary.LittleEndian.Uint32(b[156:]) != crc32.Checksum(b[:156], castagnoli) {
		return nil, errors.New("damaged preamble: its checksum does not match")
	}
	p := &Preamble{Low: binary.LittleEndian.Uint16(b[4:]), High: binary.LittleEndian.Uint16(b[6:]), Kind: Kind(b[8])}
	copy(p.Token[:], b[12:28])
	ok := p.Kind == Data || p.Kind == Control
	for _, f := range []struct {
		field []byte
		to    *string
	}{{b[28:92], &p.Resource}, {b[92:124], &p.From}, {b[124:156], &p.To}} {
		s, good := name(f.field)
		*f.to, ok = s, ok && good
	}
	if !ok || p.Low > p.High || b[9]|b[10]|b[11] != 0 {
		return nil, errors.New("damaged preamble: a field has no valid value")
	}
	return p, nil
}

// name returns the zero-padded text in b: printable, since it reaches logs.
func name(b []byte) (string, bool) {
	text, pad, _ := bytes.Cut(b, []byte{0})
	for _, c := range text {
		if c < ' ' || c > '~' {
			return "", false
		}
	}
	for _, c := range pad {
		if c != 0 {
			return "", false
		}
	}
	return string(text), len(text) > 0
}

// Encode returns the ReplySize bytes of r.
func (r *Reply) Encode() []byte {
	b := make([]byte, ReplySize)
	copy(b, replyMagic)
	binary.LittleEndian.PutUint16(b[4:], r.Version)
	b[6] = byte(r.Code)
	copy(b[8:8+MaxReplyText], printable(r.Text))
	sumReply(b)
	return b
}

func sumReply(b []byte) { binary.LittleEndian.PutUint32(b[124:], crc32.Checksum(b[:124], castagnoli)) }

// ParseReply reads what Encode made.
func ParseReply(b []byte) (*Reply, error) {
	if len(b) != ReplySize || string(b[:4]) != replyMagic {
		return nil, errors.New("not a HAST reply: something else listens on the peer's port")
	}
	if binary.LittleEndian.Uint32(b[124:]) != crc32.Checksum(b[:124], castagnoli) {
		return nil, errors.New("damaged reply: its checksum does not match")
	}
	r := &Reply{Version: binary.LittleEndian.Uint16(b[4:]), Code: Code(b[6])}
	text, _, _ := bytes.Cut(b[8:8+MaxReplyText], []byte{0})
	r.Text = string(printable(string(text)))
	if r.Code < CodeOK || r.Code > CodeVersion || b[7] != 0 || r.Code == CodeOK && r.Version != Version {
		return nil, errors.New("damaged reply: a field has no valid value")
	}
	return r, nil
}

// printable replaces what a log should not contain.
func printable(s string) []byte {
	b := []byte(s)
	for i, c := range b {
		if c < ' ' || c > '~' {
			b[i] = '?'
		}
	}
	return b
}

// WritePreamble sends p and returns the bytes sent, which the workers' handshake needs.
// A zero deadline, here and below, leaves the connection's own deadline in force.
func WritePreamble(c net.Conn, p *Preamble, deadline time.Time) ([]byte, error) {
	b, err := p.Encode()
	if err != nil {
		return nil, err
	}
	return b, writeAll(c, b, deadline, "preamble")
}

// ReadPreamble receives a preamble and returns it with its bytes. It reads
// exactly PreambleSize bytes: what follows is the worker's.
func ReadPreamble(c net.Conn, deadline time.Time) (*Preamble, []byte, error) {
	b, err := readAll(c, PreambleSize, deadline, "preamble")
	if err != nil {
		return nil, nil, err
	}
	p, err := ParsePreamble(b)
	return p, b, err
}

// replyProof is where a reply's proof lies: HMAC-SHA256 of the preamble, whose token is new each time, and of what comes before it.
const (
	replyProof    = 8 + MaxReplyText
	replyProofEnd = replyProof + sha256.Size
)

func proveReply(secret, preamble, reply []byte) []byte {
	m := hmac.New(sha256.New, derive(secret, purposeReply))
	m.Write(preamble)
	m.Write(reply[:replyProof])
	return m.Sum(nil)
}

// Proven reports whether reply answers preamble and comes from somebody with the secret. Only such a reply may decide about a
// promotion (rule 9). Both are the bytes that were sent and received.
func Proven(secret, preamble, reply []byte) bool {
	return len(secret) > 0 && len(reply) == ReplySize && hmac.Equal(proveReply(secret, preamble, reply), reply[replyProof:replyProofEnd])
}

// WriteReply answers a preamble, whose bytes it takes, and returns the bytes sent. Without a secret, as for a resource that is
// unknown here, the reply proves nothing.
func WriteReply(c net.Conn, r *Reply, secret, preamble []byte, deadline time.Time) ([]byte, error) {
	b := r.Encode()
	if len(secret) > 0 {
		copy(b[replyProof:], proveReply(secret, preamble, b))
		sumReply(b)
	}
	return b, writeAll(c, b, deadline, "reply")
}

// ReadReply receives the answer to a preamble and returns it with its bytes.
func ReadReply(c net.Conn, deadline time.Time) (*Reply, []byte, error) {
	b, err := readAll(c, ReplySize, deadline, "reply")
	if err != nil {
		return nil, nil, err
	}
	r, err := ParseReply(b)
	return r, b, err
}

func writeAll(c net.Conn, b []byte, deadline time.Time, what string) error {
	if !deadline.IsZero() {
		if err := c.SetWriteDeadline(deadline); err != nil {
			return err
		}
		defer c.SetWriteDeadline(time.Time{})
	}
	if _, err := c.Write(b); err != nil {
		return fmt.Errorf("send the %s: %w", what, err)
	}
	return nil
}

func readAll(c net.Conn, n int, deadline time.Time, what string) ([]byte, error) {
	if !deadline.IsZero() {
		if err := c.SetReadDeadline(deadline); err != nil {
			return nil, err
		}
		defer c.SetReadDeadline(time.Time{})
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(c, b); err != nil {
		return nil, fmt.Errorf("receive the %s: %w", what, err)
	}
	return b, nil
}
