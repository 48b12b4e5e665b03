package fuse

import (
	"bytes"
	"encoding/binary"

	"hast/hastd/device"
	"hast/proto"
)

// Numbers and layouts of <linux/fuse.h>. Integers are in the machine's own byte order.
var order = binary.NativeEndian

const (
	opLookup      = 1
	opForget      = 2 // no reply
	opGetattr     = 3
	opSetattr     = 4
	opOpen        = 14
	opRead        = 15
	opWrite       = 16
	opStatfs      = 17
	opRelease     = 18
	opFsync       = 20
	opInit        = 26
	opInterrupt   = 36 // no reply
	opDestroy     = 38
	opBatchForget = 42 // no reply
	opFallocate   = 43

	// INIT: flags (low word), flags2 (high word).
	initAsyncRead = 1 << 0
	initBigWrites = 1 << 5
	initAsyncDIO  = 1 << 15
	initMaxPages  = 1 << 22
	initExt       = 1 << 30
	initHasResend = 1 << 39
	wanted        = initAsyncRead | initBigWrites | initAsyncDIO | initMaxPages | initExt | initHasResend
	required      = initBigWrites | initAsyncDIO | initMaxPages
	majorVersion  = 7
	minorVersion  = 36 // the first with flags2; older kernels may be offered it, and then use their own
	minorRequired = 31 // what has all of required: Linux 5.4
	notifyResend  = 7
	inHeaderSize  = 40
	writeInSize   = 40
	outHeaderSize = 16
	attrSize      = 88
	entryOutSize  = 40 + attrSize
	attrOutSize   = 16 + attrSize
	initOutSize   = 64
	statfsOutSize = 80
	openOutSize   = 16

	openDirectIO             = 1 << 0
	openNoFlush              = 1 << 5
	openParallelDirectWrites = 1 << 6

	fallocKeepSize  = 1 << 0
	fallocPunchHole = 1 << 1
	fallocZeroRange = 1 << 4

	rootNode = 1
	diskNode = 2
)

// maxWrite is the largest write in bytes that the kernel may send, and maxPages the same in pages: it is also what loop sends at most.
const (
	maxWrite = uint32(proto.MaxRequest)
	maxPages = 256
)

// maxBackground is how many requests the kernel keeps under way with us; loop's own limit is 128 for each device. The kernel
// reports congestion, which nobody heeds here, at three quarters.
const (
	maxBackground       = 256
	congestionThreshold = 192
)

// forever is how long the kernel may believe attributes and names, in seconds:
// they never change while the device exists, and asking again would need a live server.
const forever = 1 << 31

// diskName is the name of the only file.
const diskName = "disk"

// header is a decoded request header.
type header struct {
	len    uint32
	opcode uint32
	unique uint64
	node   uint64
	tid    uint32 // of the thread that asks, in the mounter's pid namespace; 0 for one outside of it
}

// parseHeader decodes b, which has inHeaderSize bytes.
func parseHeader(b []byte) header {
	_ = b[inHeaderSize-1]
	return header{order.Uint32(b), order.Uint32(b[4:]), order.Uint64(b[8:]), order.Uint64(b[16:]), order.Uint32(b[32:])}
}

// ioIn is the body of READ and WRITE.
type ioIn struct {
	off  uint64
	size uint32
}

func parseIO(b []byte) (in ioIn, ok bool) {
	if len(b) < writeInSize {
		return in, false
	}
	return ioIn{order.Uint64(b[8:]), order.Uint32(b[16:])}, true
}

// fallocIn is the body of FALLOCATE.
type fallocIn struct {
	off, n uint64
	mode   uint32
}

func parseFallocate(b []byte) (in fallocIn, ok bool) {
	if len(b) < 32 {
		return in, false
	}
	return fallocIn{order.Uint64(b[8:]), order.Uint64(b[16:]), order.Uint32(b[24:])}, true
}

// initIn is the body of INIT.
type initIn struct {
	major, minor, readahead uint32
	flags                   uint64
}

func parseInit(b []byte) (in initIn, ok bool) {
	if len(b) < 16 {
		return in, false
	}
	in = initIn{order.Uint32(b), order.Uint32(b[4:]), order.Uint32(b[8:]), uint64(order.Uint32(b[12:]))}
	if in.flags&initExt != 0 && len(b) >= 20 {
		in.flags |= uint64(order.Uint32(b[16:])) << 32
	}
	return in, true
}

// isDisk reports whether the body of a LOOKUP names the file.
func isDisk(b []byte) bool {
	name, _, found := bytes.Cut(b, []byte{0})
	return found && string(name) == diskName
}

func putOutHeader(b []byte, n int, errno proto.Errno, unique uint64) {
	order.PutUint32(b, uint32(n))
	order.PutUint32(b[4:], uint32(-int32(errno)))
	order.PutUint64(b[8:], unique)
}

func putInitOut(b []byte, n *Negotiated, readahead uint32) {
	clear(b[:initOutSize])
	order.PutUint32(b, majorVersion)
	order.PutUint32(b[4:], n.Minor)
	order.PutUint32(b[8:], readahead)
	order.PutUint32(b[12:], uint32(n.Flags))
	order.PutUint16(b[16:], maxBackground)
	order.PutUint16(b[18:], congestionThreshold)
	order.PutUint32(b[20:], n.MaxWrite)
	order.PutUint32(b[24:], 1) // granularity of times in ns
	order.PutUint16(b[28:], maxPages)
	order.PutUint32(b[32:], uint32(n.Flags>>32))
}

// putAttr encodes the attributes of node: the directory, or the file that is the device.
func putAttr(b []byte, node uint64, info *device.Info) {
	const directory, regular = 0o040000, 0o100000
	clear(b[:attrSize])
	order.PutUint64(b, node)
	mode, links := uint32(directory|0o700), uint32(2)
	if node == diskNode {
		order.PutUint64(b[8:], uint64(info.Size))
		order.PutUint64(b[16:], uint64(info.Size)/512)
		mode, links = regular|0o600, 1
	}
	order.PutUint32(b[60:], mode)
	order.PutUint32(b[64:], links)
	order.PutUint32(b[80:], proto.BlockSize) // becomes loop's discard granularity
}

func putAttrOut(b []byte, node uint64, info *device.Info) {
	clear(b[:attrOutSize])
	order.PutUint64(b, forever)
	putAttr(b[16:], node, info)
}

func putEntryOut(b []byte, node uint64, info *device.Info) {
	clear(b[:entryOutSize])
	order.PutUint64(b, node)
	order.PutUint64(b[16:], forever)
	order.PutUint64(b[24:], forever)
	putAttr(b[40:], node, info)
}

func putStatfsOut(b []byte, info *device.Info) {
	clear(b[:statfsOutSize])
	order.PutUint64(b, uint64(info.Size)/proto.BlockSize)
	order.PutUint32(b[40:], proto.BlockSize)
	order.PutUint32(b[44:], 255)
	order.PutUint32(b[48:], proto.BlockSize)
}
