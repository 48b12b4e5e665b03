package hastd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"hast/hastd/worker/ipc"
	"hast/hooks"
	"hast/proto"
)

// resource is one resource of the configuration: its role, its worker, its
// device. One goroutine (run) carries out everything that changes the role, one after the other; what it does may
// take as long as its deadlines allow, and other resources and every status request go on meanwhile (rule 14).
type resource struct {
	d       *Daemon
	log     *slog.Logger
	ops     chan *operation
	changed chan struct{} // something that run waits for may have happened
	quit    chan struct{} // closed when run has returned
	dials   *dialer

	// Owned by run.
	front    front
	promoted bool // the present term as primary is established: successors continue it
	backoff  time.Duration
	retryAt  time.Time // when a dead worker is tried again; zero: not
	takeUpAt time.Time // when the promotion of a surviving device is tried again; zero: not
	unsent   unsent    // settings that the worker has not taken yet
	sendAt   time.Time // when they are sent again; zero: there are none

	mu        sync.Mutex // never held while waiting
	spec      *spec
	next      *spec  // the latest configuration, until run takes it over; nil: none
	nextHow   impact // how much it touches, with those that it replaced before they were taken over
	nextLate  bool   // no operation is queued for it, because the queue was full
	role      proto.Role
	phase     string // what a change of role is waiting for; "" when none is under way
	promoting bool   // hooks wait until the role hook has run
	heldHooks []hooks.Event
	why       string // why there is no worker though the role wants one, or why the role fell to init
	worker    *workerProc
	last      ipc.State // of the latest worker, for status while there is none
	device    string    // path of the device while it exists
}

// operation is one thing for run to do. Its result is delivered once, also when nobody waits for it any more.
type operation struct {
	verb   verb
	role   proto.Role
	force  bool
	result chan error
}

type verb uint8

const (
	verbRole verb = iota + 1
	verbReload
	verbStop   // the daemon ends, or the resource left the configuration
	verbDetach // the device goes, used or not
	verbAdopt  // a device of a former life is taken up again
)

// maxOps bounds the requests that wait for their turn at one resource; more are refused as busy.
const maxOps = 8

// errBusy: the queue is full, and the operation is not in it.
var errBusy = errors.New("is busy")

func newResource(d *Daemon, s *spec) *resource {
	r := &resource{
		d: d, spec: s, role: proto.RoleInit,
		ops: make(chan *operation, maxOps), changed: make(chan struct{}, 1), quit: make(chan struct{}),
	}
	r.log = d.log.With("resource", s.name)
	r.dials = newDialer(r)
	return r
}

// poke wakes run; it never waits.
func (r *resource) poke() {
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// submit queues op and waits for its result until ctx ends; the operation goes on in any case.
func (r *resource) submit(ctx context.Context, op *operation) error {
	op.result = make(chan error, 1)
	select {
	case r.ops <- op:
	case <-r.quit:
		return fmt.Errorf("resource %s is no longer configured", r.current().name)
	default:
		return fmt.Errorf("resource %s %w: %d requests wait for %q to end", r.current().name, errBusy, maxOps, r.phaseNow())
	}
	select {
	case err := <-op.result:
		return err
	case <-r.quit:
		return errors.New("the daemon is stopping")
	case <-ctx.Done():
		return fmt.Errorf("resource %s: still at work (%s); hastctl status shows the outcome", r.current().name, r.phaseNow())
	}
}

func (r *resource) current() *spec      { r.mu.Lock(); defer r.mu.Unlock(); return r.spec }
func (r *resource) proc() *workerProc   { r.mu.Lock(); defer r.mu.Unlock(); return r.worker }
func (r *resource) roleNow() proto.Role { r.mu.Lock(); defer r.mu.Unlock(); return r.role }
func (r *resource) phaseNow() string    { r.mu.Lock(); defer r.mu.Unlock(); return r.phase }

func (r *resource) devicePath() string { r.mu.Lock(); defer r.mu.Unlock(); return r.device }

func (r *resource) setPhase(format string, args ...any) {
	r.mu.Lock()
	r.phase = fmt.Sprintf(format, args...)
	r.mu.Unlock()
}

func (r *resource) setWhy(s string) { r.mu.Lock(); r.why = s; r.mu.Unlock() }

// setRole records the role and tells the hook.
func (r *resource) setRole(to proto.Role) {
	r.mu.Lock()
	from := r.role
	r.role = to
	r.mu.Unlock()
	if from == to {
		return
	}
	r.log.Info("role changed", "old", from, "new", to)
	r.d.announceRole(r, from, to)
}

// run serves operations and looks after the worker until the resource stops.
func (r *resource) run() {
	defer close(r.quit)
	for {
		r.applyLate()
		retry, takeUp, send := alarm(r.retryAt), alarm(r.takeUpAt), alarm(r.sendAt)
		select {
		case op := <-r.ops:
			op.result <- r.perform(op)
			r.setPhase("")
			if op.verb == verbStop {
				return
			}
		case <-r.changed:
			r.inspect()
		case <-retry:
			r.retryAt = time.Time{}
			r.restart()
		case <-takeUp:
			r.takeUp()
			r.setPhase("")
		case <-send:
			r.sendAgain()
		}
	}
}

// alarm returns a channel for t, nil for none.
func alarm(t time.Time) <-chan time.Time {
	if t.IsZero() {
		return nil
	}
	return time.After(time.Until(t))
}

func (r *resource) perform(op *operation) error {
	switch op.verb {
	case verbRole:
		return r.changeRole(op.role, op.force)
	case verbReload:
		return r.applyNext()
	case verbDetach:
		return r.detach()
	case verbAdopt:
		return r.adopt()
	}
	return r.shutdown()
}

// inspect finds out whether the worker has died.
func (r *resource) inspect() {
	w := r.proc()
	if w == nil || !w.gone() {
		return
	}
	r.forget(w)
	w.mu.Lock()
	code, how, fatal := w.code, w.how, w.fatal
	w.mu.Unlock()
	if fatal == "" {
		fatal = how
	}
	if finalExit(code) {
		r.log.Error("worker gave up; the role is init until told otherwise", "pid", w.pid, "exit", code, "reason", fatal)
		r.fallToInit(fatal)
		return
	}
	if st, _ := w.snapshot(); st.LocalLost && w.role == proto.RolePrimary {
		// Rules 6, 8: where the metadata failed too, the disk still says that this copy is whole. It is not: the peer wrote on.
		fatal = fmt.Sprintf("the worker died while this node's copy was out: only node %s has a whole one. Run there: hastctl role primary %s; here, when the disk is replaced: hastctl create and role secondary",
			r.current().peer, r.current().name)
		r.log.Error("no successor is started", "pid", w.pid, "how", how, "reason", fatal)
		r.d.event(r, "worker-died", fatal, nil)
		r.fallToInit(fatal)
		return
	}
	if time.Since(w.born) > restartHealthy {
		r.backoff = 0
	}
	r.backoff = min(max(restartFirst, 2*r.backoff), restartMost)
	r.retryAt = time.Now().Add(r.backoff)
	r.setWhy("worker died: " + fatal)
	r.log.Error("worker died; a successor starts", "pid", w.pid, "how", how, "reason", fatal, "in", r.backoff)
	r.d.event(r, "worker-died", fatal, nil)
}

// forget takes a reaped worker out.
func (r *resource) forget(w *workerProc) {
	r.dials.cancel()
	r.d.dropLease(w.grant)
	r.mu.Lock()
	if r.worker == w {
		r.worker = nil
		r.last, _ = w.snapshot()
	}
	r.mu.Unlock()
}

// fallToInit is HAST's answer to a worker that must not be restarted. A device
// that is in use stays held: nobody answers it, but nobody's file system is torn away either.
func (r *resource) fallToInit(why string) {
	r.setWhy(why)
	if r.front != nil {
		ctx, cancel := context.WithTimeout(context.Background(), detachTimeout)
		if err := r.dropFront(ctx, false); err != nil {
			r.log.Error("the device stays, frozen, because it is in use", "err", err)
		}
		cancel()
	}
	r.promoted = false
	r.retryAt, r.backoff = time.Time{}, 0
	r.setRole(proto.RoleInit)
}

// restart starts the successor of a worker that died, in the same role and term.
func (r *resource) restart() {
	role := r.roleNow()
	if role == proto.RoleInit {
		return
	}
	err := r.resume(role)
	if err == nil {
		r.setWhy("")
		return
	}
	if w := r.proc(); w != nil {
		return // it started and died, or was refused: inspect decides
	}
	var final *finalError
	if errors.As(err, &final) {
		r.log.Error("worker can't start; the role is init until told otherwise", "reason", err)
		r.fallToInit(err.Error())
		return
	}
	r.backoff = min(max(restartFirst, 2*r.backoff), restartMost)
	r.retryAt = time.Now().Add(r.backoff)
	r.setWhy(err.Error())
	r.log.Error("cannot start a successor; trying again", "in", r.backoff, "reason", err)
}

// resume starts a worker for a role that was given before; a primary goes on with its term and its device.
func (r *resource) resume(role proto.Role) error {
	w, err := r.spawn(role, role == proto.RolePrimary && r.promoted)
	if err != nil {
		return err
	}
	if role != proto.RolePrimary || r.front == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), attachTimeout)
	defer cancel()
	if err = r.serve(ctx, w); err != nil {
		w.end()
		r.forget(w)
	}
	return err
}

// await waits until cond says done, the worker dies, or ctx ends. cond is called with nothing locked.
func (r *resource) await(ctx context.Context, w *workerProc, cond func() (bool, error)) error {
	for {
		if done, err := cond(); done || err != nil {
			return err
		}
		select {
		case <-r.changed:
		case <-w.done:
			r.poke() // for inspect
			return r.death(w)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// finalError wraps what a person has to put right first.
type finalError struct{ text string }

func (e *finalError) Error() string { return e.text }

// death says why w ended.
func (r *resource) death(w *workerProc) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.fatal != "" && finalExit(w.code):
		return &finalError{w.fatal}
	case w.fatal != "":
		return errors.New(w.fatal)
	case finalExit(w.code):
		return &finalError{fmt.Sprintf("worker ended: %s; its log lines say why", w.how)}
	}
	return fmt.Errorf("worker died: %s", w.how)
}
