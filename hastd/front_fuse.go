package hastd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hast/hastd/device"
	"hast/hastd/device/fuse"
	"hast/hastd/worker/ipc"
)

// fuseFront is a FUSE file under a loop device. The descriptor of the mount is
// what keeps the device alive; it exists in the parent, in the worker and in hold, so that any two of them may die.
type fuseFront struct {
	dir      string // mount point, private to us
	devDir   string
	name     string
	file     *os.File
	loop     fuse.Loop
	attached bool
	prior    json.RawMessage // what the first worker agreed with the kernel
	keep     *keeper
}

// fuseDir is where a resource's FUSE file system is mounted.
func (d *Daemon) fuseDir(s *spec) string { return filepath.Join(d.runDir, s.deviceName+".fuse") }

// newFuseFront mounts the file system and gives its descriptor to hold. The loop device comes with attach.
func (d *Daemon) newFuseFront(s *spec) (front, error) {
	dir := d.fuseDir(s)
	// Whatever is there has no descriptor anywhere any more, or it would have been adopted.
	if err := fuse.Clean(dir); err != nil {
		return nil, fmt.Errorf("what a former life left at %s is in the way: %w", dir, err)
	}
	file, err := fuse.Mount(dir)
	if err != nil {
		return nil, err
	}
	f := &fuseFront{dir: dir, devDir: filepath.Dir(s.device), name: s.deviceName, file: file}
	if f.keep, err = d.newKeeper(s.name, s.deviceName); err == nil {
		err = f.keep.put(f.blob(s.name, nil, false), file)
	}
	if err != nil {
		f.remove()
		return nil, err
	}
	return f, nil
}

// adopt makes a front of what a dead parent left behind.
func (d *Daemon) adoptFuse(s *spec, v *ipc.Survivor, file *os.File, k *keeper) *fuseFront {
	f := &fuseFront{dir: d.fuseDir(s), devDir: filepath.Dir(s.device), name: s.deviceName, file: file, prior: v.Prior, keep: k}
	if v.Loop != nil && json.Unmarshal(v.Loop, &f.loop) == nil {
		f.attached = true
	} else if l, found, err := fuse.FindLoop(f.dir); err == nil && found {
		f.loop, f.attached = l, true
	}
	return f
}

func (f *fuseFront) blob(resource string, w *workerProc, orderly bool) []byte {
	v := ipc.Survivor{Resource: resource, Prior: f.prior, Orderly: orderly}
	if f.attached {
		v.Loop, _ = json.Marshal(f.loop) // a number and a path
	}
	if w != nil {
		v.Worker, v.Started = w.pid, startTime(w.pid)
	}
	b, err := json.Marshal(&v)
	if err != nil {
		panic("hastd: survivor: " + err.Error()) // only plain fields, and JSON that was parsed before
	}
	return b
}

func (f *fuseFront) path() string { return filepath.Join(f.devDir, f.name) }

func (f *fuseFront) give() (*ipc.Device, []string, []*os.File) {
	names, files := []string{ipc.FileDevice}, []*os.File{f.file}
	names, files = append(names, ipc.FileHold), append(files, f.keep.listen)
	return &ipc.Device{Front: frontFUSE, Name: f.name, Negotiated: f.prior}, names, files
}

// attach tells hold who serves the device before it can be used, waits for the
// server, and makes the loop device unless it has survived.
func (f *fuseFront) attach(ctx context.Context, w *workerProc, negotiated func() json.RawMessage) error {
	if err := f.keep.put(f.blob(w.name, w, false), f.file); err != nil {
		return err
	}
	if err := waitServing(ctx, w, negotiated); err != nil {
		return err
	}
	f.prior = negotiated()
	if !f.attached {
		st, _ := w.snapshot()
		limit := attachTimeout
		if end, ok := ctx.Deadline(); ok {
			limit = time.Until(end)
		}
		l, err := fuse.Attach(f.dir, device.Info{Name: f.name, Size: st.DataSize, Logical: st.Logical}, limit)
		if err != nil {
			return err
		}
		f.loop, f.attached = l, true
	}
	if err := f.keep.put(f.blob(w.name, w, false), f.file); err != nil {
		return err
	}
	_, err := fuse.Publish(f.devDir, f.name, f.loop)
	return err
}

// detach removes the name, the loop device and the mount. While the device is
// in use it only says by whom; with force its users get errors from then on.
func (f *fuseFront) detach(ctx context.Context, w *workerProc, force bool) error {
	if err := fuse.Unpublish(f.devDir, f.name); err != nil {
		return err
	}
	if f.attached {
		err := f.detachLoop(ctx)
		if err != nil && !force {
			if _, e := fuse.Publish(f.devDir, f.name, f.loop); e != nil {
				err = errors.Join(err, e)
			}
			return err
		}
		if err != nil {
			if e := fuse.Abort(f.dir); e != nil {
				return errors.Join(err, e)
			}
			// Its users get errors now; when the last one has closed it, it goes as well.
			if e := f.loop.Release(); e != nil {
				return errors.Join(err, e)
			}
		}
		f.attached = false
	}
	if w != nil && !w.gone() {
		if err := w.detach(ctx, true); err != nil {
			return err
		}
	}
	return f.remove()
}

// detachLoop frees the loop device, in a goroutine of its own because the kernel waits for the worker's answers.
func (f *fuseFront) detachLoop(ctx context.Context) error {
	done := make(chan error, 1)
	l := f.loop
	go func() { done <- l.Detach() }()
	select {
	case err := <-done:
		if errors.Is(err, fuse.ErrInUse) {
			return fmt.Errorf("%w (%s)", err, usersOf(l))
		}
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s does not let go: its last requests are not answered", l.Path())
	}
}

// remove unmounts and ends hold.
func (f *fuseFront) remove() error {
	if f.keep != nil {
		f.keep.quit()
	}
	f.file.Close()
	return fuse.Unmount(f.dir)
}

// release leaves the device with hold when the daemon ends.
func (f *fuseFront) release(resource string) {
	f.keep.put(f.blob(resource, nil, true), f.file)
	f.keep.leave()
	f.file.Close()
}

// usersOf tells who has the device, as far as that can be seen.
func usersOf(l fuse.Loop) string {
	var users []string
	if f, err := os.Open("/proc/self/mountinfo"); err == nil {
		defer f.Close()
		for sc := bufio.NewScanner(f); sc.Scan(); {
			before, after, _ := strings.Cut(sc.Text(), " - ")
			where, what := strings.Fields(before), strings.Fields(after)
			if len(where) > 4 && len(what) > 1 && what[1] == l.Path() {
				users = append(users, "mounted on "+where[4])
			}
		}
	}
	if holders, err := os.ReadDir(fmt.Sprintf("/sys/block/loop%d/holders", l.Number)); err == nil {
		for _, h := range holders {
			users = append(users, "part of "+h.Name())
		}
	}
	if users == nil {
		return "open by a process: fuser -v " + l.Path() + " shows which"
	}
	return strings.Join(users, ", ")
}
