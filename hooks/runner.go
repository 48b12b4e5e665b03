package hooks

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// maxQueue bounds how many events wait for their turn. A connection that comes
// and goes every few seconds fills it while one program hangs for minutes.
const maxQueue = 64

// Config is what a Runner needs. Its functions may be called from Run's goroutines only.
type Config struct {
	Resource string
	Node     string       // this node's name
	Log      *slog.Logger // gets the programs' output and how they end
	// Done is called after each program, or failure to start one, in order; nil for nobody. It must not wait for the Runner.
	Done func(Result)
}

// Runner runs one resource's programs. Its methods may be called from any goroutine.
type Runner struct {
	cfg    Config
	limits limits
	wake   chan struct{} // holds a token while there may be something to do

	mu      sync.Mutex
	path    string
	timeout time.Duration
	queue   []Event
	dropped int           // since the last program was started
	running *Event        // nil if nothing runs
	since   time.Time     // of running
	idle    chan struct{} // closed while nothing runs and nothing waits
	closed  bool
}

// New makes a Runner for the program at path (an absolute path, or "" for none), which may run for
// at most timeout > 0. Nothing runs before Run is called; events are queued.
func New(cfg Config, path string, timeout time.Duration) *Runner {
	r := &Runner{cfg: cfg, limits: defaultLimits, wake: make(chan struct{}, 1), path: path, timeout: timeout, idle: make(chan struct{})}
	close(r.idle)
	return r
}

// SetProgram changes the program and its time limit for everything that has not been started yet.
func (r *Runner) SetProgram(path string, timeout time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.path, r.timeout = path, timeout
}

// Submit queues e. It never waits. Where there is no program, or the Runner has ended, it does nothing. If the queue
// is full, the oldest event that is not a change of role gives way: roles decide what is mounted, and the rest is news.
func (r *Runner) Submit(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.path == "" {
		return
	}
	if len(r.queue) == 0 && r.running == nil {
		r.idle = make(chan struct{})
	}
	if len(r.queue) >= maxQueue {
		r.drop()
	}
	r.queue = append(r.queue, e)
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// drop makes room for one event. Only the first of a row is logged here (rule 15), the sum when a program starts again.
func (r *Runner) drop() {
	i := max(slices.IndexFunc(r.queue, func(e Event) bool { return e.Kind != KindRole }), 0)
	if r.dropped == 0 {
		r.cfg.Log.Error("too many events wait for the hook; the oldest are dropped", "dropped", r.queue[i].String(), "id", r.queue[i].ID)
	}
	r.dropped++
	r.queue = slices.Delete(r.queue, i, i+1)
}

// Running returns the event whose program runs and since when, and how many events wait; ok is false if none runs.
func (r *Runner) Running() (e Event, since time.Time, queued int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running == nil {
		return Event{}, time.Time{}, len(r.queue), false
	}
	return *r.running, r.since, len(r.queue), true
}

// Idle waits until nothing runs and nothing waits, or ctx ends, whose error it returns then.
func (r *Runner) Idle(ctx context.Context) error {
	r.mu.Lock()
	idle := r.idle
	r.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Run runs programs until ctx ends; a program that runs then gets SIGTERM and, if it ignores that, SIGKILL, and what
// waits is dropped. Run returns when the last program is reaped and its output read; a process that the kernel
// does not let go is given up after limits.stuck. Run may be called once.
func (r *Runner) Run(ctx context.Context) {
	defer r.close()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		}
		for ctx.Err() == nil {
			e, path, timeout, ok := r.next()
			if !ok {
				break
			}
			r.run(ctx, e, path, timeout)
		}
	}
}

// next takes the next event from the queue and makes it the running one.
func (r *Runner) next() (e Event, path string, timeout time.Duration, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = nil
	if r.path == "" {
		r.queue = r.queue[:0] // the program was taken away
	}
	if len(r.queue) == 0 {
		r.settle()
		return e, "", 0, false
	}
	if r.dropped > 0 {
		r.cfg.Log.Warn("the hook has not been told of everything", "events_dropped", r.dropped)
		r.dropped = 0
	}
	e = r.queue[0]
	r.queue = slices.Delete(r.queue, 0, 1)
	r.running, r.since = &e, time.Now()
	return e, r.path, r.timeout, true
}

// settle tells those who wait in Idle. The caller holds the lock.
func (r *Runner) settle() {
	select {
	case <-r.idle:
	default:
		close(r.idle)
	}
}

// run runs one program to its end and reports it.
func (r *Runner) run(ctx context.Context, e Event, path string, timeout time.Duration) {
	log := r.cfg.Log.With("hook", path, "event", e.String(), "id", e.ID)
	res := Result{Event: e, Path: path, Exit: -1}
	log.Debug("the hook starts")
	p, err := start(path, e.arguments(r.cfg.Resource), e.environment(r.cfg.Resource, r.cfg.Node), log, r.limits)
	if err != nil {
		res.Err = err
	} else {
		p.wait(ctx, timeout, &res)
	}
	if res.OK() {
		log.Debug("the hook ended", "how", res.String(), "took", res.Duration.Round(time.Millisecond).String())
	} else {
		log.Error("the hook failed: " + res.String())
	}
	if r.cfg.Done != nil {
		r.cfg.Done(res)
	}
}

// close drops what waits.
func (r *Runner) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.queue); n > 0 {
		r.cfg.Log.Warn("the daemon stops: the hook is not told of everything", "events_dropped", n)
	}
	r.queue, r.closed, r.running = nil, true, nil
	r.settle()
}
