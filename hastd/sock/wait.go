package sock

import (
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// window is how long a reader looks for the next bytes before it sleeps, if they came as quickly the last time: about what it
// takes to put a thread to sleep and wake it in a virtual machine, twice. Beyond it, looking costs more than it saves.
const window = 50 * time.Microsecond

// Wait is a reader's way of waiting. Where one request follows another's answer, the time to the next is short and always the
// same, and most of it is the kernel putting a thread to sleep and waking it; so the reader stays awake for
// the window, as long as that pays, and lets others have the processor between two looks. The zero
// value sleeps at once. One goroutine uses it.
type Wait struct {
	// Spin allows looking; without a second processor there is never anything to gain.
	Spin bool
	// Helper, if set, is of use meanwhile.
	Helper Helper

	quick bool // the last wait was shorter than the window
}

// Helper has work for a goroutine that is awake and waits for something else.
type Helper interface {
	// Help looks once for such work and does it; it returns whether there was any. Who calls it
	// promises to do so again at once, until Rest.
	Help() bool
	// Rest is called before anything that may take long.
	Rest()
}

var alone = runtime.NumCPU() < 2

// Readv is c.Readv.
func (w *Wait) Readv(c *Conn, v []unix.Iovec) (int, unix.Errno) {
	if !w.Spin || alone {
		return c.Readv(v)
	}
	began := time.Now()
	if w.quick {
		if n, errno := w.look(c, v, began); errno != unix.EAGAIN {
			return n, errno
		}
	}
	if w.Helper != nil {
		w.Helper.Rest()
	}
	n, errno := c.Readv(v)
	w.quick = time.Since(began) < 2*window
	return n, errno
}

// Look is Readv that does not sleep: EAGAIN if nothing came within the window. Before it sleeps somewhere else, its
// caller calls Helper.Rest.
func (w *Wait) Look(c *Conn, v []unix.Iovec) (int, unix.Errno) {
	if !w.Spin || alone {
		return c.Poll(v)
	}
	return w.look(c, v, time.Now())
}

func (w *Wait) look(c *Conn, v []unix.Iovec, from time.Time) (int, unix.Errno) {
	for {
		helped := w.Helper != nil && w.Helper.Help()
		n, errno := c.Poll(v)
		if errno != unix.EAGAIN {
			return n, errno
		}
		now := time.Now()
		if helped {
			from = now // which may be what the other end waits for
		} else if now.Sub(from) >= window {
			return 0, unix.EAGAIN
		}
		unix.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
	}
}
