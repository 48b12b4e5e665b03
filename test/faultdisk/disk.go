package main

import (
	"encoding/json"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"hast/hastd/device"
	"hast/proto"
)

// entries is how many requests may be under way, those that hang included.
const entries = 192

// disk is a device.Sink over a real file.
type disk struct {
	file   *os.File
	faults faults
	free   chan *device.Request
	bufs   [entries][]byte

	mu       sync.Mutex
	volatile bool
	undo     []image // what the writes since the last flush replaced, oldest first
}

// image is a piece of the file as it was.
type image struct {
	off  int64
	data []byte
}

func newDisk(f *os.File) (*disk, error) {
	const size = int(proto.MaxRequest)
	arena, err := unix.Mmap(-1, 0, entries*size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, err
	}
	d := &disk{file: f, free: make(chan *device.Request, entries)}
	d.faults.release = make(chan struct{})
	for i := range d.bufs {
		d.bufs[i] = arena[i*size : (i+1)*size : (i+1)*size]
		d.free <- &device.Request{Tag: uint32(i)}
	}
	return d, nil
}

// Get implements device.Sink.
func (d *disk) Get(n proto.Length) *device.Request { return d.fill(<-d.free, n) }

// TryGet implements device.Sink.
func (d *disk) TryGet(n proto.Length) *device.Request {
	select {
	case r := <-d.free:
		return d.fill(r, n)
	default:
		return nil
	}
}

func (d *disk) fill(r *device.Request, n proto.Length) *device.Request {
	*r = device.Request{Tag: r.Tag, Len: n}
	if n > 0 {
		r.Buf = d.bufs[r.Tag][:n]
	}
	return r
}

// Put implements device.Sink.
func (d *disk) Put(r *device.Request) { d.free <- r }

// Submit implements device.Sink. Each request has a goroutine, because each may be delayed by its own time.
func (d *disk) Submit(batch []*device.Request) {
	for _, r := range batch {
		go func() {
			var lose bool
			if r.Errno, lose = d.faults.meet(r); r.Errno == proto.OK {
				r.Errno = d.execute(r)
			} else if lose {
				d.lose()
			}
			r.Owner.Complete([]*device.Request{r})
		}()
	}
}

func (d *disk) execute(r *device.Request) proto.Errno {
	var err error
	switch r.Op {
	case proto.OpRead:
		_, err = d.file.ReadAt(r.Buf, int64(r.Off))
	case proto.OpWrite:
		err = d.change(int64(r.Off), int64(r.Len), func() error {
			_, err := d.file.WriteAt(r.Buf, int64(r.Off))
			return err
		})
	case proto.OpZero:
		mode := uint32(unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE)
		err = d.change(int64(r.Off), int64(r.Len), func() error {
			return unix.Fallocate(int(d.file.Fd()), mode, int64(r.Off), int64(r.Len))
		})
	case proto.OpFlush:
		d.mu.Lock()
		d.undo = nil
		d.mu.Unlock()
	}
	if err != nil {
		return proto.EIO
	}
	return proto.OK
}

// change runs write, which replaces [off, off+n), and remembers what was there if there is a cache to lose.
func (d *disk) change(off, n int64, write func() error) error {
	d.mu.Lock()
	if !d.volatile {
		d.mu.Unlock()
		return write()
	}
	defer d.mu.Unlock()
	old := image{off, make([]byte, n)}
	if _, err := d.file.ReadAt(old.data, off); err != nil {
		return err
	}
	d.undo = append(d.undo, old)
	return write()
}

// lose undoes what was written since the last flush: what a disk does whose flush failed.
func (d *disk) lose() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := len(d.undo) - 1; i >= 0; i-- {
		if _, err := d.file.WriteAt(d.undo[i].data, d.undo[i].off); err != nil {
			panic(err)
		}
	}
	d.undo = nil
}

// command executes a line of the control socket.
func (d *disk) command(line string) (string, error) {
	switch words := strings.Fields(line); strings.Join(words, " ") {
	case "volatile":
		d.mu.Lock()
		d.volatile = true
		d.mu.Unlock()
	case "clear":
		d.faults.clear()
	case "stat":
		b, err := json.Marshal(d.faults.stat())
		return string(b), err
	default:
		r, err := parse(words)
		if err != nil {
			return "", err
		}
		d.faults.add(r)
	}
	return "ok", nil
}
