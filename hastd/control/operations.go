package control

import (
	"context"
	"slices"
	"sync"
	"time"

	"hast/proto"
	"hast/proto/ctl"
)

// operations are the changes that are under way, and the latest ones that
// have ended, for whoever asks how they went.
type operations struct {
	base    context.Context
	backend Backend
	kids    *sync.WaitGroup

	mu   sync.Mutex // never held while waiting
	next uint64
	list []*operation // oldest first
}

type operation struct {
	id       uint64
	verb     string
	resource string
	began    time.Time
	done     chan struct{}
	// Set before done is closed.
	took time.Duration
	err  *ctl.Error
}

// maxOperations is a change for each of ctl.MaxNames resources, and as many that have ended.
const maxOperations = 2 * ctl.MaxNames

func newOperations(base context.Context, b Backend, kids *sync.WaitGroup) *operations {
	return &operations{base: base, backend: b, kids: kids, next: 1}
}

// start begins an operation; run is called in a goroutine of its own.
func (o *operations) start(verb, resource string, run func(context.Context) error) (*operation, *ctl.Error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.list) >= maxOperations {
		i := slices.IndexFunc(o.list, (*operation).ended)
		if i < 0 {
			return nil, &ctl.Error{Code: proto.ExitTemp, Message: "too many changes are under way", Hint: "Try again when some of them have ended"}
		}
		o.list = slices.Delete(o.list, i, i+1)
	}
	op := &operation{id: o.next, verb: verb, resource: resource, began: time.Now(), done: make(chan struct{})}
	o.next++
	o.list = append(o.list, op)
	o.kids.Go(func() {
		op.err = ctl.AsError(run(o.base), proto.ExitRefused)
		op.took = time.Since(op.began)
		close(op.done)
	})
	return op, nil
}

func (op *operation) ended() bool {
	select {
	case <-op.done:
		return true
	default:
		return false
	}
}

// find returns the operation with that number, or nil.
func (o *operations) find(id uint64) *operation {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, op := range o.list {
		if op.id == id {
			return op
		}
	}
	return nil
}

// describe tells how op is at this moment.
func (o *operations) describe(op *operation) ctl.Operation {
	d := ctl.Operation{ID: op.id, Verb: op.verb, Resource: op.resource}
	if op.ended() {
		d.Done, d.Seconds, d.Error = true, op.took.Seconds(), op.err
		return d
	}
	d.Seconds = time.Since(op.began).Seconds()
	if op.resource != "" {
		d.Phase = o.backend.Phase(op.resource)
	}
	return d
}

// wait returns when op has ended, ctx has, or after ctl.OperationWait.
func (o *operations) wait(ctx context.Context, op *operation) {
	t := time.NewTimer(ctl.OperationWait)
	defer t.Stop()
	select {
	case <-op.done:
		return
	case <-t.C:
		return
	case <-ctx.Done():
	}
	// The daemon may be ending because op, a stop, has just succeeded: its client is to hear that.
	t.Reset(endGrace / 4)
	select {
	case <-op.done:
	case <-t.C:
	}
}
