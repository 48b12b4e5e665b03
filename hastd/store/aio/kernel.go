package aio

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What linux/aio_abi.h and fs/aio.c declare, little endian.

const (
	cmdPread  = 0
	cmdPwrite = 1

	flagResFD = 1 // a completion adds to the eventfd

	ringMagic  = 0xa10a10a1
	ringHeader = 32
)

// iocb is one request. The kernel copies it in io_submit and keeps only data.
type iocb struct {
	data    uint64
	key     uint32
	rwFlags uint32
	opcode  uint16
	prio    int16
	fd      uint32
	buf     unsafe.Pointer
	length  uint64
	offset  int64
	_       uint64
	flags   uint32
	resFD   uint32
}

// ring is what io_setup maps: the kernel writes events and tail, we write head. Its address is the context's id.
type ring struct {
	id, nr           uint32
	head, tail       atomic.Uint32
	magic            uint32
	compat, incompat uint32
	header           uint32
}

// Event is a completion: res is the number of bytes, or minus the error's number.
type Event struct {
	Data uint64
	_    uint64
	Res  int64
	_    int64
}

// event returns entry i of the ring, which follows the header.
func (r *ring) event(i uint32) *Event {
	return (*Event)(unsafe.Add(unsafe.Pointer(r), ringHeader+uintptr(i)*unsafe.Sizeof(Event{})))
}

// readable reports whether events can be taken from the ring as we know it.
func (r *ring) readable() bool {
	return r.magic == ringMagic && r.incompat == 0 && r.header == ringHeader && r.nr > 0
}

func ioSetup(depth int) (*ring, error) {
	var r *ring // outside of Go's heap
	_, _, e := unix.Syscall(unix.SYS_IO_SETUP, uintptr(depth), uintptr(unsafe.Pointer(&r)), 0)
	if e != 0 {
		return nil, e
	}
	return r, nil
}

func ioDestroy(r *ring) {
	unix.Syscall(unix.SYS_IO_DESTROY, uintptr(unsafe.Pointer(r)), 0, 0)
}

func ioSubmit(r *ring, list []*iocb) (int, unix.Errno) {
	n, _, e := unix.Syscall(unix.SYS_IO_SUBMIT, uintptr(unsafe.Pointer(r)), uintptr(len(list)), uintptr(unsafe.Pointer(unsafe.SliceData(list))))
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// ioGetevents takes what is there, without waiting.
func ioGetevents(r *ring, out []Event) (int, unix.Errno) {
	var zero unix.Timespec
	n, _, e := unix.Syscall6(unix.SYS_IO_GETEVENTS, uintptr(unsafe.Pointer(r)), 0, uintptr(len(out)), uintptr(unsafe.Pointer(unsafe.SliceData(out))), uintptr(unsafe.Pointer(&zero)), 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}
