package control

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"hast/proto"
	"hast/proto/ctl"
)

// poller asks the backend how resources are, one question per resource at a
// time, and remembers the answers. A resource that does not answer costs nobody more
// than pollLimit, however many clients ask, and the others nothing (rule 14).
type poller struct {
	base    context.Context
	backend Backend
	kids    *sync.WaitGroup

	mu      sync.Mutex // never held while waiting
	entries map[string]*entry
}

type entry struct {
	flight chan struct{} // closed when the question that is out has been answered; nil: none is out
	last   ctl.ResourceStatus
	at     time.Time // of last; zero: there is none
	err    error     // of the latest answer
}

// pollLimit leaves a backend that waits for the full ctl.StatusWait time to say so itself.
const pollLimit = ctl.StatusWait + 300*time.Millisecond

func newPoller(base context.Context, b Backend, kids *sync.WaitGroup) *poller {
	return &poller{base: base, backend: b, kids: kids, entries: make(map[string]*entry)}
}

// ask begins a question about name, or joins the one that is out.
func (p *poller) ask(name string) (*entry, chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.entries[name]
	if e == nil {
		e = new(entry)
		p.entries[name] = e
	}
	if e.flight == nil {
		e.flight = make(chan struct{})
		p.kids.Go(func() { p.fetch(name, e) })
	}
	return e, e.flight
}

func (p *poller) fetch(name string, e *entry) {
	ctx, cancel := context.WithTimeout(p.base, ctl.StatusWait)
	defer cancel()
	st, err := p.backend.Status(ctx, name)
	p.mu.Lock()
	defer p.mu.Unlock()
	e.err = err
	if err == nil {
		st.Name, st.Status = name, st.State.HAST()
		e.last, e.at = st, time.Now()
	}
	close(e.flight)
	e.flight = nil
}

// get returns name's status, after limit at the latest.
func (p *poller) get(ctx context.Context, name string, limit <-chan struct{}) (ctl.ResourceStatus, *ctl.Error) {
	e, flight := p.ask(name)
	select {
	case <-flight:
	case <-limit:
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	late := e.flight == flight
	switch {
	case !late && e.err != nil:
		return ctl.ResourceStatus{}, ctl.AsError(e.err, proto.ExitNoResource)
	case late && e.at.IsZero():
		return ctl.ResourceStatus{}, &ctl.Error{Code: proto.ExitUnavailable, Message: fmt.Sprintf("resource %s does not answer, and never has", name)}
	}
	st := e.last
	if late {
		st.Stale = true
		st.StaleSeconds += time.Since(e.at).Seconds()
	}
	if st.Stale && st.Status == ctl.StateConnected.HAST() {
		st.Status = ctl.StateDegraded.HAST() // nobody can vouch for it
	}
	return st, nil
}

// all returns the status of the named resources (none: all) in that order, and what is wrong with the rest.
func (p *poller) all(ctx context.Context, names []string) ctl.StatusReply {
	known := p.backend.Names()
	p.prune(known)
	names, errs := pick(names, known)
	list := make([]ctl.ResourceStatus, len(names))
	fails := make([]*ctl.Error, len(names))
	limit, cancel := context.WithTimeout(ctx, pollLimit)
	defer cancel()
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { list[i], fails[i] = p.get(ctx, name, limit.Done()) })
	}
	wg.Wait()
	reply := ctl.StatusReply{Node: p.backend.Daemon().Node, Resources: []ctl.ResourceStatus{}, Errors: errs}
	for i, name := range names {
		if fails[i] != nil {
			reply.Errors = append(reply.Errors, ctl.NamedError{Name: name, Error: *fails[i]})
			continue
		}
		reply.Resources = append(reply.Resources, list[i])
	}
	return reply
}

// prune forgets resources that left the configuration.
func (p *poller) prune(known []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, e := range p.entries {
		if e.flight == nil && !slices.Contains(known, name) {
			delete(p.entries, name)
		}
	}
}

// pick separates the names that exist from those that don't; no names and "all" mean all of them. What is named twice is served once.
func pick(names, known []string) (found []string, errs []ctl.NamedError) {
	if len(names) == 0 || slices.Contains(names, "all") {
		return known, nil
	}
	seen := make(map[string]bool, len(names))
	for _, name := range names {
		if seen[name] {
			continue
		}
		seen[name] = true
		if slices.Contains(known, name) {
			found = append(found, name)
			continue
		}
		errs = append(errs, ctl.NamedError{Name: name, Error: *unknown(name)})
	}
	return found, errs
}

func unknown(name string) *ctl.Error {
	return &ctl.Error{Code: proto.ExitNoResource, Message: fmt.Sprintf("no resource %q is configured here", name),
		Hint: "hastctl status shows the names; after a change of the configuration run hastctl reload"}
}
