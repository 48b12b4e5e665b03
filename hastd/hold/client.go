package hold

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// Client talks to whoever serves the socket at Path. Each call makes a connection of its own and ends within
// twice Timeout (0: 5 s), whatever the other side does (rule 14). Safe for concurrent use.
type Client struct {
	Path    string
	Timeout time.Duration
}

// Put keeps duplicates of files with blob (JSON, may be nil) under label, in place of what was there. It borrows files.
func (c *Client) Put(label string, blob json.RawMessage, files ...*os.File) error {
	fds := make([]int, len(files))
	for i, f := range files {
		rc, err := f.SyscallConn()
		if err != nil {
			return fmt.Errorf("hold %s: %w", label, err)
		}
		if err := rc.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
			return fmt.Errorf("hold %s: %w", label, err)
		}
	}
	if err := check(label, blob, len(fds)); err != nil {
		return err
	}
	_, _, err := c.call(request{Op: opPut, Label: label, Blob: blob}, fds)
	return err
}

// Get returns the blob and duplicates of the descriptors of label, which the caller closes. ErrNotHeld.
func (c *Client) Get(label string) (blob json.RawMessage, files []*os.File, err error) {
	r, fds, err := c.call(request{Op: opGet, Label: label}, nil)
	if err != nil {
		return nil, nil, err
	}
	for i, fd := range fds {
		files = append(files, os.NewFile(uintptr(fd), fmt.Sprintf("%s-%d", label, i)))
	}
	return r.Blob, files, nil
}

// Drop makes the holder forget label. ErrNotHeld.
func (c *Client) Drop(label string) error {
	_, _, err := c.call(request{Op: opDrop, Label: label}, nil)
	return err
}

// List returns the labels.
func (c *Client) List() ([]string, error) {
	r, _, err := c.call(request{Op: opList}, nil)
	if err != nil {
		return nil, err
	}
	return r.Labels, nil
}

// Ping asks who serves the socket.
func (c *Client) Ping() (Holder, error) {
	r, _, err := c.call(request{Op: opPing}, nil)
	if err != nil {
		return Holder{}, err
	}
	return r.Who, nil
}

// Quit ends whoever answers, and what it holds, and returns who it was. Where a worker
// serves the same socket, another call ends the other.
func (c *Client) Quit() (Holder, error) {
	r, _, err := c.call(request{Op: opQuit}, nil)
	if err != nil {
		return Holder{}, err
	}
	return r.Who, nil
}

// call makes one exchange. The descriptors of the reply are the caller's.
func (c *Client) call(q request, fds []int) (*reply, []int, error) {
	limit := c.Timeout
	if limit == 0 {
		limit = exchangeTime
	}
	what := func(err error) error { return fmt.Errorf("hold (%s): %s: %w", c.Path, q.Op, err) }
	nc, err := net.DialTimeout("unixpacket", c.Path, limit)
	if err != nil {
		return nil, nil, what(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(limit))
	p := newPacket(nc.(*net.UnixConn))
	if err := p.send(q, fds); err != nil {
		return nil, nil, what(err)
	}
	var r reply
	got, _, err := p.receive(&r)
	if err != nil {
		return nil, nil, what(err)
	}
	if r.Error != "" {
		closeAll(got)
		if r.Absent {
			return nil, nil, what(fmt.Errorf("%q: %w", q.Label, ErrNotHeld))
		}
		return nil, nil, what(errors.New(r.Error))
	}
	return &r, got, nil
}
