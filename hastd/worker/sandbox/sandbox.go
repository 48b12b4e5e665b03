package sandbox

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// FirstFree is the first descriptor that a worker must not inherit: 0, 1 and 2
// are the standard ones, 3 is its socket to the parent.
const FirstFree = 4

// Clean replaces the process by itself with argv, keeping descriptors below
// FirstFree only, and with no_new_privs set. It is done by exec because both then hold for
// every thread, whoever makes it and however the binary was linked. It returns only with an error.
func Clean(argv []string) error {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot give up new privileges: %w", err)
	}
	if err := unix.CloseRange(FirstFree, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("cannot close inherited descriptors: %w", err)
	}
	return fmt.Errorf("cannot start again: %w", syscall.Exec("/proc/self/exe", argv, os.Environ()))
}

// Cleaned reports whether Clean has been here.
func Cleaned() bool {
	v, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	return err == nil && v == 1
}

// LockMemory locks what the process uses and will use, so that the write path
// never waits for a page that waits for the write path. It is done on fault,
// because locking Go's reserved address space would keep every page for ever. The limit (RLIMIT_MEMLOCK)
// has to be infinite: after the change of user every new mapping is held against it.
func LockMemory() error {
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return fmt.Errorf("memory is not locked: %w", err)
	}
	return nil
}

// Audit compares the open descriptors with those allowed and reports every one
// that is not. The runtime's own (epoll, eventfd) and io_uring are recognised by what
// they are. It has to run before Lock, which takes /proc away.
func Audit(allowed ...int) error {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("descriptor audit: %w", err)
	}
	defer dir.Close()
	self := int(dir.Fd())
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("descriptor audit: %w", err)
	}
	var bad []string
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil || fd == self || slices.Contains(allowed, fd) {
			continue
		}
		what, err := os.Readlink("/proc/self/fd/" + name)
		if err != nil || harmless(what) {
			continue
		}
		bad = append(bad, name+" ("+what+")")
	}
	if bad != nil {
		return fmt.Errorf("descriptor audit: unexpected descriptors %s", strings.Join(bad, ", "))
	}
	return nil
}

// harmless recognises what the Go runtime and the disk's ring open for
// themselves: nothing that names a place in the file system or another process.
func harmless(what string) bool {
	switch filepath.Base(what) {
	case "cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us": // the runtime follows the control group's limits
		return strings.HasPrefix(what, "/sys/fs/cgroup/")
	}
	return strings.HasPrefix(what, "anon_inode:[event") || what == "anon_inode:[io_uring]"
}

// Lock changes the root directory to root, which must be an empty directory,
// and the user to uid and gid with no other groups, for all threads, and verifies it.
func Lock(root *os.File, uid, gid int) error {
	if uid <= 0 || gid <= 0 {
		return fmt.Errorf("will not run as user %d, group %d: configure an unprivileged user", uid, gid)
	}
	if err := chroot(root); err != nil {
		return err
	}
	if err := syscall.Setgroups([]int{}); err != nil {
		return fmt.Errorf("cannot drop supplementary groups: %w", err)
	}
	if err := syscall.Setresgid(gid, gid, gid); err != nil {
		return fmt.Errorf("cannot become group %d: %w", gid, err)
	}
	if err := syscall.Setresuid(uid, uid, uid); err != nil {
		return fmt.Errorf("cannot become user %d: %w", uid, err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot refuse core dumps, which would hold the key: %w", err)
	}
	return verify(uid, gid)
}

func chroot(root *os.File) error {
	names, err := root.Readdirnames(1)
	if len(names) != 0 {
		return fmt.Errorf("directory %s to be locked into is not empty: remove %q", root.Name(), names[0])
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("directory to be locked into: %w", err)
	}
	if err := unix.Fchdir(int(root.Fd())); err != nil {
		return fmt.Errorf("cannot enter the empty directory: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("cannot change the root directory: %w", err)
	}
	return unix.Chdir("/")
}

// verify asks the kernel what was achieved, on this thread, and that there is no way back.
func verify(uid, gid int) error {
	r, e, s := unix.Getresuid()
	if r != uid || e != uid || s != uid {
		return fmt.Errorf("user is still %d/%d/%d, not %d", r, e, s, uid)
	}
	r, e, s = unix.Getresgid()
	if r != gid || e != gid || s != gid {
		return fmt.Errorf("group is still %d/%d/%d, not %d", r, e, s, gid)
	}
	if g, err := unix.Getgroups(); err != nil || len(g) != 0 {
		return fmt.Errorf("supplementary groups remain: %v %v", g, err)
	}
	if syscall.Setuid(0) == nil {
		return errors.New("could become root again")
	}
	if unix.Access("/proc", unix.F_OK) == nil {
		return errors.New("the file system is still visible")
	}
	return nil
}
