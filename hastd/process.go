package hastd

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// OOM scores: the daemon and its workers are in the write path of file
// systems; killing them frees little and may block the memory that waits for write-back.
const oomScore = "-1000"

// BecomeIOFlusher marks the process as part of the write path, so that the
// kernel never waits for write-back to our own device when it allocates for us. The mark belongs to
// a thread and is inherited by its children and over exec: so it is set once, and the process executes itself again.
// It returns once the mark is set, or with the reason why it can't be, which is worth a warning.
func BecomeIOFlusher() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if v, err := unix.PrctlRetInt(unix.PR_GET_IO_FLUSHER, 0, 0, 0, 0); err == nil && v == 1 {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_IO_FLUSHER, 1, 0, 0, 0); err != nil {
		if errors.Is(err, unix.EPERM) {
			return errors.New("not marked as an I/O flusher (CAP_SYS_RESOURCE is missing): under memory pressure a write may have to wait for itself")
		}
		return fmt.Errorf("not marked as an I/O flusher: %w", err)
	}
	return fmt.Errorf("cannot start again as an I/O flusher: %w", syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
}

// protectFromOOM asks not to be chosen when memory is short; workers and hold inherit it.
func protectFromOOM(log *slog.Logger) {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(oomScore), 0); err != nil {
		log.Warn("cannot protect the daemon from the out-of-memory killer", "err", err)
	}
}

// allowLocking lets workers lock their memory, which inherit the limit. It is raised here because a worker
// that has changed its user, with a small limit, could not map memory any more.
func allowLocking() error {
	inf := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &inf); err != nil {
		return fmt.Errorf("workers do not lock their memory: cannot raise RLIMIT_MEMLOCK (give hastd CAP_SYS_RESOURCE, or LimitMEMLOCK=infinity): %w", err)
	}
	return nil
}

// bootID reads the running kernel's id; every boot has another one.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("kernel boot id: %w", err)
	}
	id := make([]byte, 0, 32)
	for _, c := range b {
		if c != '-' && c != '\n' {
			id = append(id, c)
		}
	}
	return string(id), nil
}
