package nbdserver

import (
	"encoding/binary"

	"hast/proto"
)

// Numbers of the NBD protocol (doc/proto.md of the NetworkBlockDevice project).
// All integers on the wire are big-endian.
const (
	magicServer   = 0x4e42444d41474943 // "NBDMAGIC"
	magicOption   = 0x49484156454f5054 // "IHAVEOPT"
	magicOptReply = 0x0003e889045565a9
	magicRequest  = 0x25609513
	magicSimple   = 0x67446698

	flagFixedNewstyle = 1 << 0 // both directions
	flagNoZeroes      = 1 << 1

	optExportName = 1
	optAbort      = 2
	optList       = 3
	optInfo       = 6
	optGo         = 7

	repAck         = 1
	repServer      = 2
	repInfo        = 3
	repErrUnsup    = 1<<31 | 1
	repErrInvalid  = 1<<31 | 3
	repErrUnknown  = 1<<31 | 6
	infoExport     = 0
	infoBlockSize  = 3
	exportZeroes   = 124 // bytes that follow an EXPORT_NAME answer, unless flagNoZeroes was agreed
	clientFlagMask = flagFixedNewstyle | flagNoZeroes

	tfHasFlags     = 1 << 0
	tfFlush        = 1 << 2
	tfFUA          = 1 << 3
	tfTrim         = 1 << 5
	tfWriteZeroes  = 1 << 6
	tfCanMultiConn = 1 << 8
	// transmission is what we can do. Several connections are safe because there is no cache above the sink: what one has been told is
	// written, flushed by any, is stable.
	transmission = tfHasFlags | tfFlush | tfFUA | tfTrim | tfWriteZeroes | tfCanMultiConn

	cmdRead        = 0
	cmdWrite       = 1
	cmdDisc        = 2
	cmdFlush       = 3
	cmdTrim        = 4
	cmdWriteZeroes = 6

	cmdFlagFUA    = 1 << 0
	cmdFlagNoHole = 1 << 1

	requestSize = 28
	replySize   = 16
)

// MaxPayload is the longest read or write that is served, in bytes: the protocol's default maximum, which clients that do
// not ask for our limits may use. What exceeds proto.MaxRequest is cut. A longer write ends the connection, a longer read gets EOVERFLOW.
const MaxPayload = 32 << 20

// maxOption bounds an option's data: an export name (4096 bytes by the protocol) and a list of information requests.
const maxOption = 8 << 10

// maxOptions bounds the options of one handshake; real clients send fewer than ten.
const maxOptions = 64

// header is a decoded request header.
type header struct {
	flags  uint16
	cmd    uint16
	cookie uint64
	off    uint64
	length uint32
}

// parseHeader decodes b, which has requestSize bytes; false: the client does not speak NBD.
func parseHeader(b []byte) (h header, ok bool) {
	_ = b[requestSize-1]
	h = header{
		flags:  binary.BigEndian.Uint16(b[4:]),
		cmd:    binary.BigEndian.Uint16(b[6:]),
		cookie: binary.BigEndian.Uint64(b[8:]),
		off:    binary.BigEndian.Uint64(b[16:]),
		length: binary.BigEndian.Uint32(b[24:]),
	}
	return h, binary.BigEndian.Uint32(b) == magicRequest
}

// check decides whether h may be given to a device of size bytes with blocks of
// logical bytes. A length of zero is well-formed and does nothing.
func (h *header) check(size proto.Offset, logical uint32) proto.Errno {
	allowed := uint16(cmdFlagFUA) // permitted on every command, and without effect on reads
	if h.cmd == cmdWriteZeroes {
		allowed |= cmdFlagNoHole
	}
	if h.flags&^allowed != 0 {
		return proto.EINVAL
	}
	switch h.cmd {
	case cmdFlush:
		return proto.OK // offset and length are reserved
	case cmdRead, cmdWrite, cmdTrim, cmdWriteZeroes:
	default:
		return proto.EINVAL
	}
	if (h.cmd == cmdRead || h.cmd == cmdWrite) && h.length > MaxPayload {
		return proto.EOVERFLOW
	}
	if h.off > uint64(size) || uint64(h.length) > uint64(size)-h.off {
		if h.cmd == cmdWrite || h.cmd == cmdWriteZeroes {
			return proto.ENOSPC
		}
		return proto.EINVAL
	}
	if h.off%uint64(logical) != 0 || h.length%logical != 0 {
		return proto.EINVAL
	}
	return proto.OK
}

// putReply encodes a simple reply's header into b.
func putReply(b []byte, cookie uint64, errno proto.Errno) {
	binary.BigEndian.PutUint32(b, magicSimple)
	binary.BigEndian.PutUint32(b[4:], uint32(errno))
	binary.BigEndian.PutUint64(b[8:], cookie)
}
