package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"hast/hastd/device"
	"hast/hastd/peer"
	"hast/hastd/replica"
	"hast/hastd/store"
	"hast/hastd/store/aio"
	"hast/proto"
	"hast/proto/wire"

	"golang.org/x/sys/unix"
)

// Sizes of a worker, with their reasons.
const (
	// AppTags is how many requests may be under way: HAST has 256; this is what keeps a fast link and disk busy in 4 KiB pieces.
	AppTags = 1024
	// SyncTags pieces of 256 KiB cover a link of 10 Gbit/s and 3 ms.
	SyncTags = 16
	// ArenaSize holds the largest requests 28 times beside the sync's buffers; the rest of a worker fits into the 64 MiB a resource.
	ArenaSize = 32 << 20
	// poolSize is how many disk operations run at once in goroutines: what one SSD's queue takes in direct I/O with profit.
	poolSize = 32
	// queueDepth is how many reads and writes the kernel has at once without goroutines: the queue of a fast disk. Of fs.aio-max-nr,
	// 65536 by default, it leaves enough for 255 other resources.
	queueDepth = 256
)

// Machine is what the engine runs: *replica.Primary or *replica.Secondary.
type Machine interface {
	Step(now replica.Time, ev *replica.Event, out *replica.Effects)
	Deadline() replica.Time
	Status() replica.Status
}

// Config of an engine. Callbacks are called from any goroutine, must not block, and must not call the engine back.
type Config struct {
	Machine Machine
	Primary bool
	Disk    *store.Disk
	Arena   *Arena
	Random  [4]uint64
	// Connect: the machine wants a connection; PeerUp answers it.
	Connect func(why string)
	Report  func(replica.Report)
	// Lease reports whether the role lease holds; nil: always.
	Lease func() bool
	// Note is for the log: what goes another way than usual; may be nil.
	Note func(text string)
}

// Engine runs one machine. Create it with New, start it with Run.
type Engine struct {
	cfg   Config
	disk  *store.Disk
	table *table
	start time.Time

	mu      sync.Mutex // the machine, fx, link
	fx      replica.Effects
	link    *peer.Link
	tuning  *peer.Tuning // of the last Retune
	conn    replica.Conn
	wake    replica.Time // when the timer is due
	timer   *time.Timer
	stopped chan struct{}
	stop    sync.Once // closes stopped
	ended   bool
	ready   chan struct{} // closed when the machine has begun
	// What waits for the lease, in the machine's order.
	heldJobs   []job
	heldFrames []heldFrame

	live atomic.Pointer[peer.Link] // link, without the lock

	gate gate // whoever steps the machine or does what it asks for is inside

	// flushing is held through each flush, of data or metadata, and until its answer is in the inbox. Of two that overlap one
	// could fail and drop what the other was to cover, and the other succeed over nothing and be heard of first (rule 11).
	flushing sync.Mutex

	inMu  sync.Mutex
	inbox []replica.Event
	spare []replica.Event

	queue    *aio.Context // nil: the kernel has none
	queueOff atomic.Bool  // the file can't use it
	jobs     chan job
	quit     chan struct{}
	batches  sync.Pool
	refused  func(uint64, unix.Errno) // e.refuse, made once
	ages     ages

	peerMu  sync.Mutex
	peerNow *connection
	leaving bool // no new one

	heldMu  sync.Mutex
	held    []*device.Request // arrived without a lease
	heldAn  []*device.Request // answers without a lease
	leased  atomic.Bool
	memsync atomic.Bool // a secondary: the last write wanted to be acknowledged as received
	wg      sync.WaitGroup

	sent, received       atomic.Uint64
	local, remote, total Histogram
}

// connection is one link's life.
type connection struct {
	cancel context.CancelCauseFunc
	done   chan struct{}
}

// New makes an engine; it takes the disk over.
func New(cfg Config) *Engine {
	e := &Engine{cfg: cfg, disk: cfg.Disk, start: time.Now(), stopped: make(chan struct{}), ready: make(chan struct{}),
		jobs: make(chan job, 2*AppTags), quit: make(chan struct{})}
	e.gate.init()
	e.refused = e.refuse
	e.table = newTable(AppTags, SyncTags, cfg.Arena)
	e.batches.New = func() any { return new(batch) }
	e.leased.Store(true)
	e.inbox = make([]replica.Event, 0, 256)
	e.spare = make([]replica.Event, 0, 256)
	return e
}

// now is the machine's time: nanoseconds since this worker began, plus a day, so that no time is zero.
func (e *Engine) now() replica.Time { return replica.Time(time.Since(e.start)) + 86400*replica.Second }

// Run starts the machine and returns when ctx ends or the machine has stopped (Stop). The front-end has to be closed before.
// When it returns, every request to the disk is complete and none will be made, whoever calls what (one incarnation at a time,
// architecture section 3): the steps below are in this order for that.
func (e *Engine) Run(ctx context.Context) error {
	e.openQueue()
	for range poolSize {
		e.wg.Go(e.work)
	}
	if e.cfg.Lease != nil {
		e.leased.Store(e.cfg.Lease())
		e.wg.Go(func() { e.watchLease(ctx) })
	}
	e.mu.Lock()
	e.timer = time.AfterFunc(time.Hour, e.tick)
	e.mu.Unlock()
	e.stepNow(&replica.Event{Kind: replica.EvStart, Wall: time.Now().Unix(), Random: e.cfg.Random})
	close(e.ready)
	var err error
	select {
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-e.stopped:
	}
	// 1 nothing new from clients and peer
	e.table.close()
	e.peerMu.Lock()
	e.leaving = true
	old := e.peerNow
	e.peerMu.Unlock()
	if old != nil {
		old.cancel(errors.New("the worker ends"))
		<-old.done
	}
	// 2 no more steps
	e.mu.Lock()
	e.ended = true
	e.timer.Stop()
	e.mu.Unlock()
	// 3 what earlier steps asked for has been handed out, or done by those who are inside
	e.gate.shut()
	// 4 the pool finishes what it is at, the kernel what it has
	close(e.quit)
	if e.queue != nil {
		e.queue.Close()
	}
	e.wg.Wait()
	if f := e.disk.Flush(); err == nil && f != proto.OK {
		err = fmt.Errorf("last flush: %w", f)
	}
	return err
}

// openQueue sets up asynchronous I/O, which the worker does without if the kernel has none to give.
func (e *Engine) openQueue() {
	q, err := e.disk.Queue(queueDepth)
	if err != nil {
		e.note("disk: " + err.Error() + "; reads and writes are done by threads, which is slower")
		return
	}
	e.queue = q
	e.wg.Go(func() { q.Run(e.reaped) })
}

func (e *Engine) note(text string) {
	if e.cfg.Note != nil {
		e.cfg.Note(text)
	}
}

// Stop asks the machine for an orderly end; Run returns when it has come. As Permit, Settings and PeerUp, it
// waits until Run has begun, and does nothing once Run ends.
func (e *Engine) Stop() {
	<-e.ready
	e.stepNow(&replica.Event{Kind: replica.EvStop})
}

// Permit lets a primary that is being promoted go on without its peer.
func (e *Engine) Permit(force bool) {
	<-e.ready
	e.stepNow(&replica.Event{Kind: replica.EvPermit, Force: force, Wall: time.Now().Unix()})
}

// Settings replaces the machine's settings.
func (e *Engine) Settings(s replica.Settings) {
	<-e.ready
	e.stepNow(&replica.Event{Kind: replica.EvSettings, Settings: &s})
}

// Status returns the machine's status; it waits for nothing but one Step.
func (e *Engine) Status() replica.Status {
	e.mu.Lock()
	s := e.cfg.Machine.Status()
	e.unlock()
	return s
}

// unlock ends a use of mu that did not look into the inbox: whoever posted meanwhile has left that to us.
func (e *Engine) unlock() {
	e.mu.Unlock()
	e.inMu.Lock()
	n := len(e.inbox)
	e.inMu.Unlock()
	if n > 0 {
		e.pump()
	}
}

// LinkBytes returns what crossed all links so far, in bytes of frames.
func (e *Engine) LinkBytes() (sent, received uint64) {
	sent, received = e.sent.Load(), e.received.Load()
	e.mu.Lock()
	l := e.link
	e.unlock()
	if l != nil {
		for _, k := range [2]peer.Kind{peer.Data, peer.Control} {
			c := l.Counters(k)
			sent, received = sent+c.BytesOut, received+c.BytesIn
		}
	}
	return sent, received
}

// Latency returns the histograms: local disk writes, the peer's answers, and requests as the front-end sees them.
func (e *Engine) Latency() (local, remote, total *Histogram) { return &e.local, &e.remote, &e.total }

// tick runs on the timer's goroutine.
func (e *Engine) tick() {
	e.stepNow(&replica.Event{Kind: replica.EvTick, Wall: time.Now().Unix()})
}

// PeerUp takes an authenticated link over and replaces the present one, if any.
// It returns at once; the machine hears of the new link when the old one has ended.
func (e *Engine) PeerUp(l *peer.Link) {
	<-e.ready
	ctx, cancel := context.WithCancelCause(context.Background())
	c := &connection{cancel: cancel, done: make(chan struct{})}
	e.peerMu.Lock()
	if e.leaving {
		e.peerMu.Unlock()
		cancel(nil)
		l.Close("the worker ends")
		return
	}
	old := e.peerNow
	e.peerNow = c
	e.wg.Add(1) // before Run waits: it sets leaving first
	e.peerMu.Unlock()
	go func() {
		defer e.wg.Done()
		defer close(c.done)
		if old != nil {
			old.cancel(errors.New("replaced by a new connection"))
			<-old.done
		}
		e.runLink(ctx, l)
	}()
}

// DropPeer ends the present link, if any; the machine asks for a new one.
func (e *Engine) DropPeer(why string) {
	e.peerMu.Lock()
	c := e.peerNow
	e.peerMu.Unlock()
	if c != nil {
		c.cancel(errors.New(why))
	}
}

// Retune changes how this node sends and waits on the present link, and on those to come whatever they were made with.
func (e *Engine) Retune(t peer.Tuning) error {
	e.mu.Lock()
	defer e.unlock()
	e.tuning = &t
	if e.link == nil {
		return nil
	}
	return e.link.Retune(t) // under mu, as in runLink: the newest is the last
}

func (e *Engine) runLink(ctx context.Context, l *peer.Link) {
	e.mu.Lock()
	if e.ended {
		e.mu.Unlock()
		l.Close("the worker ends")
		return
	}
	e.link = l
	e.live.Store(l)
	e.conn++
	conn := e.conn
	if e.tuning != nil { // the configuration changed after the link was asked for
		_ = l.Retune(*e.tuning) // what the kernel refused of it, our own watch does
	}
	e.mu.Unlock()
	e.stepNow(&replica.Event{Kind: replica.EvPeerUp, Conn: conn})
	h := &handler{e: e, conn: conn}
	err := l.Run(ctx, h)
	e.live.Store(nil)
	h.end()
	for _, k := range [2]peer.Kind{peer.Data, peer.Control} {
		c := l.Counters(k)
		e.sent.Add(c.BytesOut)
		e.received.Add(c.BytesIn)
	}
	e.mu.Lock()
	e.link = nil
	held := e.heldFrames // and no more for this link
	e.heldFrames = nil
	e.mu.Unlock()
	for i := range held {
		if held[i].counted {
			e.table.drop(held[i].tag)
		}
	}
	e.stepNow(&replica.Event{Kind: replica.EvPeerDown, Conn: conn, Text: err.Error(), Wall: time.Now().Unix()})
}

// post appends events; pump takes them on.
func (e *Engine) post(ev replica.Event) {
	e.inMu.Lock()
	e.inbox = append(e.inbox, ev)
	e.inMu.Unlock()
}

// pump steps the machine through the inbox unless somebody else is at it, and performs what comes out.
func (e *Engine) pump() {
	if !e.gate.enter() {
		return
	}
	defer e.gate.leave()
	for {
		if !e.mu.TryLock() {
			return // whoever holds it looks into the inbox again after unlocking
		}
		b := e.batches.Get().(*batch)
		e.drain(b)
		e.mu.Unlock()
		e.perform(b)
		e.inMu.Lock()
		more := len(e.inbox) > 0
		e.inMu.Unlock()
		if !more {
			return
		}
	}
}

// stepNow steps the machine through the inbox and then ev, whose body may be borrowed.
func (e *Engine) stepNow(ev *replica.Event) {
	if !e.gate.enter() {
		return
	}
	defer e.gate.leave()
	b := e.batches.Get().(*batch)
	e.mu.Lock()
	e.drain(b)
	e.step(ev, b)
	e.mu.Unlock()
	e.perform(b)
	e.pump()
}

// drain runs under mu.
func (e *Engine) drain(b *batch) {
	e.resume(b)
	for {
		e.inMu.Lock()
		list := e.inbox
		e.inbox = e.spare[:0]
		e.inMu.Unlock()
		if len(list) == 0 {
			e.spare = list
			return
		}
		for i := range list {
			e.step(&list[i], b)
		}
		clear(list)
		e.spare = list[:0]
	}
}

// step runs under mu.
func (e *Engine) step(ev *replica.Event, b *batch) {
	if e.ended {
		return
	}
	now := e.now()
	b.now = now
	if ev.Kind == replica.EvFrame && ev.Head.Type == wire.TypeAck {
		e.answered(&ev.Head, now)
	}
	e.fx.Reset()
	e.cfg.Machine.Step(now, ev, &e.fx)
	for i := range e.fx.List {
		e.collect(&e.fx.List[i], b)
	}
	if d := e.cfg.Machine.Deadline(); d != e.wake {
		e.wake = d
		e.timer.Reset(max(time.Duration(d-now), time.Millisecond))
	}
}

// collect carries an effect out as far as its order matters, and puts the rest into b.
func (e *Engine) collect(f *replica.Effect, b *batch) {
	switch f.Kind {
	case replica.EfReply:
		r := &e.table.entries[f.Tag].req
		r.Errno = f.Errno
		b.replies = append(b.replies, r)
	case replica.EfRelease:
		b.releases = append(b.releases, uint32(f.Tag))
	case replica.EfDisk:
		j := job{kind: jobDisk, tag: f.Tag, op: f.Op, off: f.Off, n: f.Len, fua: f.FUA, noUnmap: f.NoUnmap}
		if f.Op != proto.OpFlush && e.frozen(b) {
			e.heldJobs = append(e.heldJobs, j)
		} else {
			b.jobs = append(b.jobs, j)
		}
	case replica.EfDigest:
		b.jobs = append(b.jobs, job{kind: jobDigest, tag: f.Tag, off: f.Off, n: f.Len, key: f.Key})
	case replica.EfMeta:
		b.jobs = append(b.jobs, job{kind: jobMeta, meta: f.Meta})
	case replica.EfSend:
		e.send(f, b)
	case replica.EfConnect:
		b.calls = append(b.calls, func() { e.cfg.Connect("") })
	case replica.EfDisconnect:
		if e.link != nil && f.Conn == e.conn {
			l, text := e.link, f.Text
			b.calls = append(b.calls, func() { l.Close(text) })
		}
	case replica.EfReport:
		r := f.Report
		b.calls = append(b.calls, func() { e.cfg.Report(r) })
	case replica.EfStopped:
		b.calls = append(b.calls, func() { e.stop.Do(func() { close(e.stopped) }) }) // an eager operator may have asked twice
	default:
		panic("engine: unknown effect")
	}
}

// send queues a frame; the link keeps the order of the calls. A failing link ends by itself, and its end is an event.
func (e *Engine) send(f *replica.Effect, b *batch) {
	if e.link == nil || f.Conn != e.conn {
		return
	}
	kind := peer.Control
	if f.Head.Type < wire.TypeAck {
		kind = peer.Data
	}
	payload := f.Body
	if f.Payload {
		en := &e.table.entries[f.Tag]
		if f.Head.Type == wire.TypeDigest {
			payload = en.digests[:int(f.Head.Length)/proto.BlockSize*digestSize]
		} else {
			payload = en.buf[:f.Head.Length]
		}
		if int(f.Tag) < e.table.app {
			en.refs.Add(1)
		}
	}
	if f.Head.Type == wire.TypeRead {
		e.table.entries[uint32(f.Head.Seq)].readSeq.Store(f.Head.Seq)
	}
	counted := f.Payload && int(f.Tag) < e.table.app
	if kind == peer.Data && (e.frozen(b) || len(e.heldFrames) > 0) {
		e.heldFrames = append(e.heldFrames, heldFrame{head: f.Head, payload: payload, tag: uint32(f.Tag), counted: counted})
		return
	}
	e.queueFrame(b, kind, &f.Head, payload, uint32(f.Tag), counted)
}

// queueFrame hands a frame to the link; counted is whether the frame has a reference to tag, which Sent would give back.
func (e *Engine) queueFrame(b *batch, kind peer.Kind, h *wire.Header, payload []byte, tag uint32, counted bool) {
	if h.Type == wire.TypeWrite && int(tag) < e.table.app {
		e.table.entries[tag].sent.Store(int64(b.now))
	}
	err := e.link.Send(kind, h, payload, tag)
	if err != nil && counted {
		b.releases = append(b.releases, tag)
	}
	b.link, b.flush[kind-1] = e.link, true
}
