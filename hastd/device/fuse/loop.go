package fuse

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"hast/hastd/device"
)

// ErrInUse: somebody has the device mounted or open.
var ErrInUse = errors.New("the device is in use")

// loopTries bounds the search for a free loop device: another process may take each one that the kernel offers us.
const loopTries = 64

// detachTime is how long Detach waits for the likes of udev, which open every device for a moment when it changes.
const detachTime = 2 * time.Second

// Loop is an attached loop device.
type Loop struct {
	Number int    `json:"number"`
	File   string `json:"file"`         // the path that it was configured with
	ID     string `json:"id,omitempty"` // drawn when it was; "" for one of a version that drew none
}

// idFile is where the id of the loop device on dir is kept, for whoever has lost everything else: beside dir, in the run
// directory, which no other daemon shares and which does not outlive the kernel.
func idFile(dir string) string { return filepath.Clean(dir) + ".id" }

// newLoopID draws an id for the loop device that is about to be put on dir, and stores it first: a device without its id is nobody's.
func newLoopID(dir string) (string, error) {
	id := rand.Text()
	if err := os.WriteFile(idFile(dir), []byte(id), 0o600); err != nil {
		return "", fmt.Errorf("store the loop device's id: %w", err)
	}
	return id, nil
}

// loopID returns the id of the loop device on dir, "" if none was drawn.
func loopID(dir string) (string, error) {
	b, err := os.ReadFile(idFile(dir))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("id of a loop device: %w", err)
	}
	return string(b), nil
}

// Path returns the device's path.
func (l Loop) Path() string { return fmt.Sprintf("/dev/loop%d", l.Number) }

func (l Loop) sys(name string) string { return fmt.Sprintf("/sys/block/loop%d/%s", l.Number, name) }

// Attach puts a loop device on the file in dir and returns when it can be used. A server must be answering on dir's
// descriptor; if none does within limit, dir is aborted, because only that ends the attempt.
func Attach(dir string, info device.Info, limit time.Duration) (Loop, error) {
	type result struct {
		l   Loop
		err error
	}
	done := make(chan result, 1)
	go func() {
		l, err := attach(dir, info)
		done <- result{l, err}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.l, r.err
	case <-timer.C:
	}
	aborted := Abort(dir)
	select {
	case r := <-done: // which has failed now, or succeeded in the last moment with a device that is dead
		if r.err == nil {
			r.l.Detach()
		}
	case <-time.After(detachTime):
	}
	return Loop{}, errors.Join(fmt.Errorf("device %s: its server did not answer within %v while the loop device was attached; the mount was aborted", info.Name, limit), aborted)
}

func attach(dir string, info device.Info) (Loop, error) {
	path := filepath.Join(dir, diskName)
	// Not with os.Open: Go's poller would ask the file system whether it can be polled.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return Loop{}, fmt.Errorf("device %s: open %s: %w", info.Name, path, err)
	}
	defer unix.Close(fd) // the loop device has its own reference
	id, err := newLoopID(dir)
	if err != nil {
		return Loop{}, fmt.Errorf("device %s: %w", info.Name, err)
	}
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return Loop{}, fmt.Errorf("device %s: %w; load the module loop, or use device = \"nbd-server\"", info.Name, err)
	}
	defer ctl.Close()
	for range loopTries {
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return Loop{}, fmt.Errorf("device %s: find a free loop device: %w", info.Name, err)
		}
		l := Loop{Number: n, File: path, ID: id}
		err = l.configure(fd, info)
		if errors.Is(err, unix.EBUSY) {
			continue // somebody was faster
		}
		if err != nil {
			return Loop{}, fmt.Errorf("device %s: %w", info.Name, err)
		}
		if err := l.checkDirect(); err != nil {
			return Loop{}, errors.Join(fmt.Errorf("device %s: %w", info.Name, err), l.Detach())
		}
		return l, nil
	}
	return Loop{}, fmt.Errorf("device %s: no free loop device in %d attempts", info.Name, loopTries)
}

func (l Loop) configure(fd int, info device.Info) error {
	if err := l.makeNode(); err != nil {
		return err
	}
	d, err := os.OpenFile(l.Path(), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	c := unix.LoopConfig{Fd: uint32(fd), Size: info.Logical}
	c.Info.Flags = unix.LO_FLAGS_DIRECT_IO
	c.Info.File_name = l.label()
	if err := unix.IoctlLoopConfigure(int(d.Fd()), &c); err != nil {
		return fmt.Errorf("configure %s: %w", l.Path(), err)
	}
	return nil
}

// makeNode makes /dev/loopN where /dev does not do that by itself, as in containers.
func (l Loop) makeNode() error {
	if _, err := os.Stat(l.Path()); err == nil || !errors.Is(err, os.ErrNotExist) {
		return err
	}
	b, err := os.ReadFile(l.sys("dev"))
	if err != nil {
		return err
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(b), "%d:%d", &major, &minor); err != nil {
		return fmt.Errorf("%s: %w", l.sys("dev"), err)
	}
	if err := unix.Mknod(l.Path(), unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make %s: %w", l.Path(), err)
	}
	return nil
}

// checkDirect insists on direct I/O: without it everything would be cached twice, and write-back could wait for itself.
func (l Loop) checkDirect() error {
	b, err := os.ReadFile(l.sys("loop/dio"))
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(b)) != "1" {
		return fmt.Errorf("%s refuses direct I/O", l.Path())
	}
	return nil
}

// backing returns the path of the file below the device; "" if it has none.
func (l Loop) backing() (string, error) {
	b, err := os.ReadFile(l.sys("loop/backing_file"))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return string(bytes.TrimSuffix(b, []byte("\n"))), err
}

// attached reports whether the device still has our file below it. The path alone does not tell: another mount
// namespace's daemon may use the same, and once the mount is gone the kernel knows only the last part. The name that we gave the device decides.
func (l Loop) attached() (bool, error) {
	b, err := l.backing()
	if err != nil || b == "" {
		return false, err
	}
	if b != l.File && b != l.File+" (deleted)" && b != "/"+diskName {
		return false, nil
	}
	d, err := os.OpenFile(l.Path(), os.O_RDONLY, 0)
	if err != nil {
		return false, fmt.Errorf("whose is %s: %w", l.Path(), err)
	}
	defer d.Close()
	st, err := unix.IoctlLoopGetStatus64(int(d.Fd()))
	if errors.Is(err, unix.ENXIO) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("whose is %s: %w", l.Path(), err)
	}
	return st.File_name == l.label(), nil
}

// label is the name that the loop device carries: its id, then as much of the path as there is room for. Another daemon, in another mount
// namespace, may have a device of the same path, which looks from here as if its mount were gone; nor does the namespace's number
// tell them apart, because the kernel gives it away again, and a device whose daemon was killed outlives its namespace.
func (l Loop) label() (name [64]byte) {
	who := l.ID
	if who == "" { // as earlier versions did
		ns, _ := os.Readlink("/proc/self/ns/mnt") // "mnt:[4026531841]"
		who = strings.Trim(ns, "mnt:[]")
	}
	copy(name[:len(name)-1], who+":"+l.File)
	return name
}

// inUse returns ErrInUse while a file system or anybody else has claimed the device.
func (l Loop) inUse() error {
	fd, err := unix.Open(l.Path(), unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%s: %w: it is mounted, or part of another device", l.Path(), ErrInUse)
	case errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return fmt.Errorf("open %s: %w", l.Path(), err)
	}
	unix.Close(fd)
	return nil
}

// Detach frees the loop device. ErrInUse: it is mounted or open, and nothing was changed. A
// device that is not, or no longer, on our file is left alone. The kernel first writes what it has cached of
// the device, so Detach may wait for the server; a caller that can't wait ends that with Abort.
func (l Loop) Detach() error {
	if ours, err := l.attached(); err != nil || !ours {
		return err
	}
	if err := l.inUse(); err != nil {
		return err
	}
	if err := l.clear(); err != nil {
		return err
	}
	for end := time.Now().Add(detachTime); ; time.Sleep(10 * time.Millisecond) {
		ours, err := l.attached()
		if err != nil || !ours {
			return err
		}
		if time.Now().After(end) {
			break
		}
	}
	// Somebody holds it open: take back the promise to detach at the last close.
	l.keep()
	return fmt.Errorf("%s: %w: some process has it open", l.Path(), ErrInUse)
}

// Release has the loop device detach itself when its last user closes it: for a device that was aborted while in use.
func (l Loop) Release() error {
	if ours, err := l.attached(); err != nil || !ours {
		return err
	}
	return l.clear()
}

func (l Loop) clear() error {
	d, err := os.OpenFile(l.Path(), os.O_RDWR, 0)
	if errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.IoctlSetInt(int(d.Fd()), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("detach %s: %w", l.Path(), err)
	}
	return nil
}

func (l Loop) keep() {
	d, err := os.OpenFile(l.Path(), os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer d.Close()
	if st, err := unix.IoctlLoopGetStatus64(int(d.Fd())); err == nil {
		st.Flags &^= unix.LO_FLAGS_AUTOCLEAR
		unix.IoctlLoopSetStatus64(int(d.Fd()), st)
	}
}

// FindLoop finds the loop device on the file in dir, for a parent that has lost its memory; dir need not be mounted any more, but what Attach stored beside it has to be there. It does not touch dir.
func FindLoop(dir string) (Loop, bool, error) {
	entries, err := os.ReadDir("/sys/block")
	if err != nil {
		return Loop{}, false, fmt.Errorf("look for loop devices: %w", err)
	}
	id, err := loopID(dir)
	if err != nil {
		return Loop{}, false, err
	}
	file := filepath.Join(filepath.Clean(dir), diskName)
	for _, e := range entries {
		num, ok := strings.CutPrefix(e.Name(), "loop")
		if !ok {
			continue
		}
		n, err := strconv.Atoi(num)
		if err != nil {
			continue
		}
		l := Loop{Number: n, File: file, ID: id}
		if ours, err := l.attached(); err == nil && ours {
			return l, true, nil
		}
	}
	return Loop{}, false, nil
}
