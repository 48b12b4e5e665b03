package hold

import (
	"context"
	"errors"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// emptyTime is how long a holder that holds nothing waits for something: a
// parent that was killed between starting it and its first Put must not leave it behind.
const emptyTime = time.Minute

// memoryLimit makes the garbage collector keep the heap small, in bytes: the process holds a handful of numbers.
const memoryLimit = 8 << 20

// Config is what Main needs.
type Config struct {
	// Path of the socket. It is made unless Listener is set, and removed at the end.
	Path string
	// Listener, if not nil, is the inherited listening socket.
	Listener *os.File
	// OOMScore is written to oom_score_adj if it is not 0; failing to is no error.
	OOMScore int
	// Ignore are the signals that do nothing; nil: HUP, INT, TERM, PIPE, and those of a terminal.
	Ignore []os.Signal
}

// Main is the body of the process that holds descriptors: it leaves its parent's session, ignores
// signals, and serves until a client says quit, or until it has held nothing for a minute. It returns nil then.
func Main(cfg Config) error {
	path, err := filepath.Abs(cfg.Path) // detach leaves the directory
	if err != nil {
		return err
	}
	detach(cfg)
	var l *net.UnixListener
	if cfg.Listener != nil {
		l, err = FileListener(cfg.Listener)
	} else {
		l, err = Listen(path)
	}
	if err != nil {
		return err
	}
	defer l.Close()
	store := new(Store)
	defer store.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go watchEmpty(ctx, cancel, store, emptyTime)
	if err := Serve(ctx, l, store, "hold"); err != nil && !errors.Is(err, ErrQuit) {
		return err
	}
	if cfg.Path != "" {
		os.Remove(path)
	}
	return nil
}

// detach makes the process small, and independent of whoever started it.
func detach(cfg Config) {
	unix.Setsid() // fails if it was started as a leader already
	ignore := cfg.Ignore
	if ignore == nil {
		ignore = []os.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGPIPE, unix.SIGQUIT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU}
	}
	signal.Ignore(ignore...)
	os.Chdir("/") // no mounted directory shall be busy because of us
	debug.SetGCPercent(20)
	debug.SetMemoryLimit(memoryLimit)
	if cfg.OOMScore != 0 {
		os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(cfg.OOMScore)), 0)
	}
	// A holder that waits for a page from the device it holds could never lend it. Without the privilege it has to do without.
	unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT)
}

// watchEmpty ends the holder when it has had nothing to hold for limit.
func watchEmpty(ctx context.Context, end context.CancelFunc, s *Store, limit time.Duration) {
	tick := time.NewTicker(limit / 4)
	defer tick.Stop()
	for empty := 0; empty < 4; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if empty++; len(s.List()) > 0 {
			empty = 0
		}
	}
	end()
}
