package fuse

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// fsType is what the mounts are called in the kernel's table; Leftovers looks for it.
const fsType = "fuse.hast"

// Mount makes dir, which must not be there or be empty, and mounts a FUSE file system on it that waits for a server.
// The descriptor keeps it alive; it is in blocking mode, and has to stay so: a Go
// process would have its poller woken by every request if it were not.
func Mount(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("fuse mount: %w", err)
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w; load the module fuse, or use device = \"nbd-server\"", err)
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,max_read=%d", fd, os.Geteuid(), os.Getegid(), maxWrite)
	if err := unix.Mount("hast", dir, fsType, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOATIME, data); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("mount fuse on %s: %w", dir, err)
	}
	return os.NewFile(uintptr(fd), "/dev/fuse"), nil
}

// Unmount removes the mount on dir, and dir. It never waits for the server. The loop device must be gone (Loop.Detach), or be dead and on
// its way (Abort, Loop.Release); FindLoop finds such a one until it is.
func Unmount(dir string) error {
	err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) { // somebody looks at it, or a request is under way: it goes when they do
		err = unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // EINVAL: not mounted
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the mount point: %w", err)
	}
	if _, found, err := FindLoop(dir); err != nil || found {
		return err
	}
	if err := os.Remove(idFile(dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the loop device's id: %w", err)
	}
	return nil
}

// Abort fails every request on dir's file system with an error, now and for ever, whatever its server
// does, and unmounts it. It is the way out of an Attach that hangs, and of a device that shall go although it is in use.
func Abort(dir string) error {
	err := unix.Unmount(dir, unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) { // aborted, and still referred to by the loop device
		err = unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // not mounted
		return fmt.Errorf("abort %s: %w", dir, err)
	}
	return nil
}

// Leftovers returns the directories below runDir on which this package's file
// systems are mounted, in the order in which they were mounted. It touches none of them. For each, after a crash of everything, the caller finds
// its loop device (FindLoop), and detaches, aborts and unmounts it (Clean does all that).
func Leftovers(runDir string) ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("look for old mounts: %w", err)
	}
	defer f.Close()
	runDir = filepath.Clean(runDir)
	var dirs []string
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if dir, ok := parseMount(sc.Text()); ok && strings.HasPrefix(dir, runDir+"/") {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// parseMount takes the mount point from a line of mountinfo, if the mount is one of ours.
func parseMount(line string) (dir string, ours bool) {
	before, after, found := strings.Cut(line, " - ")
	fields, tail := strings.Fields(before), strings.Fields(after)
	if !found || len(fields) < 5 || len(tail) < 1 || tail[0] != fsType {
		return "", false
	}
	return unescape(fields[4]), true
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && isOctal(s[i+1]) && isOctal(s[i+2]) && isOctal(s[i+3]) {
			b.WriteByte((s[i+1]-'0')<<6 | (s[i+2]-'0')<<3 | (s[i+3] - '0'))
			i += 3
			continue
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

func isOctal(c byte) bool { return c >= '0' && c <= '7' }

// Clean removes what a former life left on dir: the loop device if nobody uses it, and the mount, whose
// server is known to be dead. ErrInUse: a file system is still mounted on the dead device; unmount it first.
func Clean(dir string) error {
	l, found, err := FindLoop(dir)
	if err != nil {
		return err
	}
	if found {
		// Without a server even the loop device's last close would wait for ever: let it fail instead.
		if err := l.inUse(); err != nil {
			return err
		}
		if err := Abort(dir); err != nil {
			return err
		}
		if err := l.Detach(); err != nil {
			return err
		}
	}
	if err := Abort(dir); err != nil {
		return err
	}
	return Unmount(dir)
}
