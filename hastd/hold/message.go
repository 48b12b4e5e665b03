package hold

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// maxMessage is the largest packet in bytes: a blob, or the list of labels.
const maxMessage = 8 << 10

// The requests.
const (
	opPut  = "put"  // Label, Blob, descriptors
	opGet  = "get"  // Label; the reply has Blob and descriptors
	opDrop = "drop" // Label
	opList = "list" // the reply has Labels
	opPing = "ping"
	opQuit = "quit" // end the holder, and with it what it holds
)

// request is one packet from a client.
type request struct {
	Op    string          `json:"op"`
	Label string          `json:"label,omitempty"`
	Blob  json.RawMessage `json:"blob,omitempty"`
}

// reply answers one request.
type reply struct {
	Who    Holder          `json:"who"`
	Error  string          `json:"error,omitempty"`
	Absent bool            `json:"absent,omitempty"` // the error is ErrNotHeld
	Blob   json.RawMessage `json:"blob,omitempty"`
	Labels []string        `json:"labels,omitempty"`
}

// Holder says who answered: the hold process itself, or an orphaned worker that serves its socket.
type Holder struct {
	PID  int    `json:"pid"`
	Name string `json:"name"`
}

// packet is a connection with its buffers; one goroutine uses it.
type packet struct {
	c   *net.UnixConn
	buf [maxMessage]byte
	oob []byte
}

func newPacket(c *net.UnixConn) *packet {
	return &packet{c: c, oob: make([]byte, unix.CmsgSpace(4*MaxFiles))}
}

// send writes v and passes duplicates of fds.
func (p *packet) send(v any, fds []int) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("message of %d bytes, at most %d", len(b), maxMessage)
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	_, _, err = p.c.WriteMsgUnix(b, oob, nil)
	return err
}

// receive reads one packet into v. The descriptors are the caller's. An error for which garbled is
// true concerns this packet only.
func (p *packet) receive(v any) (fds []int, garbled bool, err error) {
	n, oobn, flags, _, err := p.c.ReadMsgUnix(p.buf[:], p.oob)
	fds, ferr := parseRights(p.oob[:max(oobn, 0)])
	if err == nil && n == 0 {
		err = net.ErrClosed
	}
	if err == nil {
		garbled = true
		switch {
		case ferr != nil:
			err = ferr
		case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
			err = errors.New("message too large, or too many descriptors")
		default:
			err = decode(p.buf[:n], v)
		}
	}
	if err != nil {
		closeAll(fds)
		return nil, garbled, err
	}
	return fds, false, nil
}

func decode(b []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("message: %w", err)
	}
	return nil
}

// parseRights returns all descriptors in oob, even if something else in it is wrong.
func parseRights(oob []byte) (fds []int, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("descriptors: %w", err)
	}
	for i := range msgs {
		got, e := unix.ParseUnixRights(&msgs[i])
		if e != nil {
			err = fmt.Errorf("descriptors: %w", e)
			continue
		}
		fds = append(fds, got...)
	}
	return fds, err
}
