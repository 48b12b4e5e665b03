package nbdserver

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"hast/hastd/device/devicetest"
	"hast/proto"
)

// client is a plain NBD client, safe for concurrent use: it shares no code with the server but the numbers.
type client struct {
	c    net.Conn
	size uint64
	fl   uint16

	wmu  sync.Mutex
	mu   sync.Mutex
	seq  uint64
	wait map[uint64]*call
	err  error
}

type call struct {
	buf  []byte
	errc chan error
}

// start runs a server for s and returns its socket's path.
func start(t testing.TB, s *devicetest.Sink) (string, *Server) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nbd")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	srv := New(s.Info(), s, nil)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		l.Close()
	})
	return path, srv
}

func dial(t testing.TB, path string) *client {
	t.Helper()
	c, err := connect(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

func connect(path string) (*client, error) {
	nc, err := net.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	c := &client{c: nc, wait: make(map[uint64]*call)}
	nc.SetDeadline(time.Now().Add(5 * time.Second))
	if err := c.greet(); err != nil {
		nc.Close()
		return nil, err
	}
	nc.SetDeadline(time.Time{})
	go c.receive()
	return c, nil
}

func (c *client) greet() error {
	var b [18]byte
	if _, err := io.ReadFull(c.c, b[:]); err != nil {
		return err
	}
	out := binary.BigEndian.AppendUint32(nil, flagFixedNewstyle|flagNoZeroes)
	out = append(out, optionBytes(optGo, infoBytes("", infoBlockSize))...)
	if _, err := c.c.Write(out); err != nil {
		return err
	}
	for {
		kind, data, err := readReply(c.c)
		if err != nil {
			return err
		}
		switch {
		case kind == repAck:
			return nil
		case kind == repInfo && binary.BigEndian.Uint16(data) == infoExport:
			c.size, c.fl = binary.BigEndian.Uint64(data[2:]), binary.BigEndian.Uint16(data[10:])
		case kind != repInfo:
			return fmt.Errorf("reply %#x", kind)
		}
	}
}

func optionBytes(opt uint32, data []byte) []byte {
	b := binary.BigEndian.AppendUint64(nil, magicOption)
	b = binary.BigEndian.AppendUint32(b, opt)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func infoBytes(name string, wants ...uint16) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(name)))
	b = append(b, name...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(wants)))
	for _, w := range wants {
		b = binary.BigEndian.AppendUint16(b, w)
	}
	return b
}

func readReply(r io.Reader) (kind uint32, data []byte, err error) {
	var h [20]byte
	if _, err = io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	if binary.BigEndian.Uint64(h[:]) != magicOptReply {
		return 0, nil, fmt.Errorf("bad magic %x", h[:8])
	}
	data = make([]byte, binary.BigEndian.Uint32(h[16:]))
	_, err = io.ReadFull(r, data)
	return binary.BigEndian.Uint32(h[12:]), data, err
}

func requestBytes(flags, cmd uint16, cookie, off uint64, n uint32) []byte {
	b := binary.BigEndian.AppendUint32(nil, magicRequest)
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint16(b, cmd)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, off)
	return binary.BigEndian.AppendUint32(b, n)
}

func (c *client) close() { c.c.Close() }

func (c *client) receive() {
	var err error
	for err == nil {
		var h [replySize]byte
		if _, err = io.ReadFull(c.c, h[:]); err != nil {
			break
		}
		c.mu.Lock()
		w := c.wait[binary.BigEndian.Uint64(h[8:])]
		delete(c.wait, binary.BigEndian.Uint64(h[8:]))
		c.mu.Unlock()
		if binary.BigEndian.Uint32(h[:]) != magicSimple || w == nil {
			err = fmt.Errorf("garbage %x", h)
			break
		}
		if e := binary.BigEndian.Uint32(h[4:]); e != 0 {
			w.errc <- proto.Errno(e)
			continue
		}
		_, err = io.ReadFull(c.c, w.buf)
		w.errc <- err
	}
	c.mu.Lock()
	c.err = err
	for _, w := range c.wait {
		w.errc <- err
	}
	c.wait = nil
	c.mu.Unlock()
}

func (c *client) call(flags, cmd uint16, off uint64, n uint32, out, in []byte) error {
	w := &call{buf: in, errc: make(chan error, 1)}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return c.err
	}
	c.seq++
	cookie := c.seq
	c.wait[cookie] = w
	c.mu.Unlock()
	c.wmu.Lock()
	_, err := (&net.Buffers{requestBytes(flags, cmd, cookie, off, n), out}).WriteTo(c.c)
	c.wmu.Unlock()
	if err != nil {
		return err
	}
	return <-w.errc
}

func (c *client) Read(p []byte, off uint64) error {
	return c.call(0, cmdRead, off, uint32(len(p)), nil, p)
}

func (c *client) Write(p []byte, off uint64, fua bool) error {
	var f uint16
	if fua {
		f = cmdFlagFUA
	}
	return c.call(f, cmdWrite, off, uint32(len(p)), p, nil)
}

func (c *client) Zero(off, n uint64, keep bool) error {
	var f uint16
	if keep {
		f = cmdFlagNoHole
	}
	return c.call(f, cmdWriteZeroes, off, uint32(n), nil, nil)
}

func (c *client) Trim(off, n uint64) error { return c.call(0, cmdTrim, off, uint32(n), nil, nil) }

func (c *client) Flush() error { return c.call(0, cmdFlush, 0, 0, nil, nil) }
