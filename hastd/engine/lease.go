package engine

import (
	"context"
	"time"

	"hast/hastd/peer"
	"hast/hastd/replica"
	"hast/proto/wire"
)

// What the role lease guarantees on a primary:
//
//	requests  that arrive without a lease wait in front of the machine (Submit)
//	the disk  no read, write or zero starts that a step without a lease asked for, whoever asked for it and
//	          whenever the request came: it waits in heldJobs
//	the wire  nothing is queued on the data connection: it waits in heldFrames, in order, so that a flush stays behind its writes
//	answers   are kept (answer)
//
// The lease is looked at once for each run of the machine, in it; what the run asks for is started right after it. So
// an operation can start later than the lease by one run, some microseconds, or by as long as the process is stopped
// there: a paused kernel or process is fencing's business (rules 9 and 12), for between looking and doing there is always a moment.
//
// Flushes, digests and metadata go on: they change no data and make nothing visible. So does the control connection, which tells
// the peer in what state this node is. A secondary has no lease to lose: whose writes it takes is decided by epochs (rule 5).
//
// An orderly end waits for what is held, as for any frozen request; Run's context ends it at once.

// leaseState is what a batch knows of the lease.
type leaseState uint8

const (
	leaseUnknown leaseState = iota
	leaseGood
	leaseGone
)

// heldFrame is a frame of the data connection that waits for the lease.
type heldFrame struct {
	head    wire.Header
	payload []byte
	tag     uint32
	counted bool
}

// frozen reports whether what the steps of b ask for has to wait for the lease. It runs under mu and looks once for each b.
func (e *Engine) frozen(b *batch) bool {
	if b.lease == leaseUnknown {
		b.lease = leaseGood
		if e.cfg.Primary && !e.leaseHolds() {
			b.lease = leaseGone
		}
	}
	return b.lease == leaseGone
}

// resume lets go what has waited for the lease, if it is good again. It runs under mu.
func (e *Engine) resume(b *batch) {
	if e.ended || len(e.heldJobs)+len(e.heldFrames) == 0 || e.frozen(b) {
		return
	}
	b.now = e.now()
	b.jobs = append(b.jobs, e.heldJobs...)
	e.heldJobs = nil
	list := e.heldFrames
	e.heldFrames = nil
	for i := range list {
		f := &list[i]
		e.queueFrame(b, peer.Data, &f.head, f.payload, f.tag, f.counted)
	}
}

// leaseHolds looks at the lease and remembers that it ran out.
func (e *Engine) leaseHolds() bool {
	if e.cfg.Lease == nil {
		return true
	}
	if !e.cfg.Lease() {
		e.leased.Store(false)
	}
	return e.leased.Load()
}

// leasePoll is how often an expired lease is looked at again: half of what anybody would notice.
const leasePoll = 20 * time.Millisecond

// watchLease lets I/O go on when the lease is good again.
func (e *Engine) watchLease(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-e.stopped:
			return
		case <-time.After(leasePoll):
		}
		if e.leased.Load() || !e.cfg.Lease() {
			continue
		}
		e.heldMu.Lock()
		e.leased.Store(true)
		in, out := e.held, e.heldAn
		e.held, e.heldAn = nil, nil
		e.heldMu.Unlock()
		if len(out) > 0 {
			e.answer(out)
		}
		if len(in) > 0 {
			e.Submit(in)
		}
		e.stepNow(&replica.Event{Kind: replica.EvTick, Wall: time.Now().Unix()}) // resume lets go what is held
	}
}

// Leased reports whether I/O goes on, for status.
func (e *Engine) Leased() bool { return e.leased.Load() }
