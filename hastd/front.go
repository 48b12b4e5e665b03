package hastd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"hast/hastd/worker/ipc"
)

// Bounds of what is done to a device.
const (
	// attachTimeout: udev's probe of a new device reads it, through a worker that has just connected.
	attachTimeout = 15 * time.Second
	// detachTimeout: the kernel flushes the device before it lets go.
	detachTimeout = 10 * time.Second
)

// front is the privileged half of a resource's device: what the parent makes,
// keeps and removes, while workers come and go.
type front interface {
	// give says what a worker needs to serve the device; the files are borrowed.
	give() (*ipc.Device, []string, []*os.File)
	// attach makes the device appear under its name, once a worker serves it. negotiated is what that worker reported.
	attach(ctx context.Context, w *workerProc, negotiated func() json.RawMessage) error
	// detach takes the device away, or fails with the reason if it is in use, and then leaves it as it was. With force
	// users are cut off where the front-end can do that.
	detach(ctx context.Context, w *workerProc, force bool) error
	// release lets go of the resource's device when the daemon ends: what is held elsewhere stays.
	release(resource string)
	// path is where users find it.
	path() string
}

// newFront makes the front-end that the resource is configured for.
func (d *Daemon) newFront(s *spec) (front, error) {
	switch s.front {
	case frontNBD:
		return newNBDFront(filepath.Join(d.runDir, s.deviceName+".nbd"), s.deviceName)
	case frontFUSE:
		return d.newFuseFront(s)
	}
	return nil, fmt.Errorf("unknown front-end %q", s.front)
}

// serve gives the front-end to w and waits until it answers, then makes the device appear.
func (r *resource) serve(ctx context.Context, w *workerProc) error {
	dev, names, files := r.front.give()
	if err := w.conn.Send(&ipc.Message{Kind: ipc.KindDevice, Device: dev, Files: names}, sendTimeout, files...); err != nil {
		return fmt.Errorf("cannot hand the device to worker %d: %w", w.pid, err)
	}
	// The kernel's side may need answers of the worker while it is made, so both go on at once.
	attached := make(chan error, 1)
	f := r.front
	go func() {
		attached <- f.attach(ctx, w, func() json.RawMessage { w.mu.Lock(); defer w.mu.Unlock(); return w.serving })
		r.poke()
	}()
	err := r.await(ctx, w, func() (bool, error) {
		select {
		case err := <-attached:
			return true, err
		default:
			return false, nil
		}
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the device did not come up within %v", attachTimeout)
	}
	if err == nil {
		r.mu.Lock()
		r.device = f.path()
		r.mu.Unlock()
	}
	return err
}

// dropFront takes the device away. If that is refused everything stays as it was.
func (r *resource) dropFront(ctx context.Context, force bool) error {
	if err := r.front.detach(ctx, r.proc(), force); err != nil {
		return err
	}
	r.front = nil
	r.mu.Lock()
	r.device = ""
	r.mu.Unlock()
	return nil
}

// nbdFront is a listening unix socket. It stays with the parent, so that
// clients find it again while a worker is replaced.
type nbdFront struct {
	sock string
	name string
	file *os.File
}

// newNBDFront listens on sock, for root alone from its first moment: it is bound
// under another name, restricted, and then renamed, which also replaces what a former life left.
func newNBDFront(sock, name string) (*nbdFront, error) {
	tmp := sock + ".new"
	os.Remove(tmp)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("socket for NBD clients: %w", err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	f, err := l.File()
	if err == nil {
		if err = os.Chmod(tmp, 0o600); err == nil {
			err = os.Rename(tmp, sock)
		}
	}
	if err != nil {
		os.Remove(tmp)
		if f != nil {
			f.Close()
		}
		return nil, fmt.Errorf("socket for NBD clients: %w", err)
	}
	return &nbdFront{sock, name, f}, nil
}

func (f *nbdFront) path() string { return f.sock }

func (f *nbdFront) give() (*ipc.Device, []string, []*os.File) {
	return &ipc.Device{Front: frontNBD, Name: f.name}, []string{ipc.FileListen}, []*os.File{f.file}
}

func (f *nbdFront) attach(ctx context.Context, w *workerProc, negotiated func() json.RawMessage) error {
	return waitServing(ctx, w, negotiated)
}

// waitServing polls for the worker's word; its goroutine has no other way to wait for it, and it comes within milliseconds.
func waitServing(ctx context.Context, w *workerProc, negotiated func() json.RawMessage) error {
	t := time.NewTicker(2 * time.Millisecond)
	defer t.Stop()
	for negotiated() == nil {
		select {
		case <-t.C:
		case <-w.done:
			return errors.New("worker died before it served the device")
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// detach removes the name first, so that nobody connects any more, then asks
// the worker to end its clients' connections. A worker that is dead has none.
func (f *nbdFront) detach(ctx context.Context, w *workerProc, force bool) error {
	if w != nil && !w.gone() {
		if err := w.detach(ctx, force); err != nil {
			return fmt.Errorf("device %s: %w", f.sock, err)
		}
	}
	os.Remove(f.sock)
	f.file.Close()
	return nil
}

func (f *nbdFront) release(string) {
	os.Remove(f.sock)
	f.file.Close()
}

// detach asks the worker to end its front-end, and waits for that.
func (w *workerProc) detach(ctx context.Context, force bool) error {
	w.mu.Lock()
	w.detached, w.refusal = false, ""
	w.mu.Unlock()
	if err := w.conn.Send(&ipc.Message{Kind: ipc.KindDetach, Force: force}, sendTimeout); err != nil {
		return nil // it does not listen; it will be killed, and its clients with it
	}
	t := time.NewTicker(2 * time.Millisecond)
	defer t.Stop()
	for {
		w.mu.Lock()
		done, refusal := w.detached, w.refusal
		w.mu.Unlock()
		switch {
		case done && refusal != "":
			return errors.New(refusal)
		case done:
			return nil
		}
		select {
		case <-t.C:
		case <-w.done:
			return nil
		case <-ctx.Done():
			return nil // likewise
		}
	}
}
