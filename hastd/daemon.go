package hastd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"hast/hastd/worker/ipc"
	"hast/hastd/worker/lease"
	"hast/hooks"
	"hast/proto"
	"hast/proto/ctl"
)

// Daemon is the parent process.
type Daemon struct {
	log     *slog.Logger
	node    string
	boot    proto.ID
	runDir  string
	rootDir string // the empty directory that workers are locked into
	lockMem bool
	fake    json.RawMessage // tests of supervision: what the fake worker is to do

	// What the world offers; tests replace it.
	openLocal func(path string) (f *os.File, held bool, err error)
	openMeta  func(path string) (*os.File, error)
	link      linker
	hooks     hookRunner

	reload func(context.Context) error

	events *eventLog
	// telling makes an event and its hook one: hooks are queued in the order of what happened. Nothing waits while it is held.
	telling sync.Mutex

	mu        sync.Mutex // never held while waiting
	about     ctl.Daemon
	resources map[string]*resource
	stopping  bool
	ended     chan struct{} // closed when all resources have ended: Run returns

	leaseMu sync.Mutex
	leases  map[*lease.Grant]struct{}

	running sync.WaitGroup // resources' goroutines
	beats   func()         // pets the watchdog, from the main loop
}

// renewLeases is the main loop's work, and nobody else's: if the loop is stuck, so is everything that a lease vouches for.
func (d *Daemon) renewLeases() {
	d.leaseMu.Lock()
	defer d.leaseMu.Unlock()
	for g := range d.leases {
		g.Renew(leaseTime)
	}
}

func (d *Daemon) addLease(g *lease.Grant) {
	d.leaseMu.Lock()
	d.leases[g] = struct{}{}
	d.leaseMu.Unlock()
}

// dropLease revokes and frees a dead worker's lease; again is harmless.
func (d *Daemon) dropLease(g *lease.Grant) {
	d.leaseMu.Lock()
	defer d.leaseMu.Unlock()
	if _, ok := d.leases[g]; ok {
		delete(d.leases, g)
		g.Close()
	}
}

// emptyRoot opens the directory that workers are locked into.
func (d *Daemon) emptyRoot() (*os.File, error) {
	if err := os.MkdirAll(d.rootDir, 0o555); err != nil {
		return nil, fmt.Errorf("empty directory for workers: %w", err)
	}
	if err := os.Chmod(d.rootDir, 0o555); err != nil {
		return nil, fmt.Errorf("empty directory for workers: %w", err)
	}
	f, err := os.Open(d.rootDir)
	if err != nil {
		return nil, fmt.Errorf("empty directory for workers: %w", err)
	}
	return f, nil
}

// event records what happened and returns its number.
func (d *Daemon) event(r *resource, name, text string, fields map[string]string) uint64 {
	e := event{at: time.Now(), name: name, text: text, fields: fields}
	if r != nil {
		e.resource = r.current().name
	}
	return d.events.add(e)
}

// hookEvents are HAST's events, the ones for which operators' programs run.
var hookEvents = []string{"connect", "disconnect", "syncstart", "syncdone", "syncintr", "split-brain"}

// report turns a transition of a machine into one log line, one event and, where HAST has one, one hook.
func (d *Daemon) report(r *resource, rep *ipc.Report) {
	s := r.current()
	fields := rep.Fields
	if rep.Bytes != 0 {
		fields = map[string]string{"bytes": fmt.Sprint(rep.Bytes)}
	}
	if rep.Event == "connect" {
		r.dials.agreed()
	}
	r.log.Log(context.Background(), reportLevel(rep.Event), rep.Text, "event", rep.Event)
	d.telling.Lock()
	id := d.event(r, rep.Event, rep.Text, fields)
	if slices.Contains(hookEvents, rep.Event) {
		e := hooks.Event{Kind: hooks.Kind(rep.Event), ID: id, Role: r.roleNow(), Device: r.devicePath(), Reason: rep.Text}
		if !r.holdHook(e) {
			d.hooks.fire(s, e)
		}
	}
	d.telling.Unlock()
	r.poke()
}

func reportLevel(event string) slog.Level {
	switch event {
	case "split-brain", "refused", "local-lost", "peer-error", ipc.EventAuthFailed:
		return slog.LevelError
	case "disconnect", "syncintr", "frozen", "read-repair", ipc.EventStall:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// announceRole tells the world that r's role changed: hook role RES OLD NEW.
func (d *Daemon) announceRole(r *resource, from, to proto.Role) {
	s := r.current()
	r.mu.Lock()
	why := r.why
	r.mu.Unlock()
	text := fmt.Sprintf("role %s, was %s", to, from)
	if why != "" {
		text += ": " + why
	}
	d.telling.Lock()
	defer d.telling.Unlock()
	id := d.event(r, "role", text, map[string]string{"old": from.String(), "new": to.String()})
	d.hooks.fire(s, hooks.Event{Kind: hooks.KindRole, ID: id, Role: to, OldRole: from, NewRole: to, Device: r.devicePath(), Reason: why})
	for _, e := range r.endPromotion() {
		e.Role = to
		d.hooks.fire(s, e)
	}
}

// find returns the named resource.
func (d *Daemon) find(name string) (*resource, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.resources[name]
	return r, ok
}

// all returns the resources, sorted by name.
func (d *Daemon) all() []*resource {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]*resource, 0, len(d.resources))
	for _, r := range d.resources {
		list = append(list, r)
	}
	slices.SortFunc(list, func(a, b *resource) int { return strings.Compare(a.current().name, b.current().name) })
	return list
}

// addResource makes a configured resource exist, in role init.
func (d *Daemon) addResource(s *spec) *resource {
	r := newResource(d, s)
	d.mu.Lock()
	d.resources[s.name] = r
	d.mu.Unlock()
	d.running.Go(r.run)
	return r
}

// Run is the main loop: leases, the watchdog, and the daemon's end. It does
// nothing that could wait. It returns when every resource has ended, after ctx is done or Stop was asked for.
func (d *Daemon) Run(ctx context.Context) {
	tick := time.NewTicker(leaseEvery)
	defer tick.Stop()
	stop := ctx.Done()
	for {
		select {
		case <-tick.C:
			d.renewLeases()
			d.beats()
		case <-stop:
			stop = nil
			go func() {
				if err := d.end(false); err != nil {
					d.log.Error("not everything ended in order", "err", err)
				}
			}()
		case <-d.ended:
			return
		}
	}
}

// end stops all resources at once, each within its own bounds. A stop that was
// asked to detach and could not is refused: the daemon goes on, with the resources that are still in use.
func (d *Daemon) end(detach bool) error {
	d.mu.Lock()
	again := d.stopping
	d.stopping = true
	d.mu.Unlock()
	if again {
		return errors.New("the daemon is stopping already")
	}
	if detach {
		if err := d.eachResource(verbDetach); err != nil {
			d.mu.Lock()
			d.stopping = false
			d.mu.Unlock()
			return err
		}
	}
	err := d.eachResource(verbStop)
	close(d.ended)
	return err
}

// eachResource lets all resources do the same at once and joins what went wrong.
func (d *Daemon) eachResource(v verb) error {
	list := d.all()
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i, r := range list {
		wg.Go(func() {
			// One role change may be under way (its own bounds), then ours.
			ctx, cancel := context.WithTimeout(context.Background(), 2*stopTimeout+attachTimeout)
			defer cancel()
			if err := r.submit(ctx, &operation{verb: v}); err != nil {
				errs[i] = fmt.Errorf("%s: %w", r.current().name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// rootFor is where the empty directory lies.
func rootFor(runDir string) string { return filepath.Join(runDir, "empty") }
