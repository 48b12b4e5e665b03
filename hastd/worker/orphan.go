package worker

import (
	"context"
	"encoding/json"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"hast/hastd/hold"
	"hast/hastd/worker/ipc"
	"hast/proto"
)

// orphan is what a worker does when its parent is dead: it finishes what is
// under way, lets go of the peer and the disk, and keeps the device's descriptor for whoever asks on hold's socket: the
// next parent, which ends it. Its lease has run out or will: it must not serve on. Without a device it just ends.
func (w *worker) orphan() int {
	w.mu.Lock()
	front, listen := w.front, w.hold
	w.mu.Unlock()
	w.stopFront(orphanEnd)
	w.halt(errors.New("the parent process died"))
	<-w.ended
	w.links.Wait()
	// No seal: the term goes on under the successor, and the map says what was under way.
	w.data.Close()
	if w.meta != nil {
		w.meta.Close()
	}
	f, ok := front.(*fuseFront)
	if !ok || listen == nil {
		return proto.ExitOK
	}
	return w.keep(f, listen)
}

// keep serves hold's socket.
func (w *worker) keep(f *fuseFront, listen *os.File) int {
	w.mu.Lock()
	prior := w.prior
	w.mu.Unlock()
	blob, err := json.Marshal(&ipc.Survivor{Resource: w.setup.Resource, Worker: os.Getpid(), Started: w.setup.Started, Prior: prior})
	if err != nil {
		return proto.ExitSoftware
	}
	fd, err := unix.FcntlInt(listen.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return proto.ExitOS
	}
	l, err := hold.FileListener(os.NewFile(uintptr(fd), "hold"))
	if err != nil {
		return proto.ExitOS
	}
	defer l.Close()
	store := new(hold.Store)
	defer store.Close()
	if err := store.Put(ipc.HoldLabel, blob, int(f.file.Fd()), int(listen.Fd())); err != nil {
		return proto.ExitOS
	}
	hold.Serve(context.Background(), l, store, "worker")
	return proto.ExitOK
}
