package nbdserver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"hast/proto"
)

// The handshake: greeting, client flags, options until one of them starts the transmission.
// It runs under HandshakeTime, with c.in as its buffer.

var errNotNBD = errors.New("the client does not speak NBD newstyle")

// handshake returns true when the transmission begins, false when the client took its leave.
func (c *conn) handshake() (bool, error) {
	var b [18]byte
	binary.BigEndian.PutUint64(b[:], magicServer)
	binary.BigEndian.PutUint64(b[8:], magicOption)
	binary.BigEndian.PutUint16(b[16:], flagFixedNewstyle|flagNoZeroes)
	if _, err := c.nc.Write(b[:]); err != nil {
		return false, fmt.Errorf("greeting: %w", err)
	}
	f, err := c.need(4)
	if err != nil {
		return c.left(err)
	}
	flags := binary.BigEndian.Uint32(f)
	if flags&^clientFlagMask != 0 || flags&flagFixedNewstyle == 0 {
		return false, errNotNBD
	}
	for range maxOptions {
		b, err := c.need(16)
		if err != nil {
			return c.left(err)
		}
		opt, n := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
		if binary.BigEndian.Uint64(b) != magicOption {
			return false, errNotNBD
		}
		if n > maxOption {
			return false, fmt.Errorf("option %d of %d bytes, at most %d", opt, n, maxOption)
		}
		data, err := c.need(int(n))
		if err != nil {
			return c.left(err)
		}
		done, start, err := c.option(opt, data, flags&flagNoZeroes != 0)
		if done || err != nil {
			return start, err
		}
	}
	return false, fmt.Errorf("more than %d options", maxOptions)
}

// left tells a client that took its leave during the handshake from one that failed.
func (c *conn) left(err error) (bool, error) {
	if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) && c.srv.isStopped() {
		return false, nil
	}
	return false, fmt.Errorf("handshake: %w", err)
}

// option answers one option; done ends the handshake, start begins the transmission.
func (c *conn) option(opt uint32, data []byte, noZeroes bool) (done, start bool, err error) {
	switch opt {
	case optExportName:
		if !c.isOurs(data) {
			return true, false, fmt.Errorf("unknown export %.80q", data)
		}
		b := make([]byte, 10+exportZeroes)
		binary.BigEndian.PutUint64(b, uint64(c.srv.info.Size))
		binary.BigEndian.PutUint16(b[8:], transmission)
		if noZeroes {
			b = b[:10]
		}
		_, err := c.nc.Write(b)
		return true, err == nil, err
	case optGo, optInfo:
		ok, err := c.describe(opt, data)
		return ok && opt == optGo, ok && opt == optGo, err
	case optList:
		if len(data) != 0 {
			return false, false, c.reply(opt, repErrInvalid, nil)
		}
		name := c.srv.info.Name
		if err := c.reply(opt, repServer, append(binary.BigEndian.AppendUint32(nil, uint32(len(name))), name...)); err != nil {
			return true, false, err
		}
		return false, false, c.reply(opt, repAck, nil)
	case optAbort:
		c.reply(opt, repAck, nil) // the client may be gone already
		return true, false, nil
	}
	// TLS, structured and extended replies and meta contexts. A simple reply is the shortest there is, and
	// says all that can be said about a request that is answered as a whole.
	return false, false, c.reply(opt, repErrUnsup, nil)
}

// describe answers GO and INFO.
func (c *conn) describe(opt uint32, data []byte) (ok bool, err error) {
	name, sizes, valid := parseInfo(data)
	if !valid {
		return false, c.reply(opt, repErrInvalid, nil)
	}
	if !c.isOurs(name) {
		return false, c.reply(opt, repErrUnknown, nil)
	}
	b := binary.BigEndian.AppendUint16(nil, infoExport)
	b = binary.BigEndian.AppendUint64(b, uint64(c.srv.info.Size))
	b = binary.BigEndian.AppendUint16(b, transmission)
	if err := c.reply(opt, repInfo, b); err != nil {
		return false, err
	}
	if sizes {
		b = binary.BigEndian.AppendUint16(nil, infoBlockSize)
		b = binary.BigEndian.AppendUint32(b, c.srv.info.Logical)
		b = binary.BigEndian.AppendUint32(b, max(c.srv.info.Logical, proto.BlockSize))
		b = binary.BigEndian.AppendUint32(b, uint32(proto.MaxRequest)) // what need not be cut
		if err := c.reply(opt, repInfo, b); err != nil {
			return false, err
		}
	}
	return true, c.reply(opt, repAck, nil)
}

// parseInfo decodes the data of GO and INFO: the export's name, and whether block sizes are asked for.
func parseInfo(data []byte) (name []byte, sizes, ok bool) {
	if len(data) < 6 {
		return nil, false, false
	}
	n := binary.BigEndian.Uint32(data)
	if uint64(n) > uint64(len(data)-6) {
		return nil, false, false
	}
	name, data = data[4:4+n], data[4+n:]
	count := int(binary.BigEndian.Uint16(data))
	if data = data[2:]; len(data) != 2*count {
		return nil, false, false
	}
	for ; len(data) > 0; data = data[2:] {
		sizes = sizes || binary.BigEndian.Uint16(data) == infoBlockSize
	}
	return name, sizes, true
}

// isOurs: the device's name, or the default export.
func (c *conn) isOurs(name []byte) bool { return len(name) == 0 || string(name) == c.srv.info.Name }

func (c *conn) reply(opt, kind uint32, data []byte) error {
	b := make([]byte, 20, 20+len(data))
	binary.BigEndian.PutUint64(b, magicOptReply)
	binary.BigEndian.PutUint32(b[8:], opt)
	binary.BigEndian.PutUint32(b[12:], kind)
	binary.BigEndian.PutUint32(b[16:], uint32(len(data)))
	_, err := c.nc.Write(append(b, data...))
	return err
}
