package hastd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"hast/hastd/worker/ipc"
	"hast/hastd/worker/lease"
	"hast/proto"
)

// workerProc is one worker process as its parent sees it, from start to reaping.
// Everything that it tells is kept as the latest state; whoever waits for a change waits on the resource's changed channel.
type workerProc struct {
	name  string // of the resource
	log   *slog.Logger
	role  proto.Role
	cmd   *exec.Cmd
	pid   int
	conn  *ipc.Conn
	grant *lease.Grant
	born  time.Time

	// Called by the reading goroutine; they must not wait.
	onReport  func(*ipc.Report)
	onConnect func(why string)
	onChange  func()

	done chan struct{} // closed when the process is reaped and its last message read

	mu       sync.Mutex
	ready    bool
	state    ipc.State
	heard    time.Time     // of state; zero: never
	asking   chan struct{} // closed by the answer to the request under way
	serving  json.RawMessage
	detached bool
	refusal  string // why it did not detach
	stopped  bool
	stopText string
	fatal    string
	code     int // exit status, -1 for a signal; valid after done
	how      string
}

// workerStart is what startWorker needs.
type workerStart struct {
	log   *slog.Logger
	setup *ipc.Setup
	names []string   // of files
	files []*os.File // borrowed
	grant *lease.Grant
}

// startWorker executes the worker and sends it its settings. The callbacks are
// installed by prepare before the first message is read. The grant is the worker's from now on.
func startWorker(s workerStart, prepare func(*workerProc)) (*workerProc, error) {
	near, far, err := ipc.Pair()
	if err != nil {
		return nil, err
	}
	defer far.Close()
	w := &workerProc{name: s.setup.Resource, log: s.log, role: s.setup.Role, conn: near, grant: s.grant, born: time.Now(), done: make(chan struct{})}
	prepare(w)
	w.cmd = exec.Command("/proc/self/exe", "worker", s.setup.Resource, s.setup.Role.String())
	// HAST's process title: scripts look for it to learn whether a worker still runs.
	w.cmd.Args[0] = fmt.Sprintf("hastd: %s (%s)", s.setup.Resource, s.setup.Role)
	w.cmd.Env = []string{"GOTRACEBACK=all"}
	w.cmd.ExtraFiles = []*os.File{far}
	// A session of its own: a terminal's ^C is for the parent, which stops its workers in order.
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	w.cmd.WaitDelay = time.Second
	complaints := &lineLog{log: s.log}
	w.cmd.Stderr = complaints
	if err := w.cmd.Start(); err != nil {
		near.Close()
		return nil, fmt.Errorf("cannot start a worker: %w", err)
	}
	w.pid = w.cmd.Process.Pid
	read := make(chan struct{})
	go func() { w.read(); close(read) }()
	go w.reap(read, complaints)
	s.setup.Started = startTime(w.pid)
	m := &ipc.Message{Kind: ipc.KindSetup, Setup: s.setup, Files: s.names}
	if err := w.conn.Send(m, sendTimeout, s.files...); err != nil {
		w.end()
		return nil, fmt.Errorf("cannot tell worker %d what to do: %w", w.pid, err)
	}
	return w, nil
}

// reap waits for the end of the process and of its messages.
func (w *workerProc) reap(read <-chan struct{}, complaints *lineLog) {
	err := w.cmd.Wait()
	// Whatever it had said is in the socket; an heir of the socket must not keep us reading.
	select {
	case <-read:
	case <-time.After(time.Second):
	}
	w.conn.Close()
	<-read
	complaints.flush()
	w.mu.Lock()
	w.code, w.how = -1, "ended"
	if st := w.cmd.ProcessState; st != nil {
		w.code, w.how = st.ExitCode(), st.String()
	} else if err != nil {
		w.how = err.Error()
	}
	if w.asking != nil {
		close(w.asking)
		w.asking = nil
	}
	w.mu.Unlock()
	close(w.done)
	w.onChange()
}

// read takes messages in until the worker's end is closed.
func (w *workerProc) read() {
	for {
		m, files, err := w.conn.Recv()
		ipc.CloseAll(files) // a worker has nothing to give
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				w.log.Error("worker sent nonsense; it is killed", "pid", w.pid, "err", err)
				w.kill()
			}
			return
		}
		w.take(m)
	}
}

func (w *workerProc) take(m *ipc.Message) {
	switch m.Kind {
	case ipc.KindReport:
		w.onReport(m.Report)
		return
	case ipc.KindConnect:
		w.onConnect(m.Text)
		return
	case ipc.KindLog:
		w.log.Log(context.Background(), slog.Level(m.Level), m.Text)
		return
	}
	w.mu.Lock()
	switch m.Kind {
	case ipc.KindReady:
		w.ready = true
		w.state, w.heard = *m.State, time.Now()
	case ipc.KindState:
		w.state, w.heard = *m.State, time.Now()
		if m.ID != 0 && w.asking != nil {
			close(w.asking)
			w.asking = nil
		}
	case ipc.KindServing:
		w.serving = m.Blob
		if w.serving == nil {
			w.serving = json.RawMessage("null")
		}
	case ipc.KindDetached:
		w.detached, w.refusal = true, m.Text
	case ipc.KindStopped:
		w.stopped, w.stopText = true, m.Text
	case ipc.KindFatal:
		w.fatal = m.Text
	}
	w.mu.Unlock()
	w.onChange()
}

// gone reports whether the process is reaped.
func (w *workerProc) gone() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// kill ends it at once. The process is still ours, so its id can't be another's.
func (w *workerProc) kill() { w.cmd.Process.Kill() }

// snapshot returns the last known state and when it was told (zero: never).
func (w *workerProc) snapshot() (ipc.State, time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state, w.heard
}

// refresh asks for the state and waits for it until ctx ends. At most one
// request is under way, however many ask, so a stopped worker's socket does not fill up.
func (w *workerProc) refresh(ctx context.Context) {
	w.mu.Lock()
	ch := w.asking
	if ch == nil {
		ch = make(chan struct{})
		w.asking = ch
		w.mu.Unlock()
		if err := w.conn.Send(&ipc.Message{Kind: ipc.KindAsk, ID: 1}, sendTimeout); err != nil {
			w.mu.Lock()
			if w.asking == ch {
				close(ch)
				w.asking = nil
			}
		} else {
			w.mu.Lock()
		}
	}
	w.mu.Unlock()
	select {
	case <-ch:
	case <-w.done:
	case <-ctx.Done():
	}
}

// stop asks for an orderly end and waits for it at most until ctx ends; then
// it is killed. It returns what could not be stored, if anything.
func (w *workerProc) stop(ctx context.Context) error {
	if w.gone() {
		return nil
	}
	err := w.conn.Send(&ipc.Message{Kind: ipc.KindStop}, sendTimeout)
	if err == nil {
		select {
		case <-w.done:
			w.mu.Lock()
			defer w.mu.Unlock()
			if !w.stopped {
				return fmt.Errorf("worker %d died while stopping (%s): the next start repairs what it left", w.pid, w.how)
			}
			if w.stopText != "" {
				return fmt.Errorf("worker %d stopped, but: %s", w.pid, w.stopText)
			}
			return nil
		case <-ctx.Done():
			err = fmt.Errorf("it did not stop within its time")
		}
	}
	if !w.end() {
		return fmt.Errorf("worker %d can't be killed: its disk does not answer", w.pid)
	}
	return fmt.Errorf("worker %d was killed: %w; the next start repairs what it left", w.pid, err)
}

// end kills it and waits until it is reaped. It returns false if the process is
// in an uninterruptible sleep: the kernel still has its I/O, and its lock keeps successors away.
func (w *workerProc) end() bool {
	w.kill()
	select {
	case <-w.done:
		return true
	case <-time.After(openPatience):
		return false
	}
}

// lineLog turns what a worker writes to its standard error (a panic's trace) into log lines of bounded length.
type lineLog struct {
	log  *slog.Logger
	mu   sync.Mutex
	rest []byte
	n    int
}

// Bounds of what one worker's standard error may put into the log: a trace of all goroutines fits.
const (
	maxErrLine  = 1 << 10
	maxErrLines = 2000
)

func (l *lineLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, p...)
	for {
		n, line, _ := bufio.ScanLines(l.rest, false)
		if n == 0 && len(l.rest) < maxErrLine {
			return len(p), nil
		}
		if n == 0 {
			n, line = maxErrLine, l.rest[:maxErrLine]
		}
		l.emit(string(line))
		l.rest = append(l.rest[:0], l.rest[n:]...)
	}
}

func (l *lineLog) emit(line string) {
	if l.n++; l.n <= maxErrLines && line != "" {
		l.log.Error("worker: " + line)
	}
}

func (l *lineLog) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.emit(string(l.rest))
	l.rest = nil
}
