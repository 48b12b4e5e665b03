package hastd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"hast/hastd/worker/ipc"
	"hast/hastd/worker/lease"
	"hast/proto"
)

// spawn opens what a worker needs afresh, starts it and waits until it is
// ready. On an error no worker is left.
func (r *resource) spawn(role proto.Role, successor bool) (*workerProc, error) {
	s := r.current()
	setup := &ipc.Setup{
		Resource: s.name, Role: role, Node: r.d.node, Peer: s.peer, LocalPath: s.local, MetaPath: s.meta,
		BootID: r.d.boot, UID: s.uid, GID: s.gid, LockMem: r.d.lockMem, Key: s.key,
		Successor: successor, Grace: int64(grace), Settings: s.settings, Fake: r.d.fake,
	}
	var names []string
	var files []*os.File
	defer func() { ipc.CloseAll(files) }()
	local, err := r.openLocal(s)
	if err != nil {
		return nil, err
	}
	names, files = append(names, ipc.FileLocal), append(files, local)
	if s.meta != "" {
		meta, err := r.d.openMeta(s.meta)
		if err != nil {
			return nil, &finalError{err.Error()}
		}
		names, files = append(names, ipc.FileMeta), append(files, meta)
	}
	root, err := r.d.emptyRoot()
	if err != nil {
		return nil, &finalError{err.Error()}
	}
	names, files = append(names, ipc.FileRoot), append(files, root)
	grant, err := lease.New()
	if err != nil {
		return nil, err
	}
	// The lease is the Grant's file: it is borrowed for sending, not ours to close.
	sendNames, sendFiles := append(names, ipc.FileLease), append(files[:len(files):len(files)], grant.File())
	grant.Renew(leaseTime)
	r.d.addLease(grant)
	w, err := startWorker(workerStart{log: r.log.With("role", role), setup: setup, names: sendNames, files: sendFiles, grant: grant}, r.bind)
	if err != nil {
		r.d.dropLease(grant)
		return nil, err
	}
	r.mu.Lock()
	r.worker = w
	r.mu.Unlock()
	if err := r.awaitReady(w); err != nil {
		w.end()
		r.forget(w)
		return nil, err
	}
	r.log.Debug("worker is ready", "pid", w.pid, "role", role)
	return w, nil
}

// bind connects a new worker's messages with the resource.
func (r *resource) bind(w *workerProc) {
	w.onReport = func(rep *ipc.Report) { r.d.report(r, rep) }
	w.onConnect = func(why string) { r.dials.want(w, why) }
	w.onChange = r.poke
}

func (r *resource) awaitReady(w *workerProc) error {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	err := r.await(ctx, w, func() (bool, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.ready, nil
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("worker %d was not ready within %v: does its disk answer?", w.pid, readyTimeout)
	}
	return err
}

// openLocal opens the backing device with its lock. A predecessor's last I/O
// may still be under way in the kernel, so it waits for the lock, but not for ever.
func (r *resource) openLocal(s *spec) (*os.File, error) {
	end := time.Now().Add(openPatience)
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 500*time.Millisecond) {
		f, held, err := r.d.openLocal(s.local)
		if err == nil {
			return f, nil
		}
		if !held {
			return nil, &finalError{err.Error()}
		}
		if time.Now().Add(wait).After(end) {
			return nil, err
		}
		r.setPhase("waiting for the lock of %s", s.local)
		time.Sleep(wait)
	}
}

// permit lets the machine go on without its peer.
func (w *workerProc) permit(force bool) error {
	return w.conn.Send(&ipc.Message{Kind: ipc.KindPermit, Force: force}, sendTimeout)
}
