package fuse

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"hast/hastd/device"
	"hast/proto"
)

// init answers INIT. A kernel of another major version sends INIT again when it sees ours.
func (s *Server) init(h *header, body []byte, n int) error {
	b := append(make([]byte, 0, 128), body...)
	if n > len(s.head) { // INIT's body is longer than a WRITE's
		b = append(b, s.room.Buf[:min(n-len(s.head), 64)]...)
	}
	in, ok := parseInit(b)
	if !ok || in.major < majorVersion {
		s.reply(h.unique, proto.EINVAL, 0)
		return fmt.Errorf("fuse server of %s: the kernel's INIT is of version %d.%d", s.info.Name, in.major, in.minor)
	}
	neg := Negotiated{Minor: min(in.minor, minorVersion), Flags: in.flags & wanted, MaxWrite: maxWrite}
	out := s.out[outHeaderSize:]
	putInitOut(out, &neg, in.readahead)
	if in.major > majorVersion {
		s.reply(h.unique, proto.OK, initOutSize)
		return nil
	}
	if in.minor < minorRequired || neg.Flags&required != required {
		s.reply(h.unique, proto.ENOTSUP, 0)
		return fmt.Errorf("fuse server of %s: the kernel's FUSE is %d.%d with flags %#x, Linux 5.4 or newer is needed; use device = \"nbd-server\"",
			s.info.Name, in.major, in.minor, in.flags)
	}
	s.reply(h.unique, proto.OK, initOutSize)
	s.announce(neg)
	return nil
}

// attend answers requests about names and attributes. Whatever is not known gets ENOSYS, which
// the kernel remembers where that matters.
func (s *Server) attend(h *header, body []byte) {
	const enosys, enoent = proto.Errno(unix.ENOSYS), proto.Errno(unix.ENOENT)
	out := s.out[outHeaderSize:]
	errno, n := proto.OK, 0
	known := h.node == rootNode || h.node == diskNode
	switch h.opcode {
	case opLookup:
		if h.node != rootNode || !isDisk(body) {
			errno = enoent
			break
		}
		putEntryOut(out, diskNode, &s.info)
		n = entryOutSize
	case opGetattr:
		if !known {
			errno = enoent
			break
		}
		putAttrOut(out, h.node, &s.info)
		n = attrOutSize
	case opSetattr:
		errno = proto.EPERM // the size is the device's; nobody needs the rest
	case opOpen:
		if h.node != diskNode {
			errno = proto.EPERM
			break
		}
		clear(out[:openOutSize])
		order.PutUint32(out[8:], openDirectIO|openParallelDirectWrites|openNoFlush)
		n = openOutSize
	case opStatfs:
		putStatfsOut(out, &s.info)
		n = statfsOutSize
	case opRelease, opDestroy:
	default:
		errno = enosys
	}
	s.reply(h.unique, errno, n)
}

// reply sends the reader's own answer: n bytes that are in s.out behind the header.
func (s *Server) reply(unique uint64, errno proto.Errno, n int) {
	if errno != proto.OK {
		n = 0
	}
	putOutHeader(s.out[:], outHeaderSize+n, errno, unique)
	s.write1(s.out[:outHeaderSize+n], nil)
}

// Complete implements device.Completer. The kernel takes each answer without waiting for anybody.
func (s *Server) Complete(batch []*device.Request) {
	n := len(batch)
	for _, r := range batch {
		s.answer(r)
		s.sink.Put(r)
	}
	s.inflight.Add(-n)
}

// joined answers a FALLOCATE that was cut.
func (s *Server) joined(unique uint64, errno proto.Errno) {
	s.answer(&device.Request{Op: proto.OpZero, Handle: unique, Errno: errno})
	s.inflight.Done()
}

func (s *Server) answer(r *device.Request) {
	if r.Errno == proto.ESHUTDOWN {
		return // the successor's
	}
	var b [outHeaderSize + 8]byte
	var data []byte
	n := outHeaderSize
	if r.Errno == proto.OK {
		switch r.Op {
		case proto.OpRead:
			data = r.Buf
		case proto.OpWrite:
			order.PutUint32(b[outHeaderSize:], uint32(r.Len))
			n += 8
		}
	}
	putOutHeader(b[:], n+len(data), r.Errno, r.Handle)
	s.write1(b[:n], data)
}

// write1 sends one answer, which has to be one system call.
func (s *Server) write1(head, data []byte) {
	var iov [2]unix.Iovec
	iov[0].Base = &head[0]
	iov[0].SetLen(len(head))
	n := 1
	if len(data) > 0 {
		iov[1].Base = &data[0]
		iov[1].SetLen(len(data))
		n = 2
	}
	var errno syscall.Errno
	for {
		_, _, errno = syscall.Syscall(unix.SYS_WRITEV, uintptr(s.fd), uintptr(unsafe.Pointer(&iov)), uintptr(n))
		if errno != unix.EINTR {
			break
		}
	}
	runtime.KeepAlive(head)
	runtime.KeepAlive(data)
	// ENOENT: nobody waits for it any more. ENODEV: the mount is gone, as the reader will see.
	if errno != 0 && errno != unix.ENOENT && errno != unix.ENODEV && !s.failed.Swap(true) {
		s.log.Error("fuse: the kernel refused an answer", "device", s.info.Name, "err", errors.New(errno.Error()))
	}
}
