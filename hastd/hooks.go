package hastd

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"hast/hooks"
	"hast/proto/ctl"
)

// hookRunner runs operators' programs; it never waits for one.
type hookRunner interface {
	// fire queues an event of s's resource.
	fire(s *spec, e hooks.Event)
	// running tells what runs for s at this moment, nil if nothing does.
	running(s *spec) *ctl.HookStatus
	// forget ends what belongs to a resource that left the configuration.
	forget(name string)
	// close lets what is queued run for a while, then ends it.
	close()
}

// hookEnd is how long the end of the daemon waits for hooks that run: they may unmount or stop what used the device.
const hookEnd = 5 * time.Second

// hookSet has one runner for each resource, so that a slow program delays nobody else's.
type hookSet struct {
	node string
	log  *slog.Logger
	mu   sync.Mutex
	by   map[string]*hookOf
	wg   sync.WaitGroup
}

type hookOf struct {
	*hooks.Runner
	stop context.CancelFunc
}

func newHooks(node string, log *slog.Logger) *hookSet {
	return &hookSet{node: node, log: log, by: make(map[string]*hookOf)}
}

func (h *hookSet) fire(s *spec, e hooks.Event) {
	e.Peer = s.peer
	h.mu.Lock()
	defer h.mu.Unlock()
	r := h.by[s.name]
	if r == nil {
		if s.exec == "" {
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		cfg := hooks.Config{Resource: s.name, Node: h.node, Log: h.log.With("resource", s.name)}
		r = &hookOf{hooks.New(cfg, s.exec, s.hookTime), cancel}
		h.by[s.name] = r
		h.wg.Go(func() { r.Run(ctx) })
	}
	r.SetProgram(s.exec, s.hookTime)
	r.Submit(e)
}

func (h *hookSet) running(s *spec) *ctl.HookStatus {
	h.mu.Lock()
	r := h.by[s.name]
	h.mu.Unlock()
	if r == nil {
		return nil
	}
	e, since, _, ok := r.Running()
	if !ok {
		return nil
	}
	return &ctl.HookStatus{Event: e.String(), Program: s.exec, StartedUnix: since.Unix()}
}

func (h *hookSet) forget(name string) {
	h.mu.Lock()
	r := h.by[name]
	delete(h.by, name)
	h.mu.Unlock()
	if r == nil {
		return
	}
	h.wg.Go(func() { // its last event is that its role became init
		idle(r)
		r.stop()
	})
}

func (h *hookSet) close() {
	h.mu.Lock()
	var all []*hookOf
	for _, r := range h.by {
		all = append(all, r)
	}
	h.mu.Unlock()
	var wg sync.WaitGroup
	for _, r := range all {
		wg.Go(func() {
			idle(r)
			r.stop()
		})
	}
	wg.Wait()
	h.wg.Wait()
}

func idle(r *hookOf) {
	ctx, cancel := context.WithTimeout(context.Background(), hookEnd)
	defer cancel()
	r.Idle(ctx)
}
