package lease

import (
	"fmt"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Size of the shared record in bytes: the deadline, and a count of renewals for people who debug.
const Size = 16

// record is what both processes see. Both words are written with atomic
// stores, so a reader never sees half a deadline.
type record struct {
	deadline atomic.Int64 // CLOCK_BOOTTIME nanoseconds; 0 = never granted
	renewals atomic.Uint64
}

// Now returns CLOCK_BOOTTIME in nanoseconds: the clock of every lease, because
// it goes on while the machine is suspended, so a lease can't outlive a sleep.
func Now() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("lease: CLOCK_BOOTTIME: " + err.Error()) // every supported kernel has it
	}
	return ts.Nano()
}

// Grant is the parent's end. Its methods are safe for concurrent use, except Close.
type Grant struct {
	rec  *record
	mem  []byte
	file *os.File
}

// New makes a lease that has already run out.
func New() (*Grant, error) {
	fd, err := unix.MemfdCreate("hast-lease", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("role lease: %w", err)
	}
	f := os.NewFile(uintptr(fd), "hast-lease")
	if err := f.Truncate(Size); err != nil {
		f.Close()
		return nil, fmt.Errorf("role lease: %w", err)
	}
	mem, err := unix.Mmap(fd, 0, Size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("role lease: %w", err)
	}
	// After this nobody, the worker included, can map or write it for
	// writing; the mapping above stays writable.
	seals := unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_FUTURE_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		unix.Munmap(mem)
		f.Close()
		return nil, fmt.Errorf("role lease: cannot seal it against the worker: %w", err)
	}
	return &Grant{rec: (*record)(unsafe.Pointer(&mem[0])), mem: mem, file: f}, nil
}

// File is the descriptor to pass to the worker; it stays the Grant's.
func (g *Grant) File() *os.File { return g.file }

// Renew moves the deadline to d from now.
func (g *Grant) Renew(d time.Duration) {
	g.rec.deadline.Store(Now() + int64(d))
	g.rec.renewals.Add(1)
}

// Revoke lets it run out at once.
func (g *Grant) Revoke() { g.rec.deadline.Store(0) }

// Close revokes and unmaps it. No method may be running or called after it.
func (g *Grant) Close() {
	g.Revoke()
	unix.Munmap(g.mem)
	g.file.Close()
}

// View is the worker's end. Its methods are safe for concurrent use and cost one load.
type View struct{ rec *record }

// Map maps the lease that f holds, for reading. f may be closed afterwards.
// The mapping lasts as long as the process.
func Map(f *os.File) (*View, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("role lease: %w", err)
	}
	if st.Size() != Size {
		return nil, fmt.Errorf("role lease: %d bytes of shared memory, want %d", st.Size(), Size)
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, Size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("role lease: %w", err)
	}
	return &View{(*record)(unsafe.Pointer(&mem[0]))}, nil
}

// Deadline is when the lease runs out, in CLOCK_BOOTTIME nanoseconds; 0 before the first grant.
func (v *View) Deadline() int64 { return v.rec.deadline.Load() }

// Valid reports whether the lease holds at this moment.
func (v *View) Valid() bool { return Now() < v.Deadline() }
