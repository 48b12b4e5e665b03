package store

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"hast/extent"
	"hast/hastd/store/aio"
	"hast/proto"
)

// Disk is the backing device of one worker. Its methods may be called
// concurrently; they block for as long as the device takes. Buffers are page-aligned arena memory.
type Disk struct {
	data   *os.File
	meta   *os.File
	base   int64 // where the metadata area begins in meta
	size   proto.Offset
	flush  func() bool // metaflush
	zeroes []byte
}

// New makes a Disk of opened files. meta is nil for internal metadata. metaFlush says, each time, whether metadata is flushed.
func New(data, meta *os.File, sb *extent.Superblock, metaFlush func() bool) (*Disk, error) {
	d := &Disk{data: data, meta: meta, size: sb.DataSize, flush: metaFlush}
	if meta == nil {
		d.meta = data
	}
	n, _, err := size(d.meta)
	if err != nil {
		return nil, err
	}
	d.base = extent.LayoutFor(sb.Geometry, int(sb.HotExtents)).AreaStart(n)
	if meta == nil && d.base < int64(sb.DataSize) {
		return nil, fmt.Errorf("%s has shrunk: %d bytes of data and their metadata no longer fit", data.Name(), sb.DataSize)
	}
	if d.zeroes, err = unix.Mmap(-1, 0, 1<<20, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return nil, fmt.Errorf("zero buffer: %w", err)
	}
	return d, nil
}

// Size is the size of the data area.
func (d *Disk) Size() proto.Offset { return d.size }

// FD is the descriptor of the data area, which begins at 0.
func (d *Disk) FD() int { return int(d.data.Fd()) }

// Queue sets up asynchronous reads and writes of the data area, depth at a time; with an error there are none.
func (d *Disk) Queue(depth int) (*aio.Context, error) { return aio.New(d.FD(), depth) }

// Outcome says what became of a read or write of n bytes that came out of a Queue with res. again means that it is not
// done and has to be done by Read or Write: the kernel would have had to wait, did a part of it, or wants other pieces.
func Outcome(res int64, n proto.Length) (e proto.Errno, again bool) {
	switch {
	case res == int64(n):
		return proto.OK, false
	case res >= 0:
		return proto.OK, true
	}
	switch err := unix.Errno(-res); err {
	case unix.EAGAIN, unix.EINVAL, unix.EOPNOTSUPP, unix.EINTR:
		return proto.OK, true
	default:
		return errno(err), false
	}
}

// Read fills b from off.
func (d *Disk) Read(b []byte, off proto.Offset) proto.Errno {
	for len(b) > 0 {
		n, err := unix.Pread(d.FD(), b, int64(off))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return errno(err)
		}
		if n == 0 {
			return proto.EIO
		}
		b, off = b[n:], off+proto.Offset(n)
	}
	return proto.OK
}

// Write stores b at off; with fua it is on stable storage on return.
func (d *Disk) Write(b []byte, off proto.Offset, fua bool) proto.Errno {
	return errno(pwrite(d.FD(), b, int64(off), fua))
}

func pwrite(fd int, b []byte, off int64, sync bool) error {
	for len(b) > 0 {
		var n int
		var err error
		if sync {
			iov := unix.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))}
			r, _, e := unix.Syscall6(unix.SYS_PWRITEV2, uintptr(fd), uintptr(unsafe.Pointer(&iov)), 1, uintptr(off), 0, unix.RWF_DSYNC)
			n = int(r)
			if e != 0 {
				n, err = 0, e
			}
		} else {
			n, err = unix.Pwrite(fd, b, off)
		}
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return unix.EIO
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// Zero makes [off, off+n) read as zeroes; it may give the space back unless noUnmap.
func (d *Disk) Zero(off proto.Offset, n proto.Length, fua, noUnmap bool) proto.Errno {
	modes := [2]uint32{unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE}
	if noUnmap {
		modes[0] = modes[1]
	}
	for _, m := range modes {
		var err error
		for {
			if err = unix.Fallocate(d.FD(), m, int64(off), int64(n)); err != unix.EINTR {
				break
			}
		}
		switch err {
		case nil:
			if fua {
				return d.Flush()
			}
			return proto.OK
		case unix.EOPNOTSUPP, unix.EINVAL, unix.ENOSYS, unix.EPERM:
			continue
		}
		return errno(err)
	}
	for n > 0 {
		k := min(int(n), len(d.zeroes))
		if e := d.Write(d.zeroes[:k], off, fua); e != proto.OK {
			return e
		}
		off, n = off+proto.Offset(k), n-proto.Length(k)
	}
	return proto.OK
}

// Flush brings everything written before it to stable storage.
func (d *Disk) Flush() proto.Errno { return errno(fdatasync(d.data)) }

func fdatasync(f *os.File) error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}

// WriteMeta writes a block of the metadata area; b is aligned and a multiple of 4096 bytes.
func (d *Disk) WriteMeta(b []byte, off int64) proto.Errno {
	return errno(pwrite(int(d.meta.Fd()), b, d.base+off, false))
}

// FlushMeta follows the WriteMeta calls of one transaction. With metaflush off it does nothing.
func (d *Disk) FlushMeta() proto.Errno {
	if d.flush != nil && !d.flush() {
		return proto.OK
	}
	return errno(fdatasync(d.meta))
}

// Close gives the device, and its lock, back.
func (d *Disk) Close() error {
	unix.Munmap(d.zeroes)
	err := d.data.Close()
	if d.meta != d.data {
		if e := d.meta.Close(); err == nil {
			err = e
		}
	}
	return err
}
