package hooks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// limits are the times of one run; tests shorten them.
type limits struct {
	// grace lies between SIGTERM and SIGKILL: enough to unmount something or to write a state file.
	grace time.Duration
	// warn is how often a running program is mentioned in the log (HAST: once a minute).
	warn time.Duration
	// output is how long a background process may hold the output open after its program has ended.
	output time.Duration
	// stuck is how long a killed process may take to disappear before that is worth a message.
	stuck time.Duration
}

var defaultLimits = limits{grace: 5 * time.Second, warn: time.Minute, output: time.Second, stuck: 10 * time.Second}

// process is one run of a program.
type process struct {
	log    *slog.Logger
	limits limits
	cmd    *exec.Cmd
	pid    int
	born   time.Time
	exited chan struct{} // closed when it has ended, before it is reaped
	read   *os.File
	copied chan struct{} // closed when its output has ended
}

// start executes path. The program leads a session of its own, so that a signal reaches everything that it
// started, and nothing that is sent to a terminal reaches it.
func start(path string, args, env []string, log *slog.Logger, l limits) (*process, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("could not be started: %w", err)
	}
	cmd := exec.Command(path, args...)
	cmd.Env, cmd.Dir = env, "/"
	cmd.Stdout, cmd.Stderr = w, w // nil Stdin is /dev/null
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// Go opens everything close-on-exec, but whoever started the daemon may have left descriptors open,
	// and one of a device would keep it busy. Kernels before 5.11 can't do this; then only those remain.
	unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		return nil, startError(path, err)
	}
	p := &process{log: log, limits: l, cmd: cmd, pid: cmd.Process.Pid, born: time.Now(), read: r,
		exited: make(chan struct{}), copied: make(chan struct{})}
	// The daemon is protected from the out-of-memory killer; what a hook starts shall not inherit that.
	os.WriteFile("/proc/"+strconv.Itoa(p.pid)+"/oom_score_adj", []byte("0"), 0)
	go func() { copyLines(r, log); close(p.copied) }()
	go func() { awaitExit(p.pid); close(p.exited) }()
	return p, nil
}

// startError says what to do about a program that does not start.
func startError(path string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		if _, e := os.Stat(path); e == nil {
			return fmt.Errorf("could not be started: the interpreter in its first line does not exist: %w", err)
		}
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("could not be started: %w: make it executable (chmod 755 %s)", err, path)
	case errors.Is(err, unix.ENOEXEC):
		return fmt.Errorf("could not be started: %w: its first line must name the interpreter, e.g. #!/bin/sh", err)
	}
	return fmt.Errorf("could not be started: %w", err)
}

// awaitExit waits until pid has ended and leaves it to be reaped: until then neither its id
// nor that of its process group can become somebody else's.
func awaitExit(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return
		}
	}
}

// signal sends s to the program and everything in its process group. It may be called until the program is reaped.
func (p *process) signal(s syscall.Signal) {
	if err := syscall.Kill(-p.pid, s); err != nil && err != syscall.ESRCH {
		p.log.Error("cannot send a signal to the hook", "signal", s, "err", err)
	}
}

// wait lets the program run for at most timeout, and until ctx ends, and fills in how it ended; res.Exit is -1 before.
//
// 1. It runs. 2. Its time is over, or the runner's: SIGTERM. 3. It ignores that for limits.grace: SIGKILL. 4. It has ended: what is
// left of its group is killed if there was a 2; it is reaped; its output gets a last moment.
func (p *process) wait(ctx context.Context, timeout time.Duration, res *Result) {
	over, warn := time.NewTimer(timeout), time.NewTicker(p.limits.warn)
	defer over.Stop()
	defer warn.Stop()
	kill, stuck := stopped(), stopped()
	defer kill.Stop()
	defer stuck.Stop()
	done := ctx.Done()
	terminate := func() {
		done = nil
		over.Stop()
		p.signal(syscall.SIGTERM)
		kill.Reset(p.limits.grace)
	}
	for running := true; running; {
		select {
		case <-p.exited:
			running = false
		case <-warn.C:
			p.log.Warn("the hook is still running", "for", time.Since(p.born).Round(time.Second).String())
		case <-over.C:
			res.TimedOut = true
			terminate()
		case <-done:
			res.Stopped = !res.TimedOut
			if res.TimedOut { // on its way already
				done = nil
				break
			}
			terminate()
		case <-kill.C:
			p.signal(syscall.SIGKILL)
			stuck.Reset(p.limits.stuck)
		case <-stuck.C:
			if ctx.Err() != nil {
				p.abandon(res)
				return
			}
			p.log.Error("the hook does not end although it was killed: it waits in the kernel, e.g. for a device or a network file system; the hooks behind it wait for it")
			stuck.Reset(p.limits.warn)
		}
	}
	if res.TimedOut || res.Stopped {
		p.signal(syscall.SIGKILL)
	}
	p.reap(res)
}

// stopped returns a timer that does not run.
func stopped() *time.Timer {
	t := time.NewTimer(time.Hour)
	t.Stop()
	return t
}

// reap takes the exit status and ends the reading of output.
func (p *process) reap(res *Result) {
	err := p.cmd.Wait()
	res.Duration = time.Since(p.born)
	if state := p.cmd.ProcessState; state == nil {
		res.Err = fmt.Errorf("ended, but its status is not known: %w", err)
	} else if st, ok := state.Sys().(syscall.WaitStatus); ok && st.Signaled() {
		res.Signal = st.Signal()
	} else {
		res.Exit = state.ExitCode()
	}
	p.read.SetReadDeadline(time.Now().Add(p.limits.output))
	<-p.copied
	p.read.Close()
}

// abandon gives up a process that can't be ended, so that the daemon can. A goroutine waits for its end.
func (p *process) abandon(res *Result) {
	res.Duration = time.Since(p.born)
	res.Err = fmt.Errorf("process %d can't be killed: it waits in the kernel, e.g. for a device or a network file system", p.pid)
	p.read.SetReadDeadline(time.Now())
	<-p.copied
	p.read.Close()
	go func() { <-p.exited; p.cmd.Wait() }()
}
