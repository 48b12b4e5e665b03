package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"hast/hastd/device"
	"hast/hastd/device/fuse"
	"hast/hastd/device/nbdserver"
	"hast/hastd/worker/ipc"
)

// frontEnds is a front-end that serves: an NBD server or a FUSE server.
type frontEnds interface {
	// users is how many clients are known to be connected; 0 where the parent knows better.
	users() int
	// stop stops taking requests; done is closed when those under way are answered.
	stop()
	done() <-chan struct{}
}

// serveDevice starts the front-end that the parent hands over.
func (w *worker) serveDevice(d *ipc.Device, names []string, files []*os.File) error {
	w.mu.Lock()
	busy := w.front != nil
	w.mu.Unlock()
	if busy {
		return errors.New("there is a front-end already")
	}
	named := make(map[string]*os.File)
	for i, n := range names {
		named[n] = files[i]
	}
	info := device.Info{Name: d.Name, Size: w.super.DataSize, Logical: w.super.Logical}
	var f frontEnds
	var err error
	switch {
	case named[ipc.FileListen] != nil:
		f, err = w.startNBD(named[ipc.FileListen], info)
	case named[ipc.FileDevice] != nil:
		f, err = w.startFUSE(named[ipc.FileDevice], info, d.Negotiated)
	default:
		err = errors.New("no descriptor of a device")
	}
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.front, w.hold = f, named[ipc.FileHold]
	w.mu.Unlock()
	return nil
}

// nbd serves NBD clients on the parent's socket.
type nbd struct {
	l     *net.UnixListener
	srv   *nbdserver.Server
	ended chan struct{}

	mu    sync.Mutex
	conns int
}

func (w *worker) startNBD(f *os.File, info device.Info) (frontEnds, error) {
	l, err := net.FileListener(f)
	f.Close()
	if err != nil {
		return nil, fmt.Errorf("socket for NBD clients: %w", err)
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, errors.New("socket for NBD clients: not a unix socket")
	}
	u.SetUnlinkOnClose(false) // its name is the parent's
	n := &nbd{l: u, srv: nbdserver.New(info, w.eng, w.log), ended: make(chan struct{})}
	go n.run(w)
	w.out.put(&ipc.Message{Kind: ipc.KindServing, Blob: json.RawMessage("{}")})
	return n, nil
}

// run accepts clients itself, because it has to know how many there are.
func (n *nbd) run(w *worker) {
	defer close(n.ended)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := n.l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			w.log.Warn("cannot accept an NBD client: " + err.Error())
			time.Sleep(50 * time.Millisecond) // out of descriptors: don't spin
			continue
		}
		n.count(1)
		wg.Go(func() {
			defer n.count(-1)
			if err := n.srv.ServeConn(c); err != nil {
				w.log.Info("NBD client dropped: " + err.Error())
			}
		})
	}
}

func (n *nbd) count(d int)           { n.mu.Lock(); n.conns += d; n.mu.Unlock() }
func (n *nbd) users() int            { n.mu.Lock(); defer n.mu.Unlock(); return n.conns }
func (n *nbd) done() <-chan struct{} { return n.ended }

func (n *nbd) stop() {
	n.l.Close()
	n.srv.Stop()
}

// fuseFront serves the kernel on a FUSE descriptor.
type fuseFront struct {
	srv   *fuse.Server
	file  *os.File // kept for the life of the process: the device lives as long as any copy
	ended chan struct{}
}

func (w *worker) startFUSE(f *os.File, info device.Info, prior json.RawMessage) (frontEnds, error) {
	srv, err := fuse.NewServer(f, info, w.eng, w.log)
	if err != nil {
		return nil, err
	}
	var agreed *fuse.Negotiated
	if prior != nil {
		agreed = new(fuse.Negotiated)
		if err := json.Unmarshal(prior, agreed); err != nil {
			return nil, fmt.Errorf("what the predecessor agreed with the kernel: %w", err)
		}
	}
	u := &fuseFront{srv: srv, file: f, ended: make(chan struct{})}
	go func() {
		defer close(u.ended)
		if err := srv.Serve(context.Background(), agreed, func(n fuse.Negotiated) { w.negotiated(n) }); err != nil && !errors.Is(err, fuse.ErrGone) {
			w.log.Error("front-end: " + err.Error())
		}
	}()
	return u, nil
}

// negotiated tells the parent that the kernel side exists.
func (w *worker) negotiated(n fuse.Negotiated) {
	b, err := json.Marshal(n)
	if err != nil {
		panic("worker: " + err.Error()) // numbers only
	}
	w.mu.Lock()
	w.prior = b
	w.mu.Unlock()
	w.out.put(&ipc.Message{Kind: ipc.KindServing, Blob: b})
}

func (u *fuseFront) users() int            { return 0 }
func (u *fuseFront) done() <-chan struct{} { return u.ended }
func (u *fuseFront) stop()                 { u.srv.Stop() }

// stopFront stops the front-end and waits until what it has under way is
// answered, within limit: frozen requests stay unanswered.
func (w *worker) stopFront(limit time.Duration) {
	w.mu.Lock()
	f := w.front
	w.front = nil
	w.mu.Unlock()
	if f == nil {
		return
	}
	f.stop()
	select {
	case <-f.done():
	case <-time.After(limit):
		w.log.Warn("some requests of the device could not be answered before the end")
	}
}

// detach ends the front-end unless somebody uses it. It answers from a goroutine: requests under way take their time.
func (w *worker) detach(force bool) {
	w.mu.Lock()
	f := w.front
	w.mu.Unlock()
	if f != nil && !force {
		if n := f.users(); n > 0 {
			w.out.put(&ipc.Message{Kind: ipc.KindDetached, Text: fmt.Sprintf("it is in use, NBD connections: %d; disconnect the clients first, or add --force", n)})
			return
		}
	}
	go func() {
		w.stopFront(frontEnd)
		w.out.put(&ipc.Message{Kind: ipc.KindDetached})
	}()
}
