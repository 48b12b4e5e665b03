package engine

import (
	"bytes"
	"context"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"hast/hastd/device"
	"hast/hastd/peer"
	"hast/hastd/replica"
	"hast/hastd/store"
	"hast/hastd/store/aio"
	"hast/proto"
	"hast/proto/wire"

	"golang.org/x/sys/unix"
)

// scripted is a machine that asks for what a test wants.
type scripted struct {
	step   func(ev *replica.Event, out *replica.Effects)
	status func()
}

func (s *scripted) Step(_ replica.Time, ev *replica.Event, out *replica.Effects) { s.step(ev, out) }
func (s *scripted) Deadline() replica.Time                                       { return replica.Time(1 << 62) }
func (s *scripted) Status() replica.Status {
	if s.status != nil {
		s.status()
	}
	return replica.Status{}
}

// solo is an engine with a scripted machine and a disk, not running.
func solo(t *testing.T, cfg Config) (*Engine, string) {
	t.Helper()
	return soloFlush(t, cfg, nil)
}

// soloFlush is solo whose metadata's flushes begin with flush, as store.New wants it.
func soloFlush(t *testing.T, cfg Config, flush func() bool) (*Engine, string) {
	t.Helper()
	s := &side{t: t, name: "a", path: testDir(t) + "/a"}
	if err := os.WriteFile(s.path, make([]byte, testSize), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Create(store.Options{Name: "data", Local: s.path}); err != nil {
		t.Fatal(err)
	}
	f, err := store.Open(s.path)
	if err != nil {
		t.Fatal(err)
	}
	m, err := store.Load(f, "data")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Disk, err = store.New(f, nil, &m.Super, flush); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cfg.Disk.Close() })
	if cfg.Arena, err = NewArena(ArenaSize); err != nil {
		t.Fatal(err)
	}
	return New(cfg), s.path
}

func run(e *Engine) (cancel context.CancelFunc, ended chan error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended = make(chan error, 1)
	go func() { ended <- e.Run(ctx) }()
	return cancel, ended
}

func within(t *testing.T, what string, c <-chan error) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(10 * time.Second):
		t.Fatalf("%s takes too long", what)
	}
}

// first returns the first byte of a file.
func first(t *testing.T, path string) byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var b [1]byte
	if _, err := f.ReadAt(b[:], 0); err != nil {
		t.Fatal(err)
	}
	return b[0]
}

// TestNothingIsWrittenAfterRun: a caller that is in the middle of what a step asked for keeps Run.
func TestNothingIsWrittenAfterRun(t *testing.T) {
	inside, release := make(chan struct{}), make(chan struct{})
	m := &scripted{step: func(ev *replica.Event, out *replica.Effects) {
		if ev.Kind == replica.EvSettings {
			out.List = append(out.List, replica.Effect{Kind: replica.EfReport},
				replica.Effect{Kind: replica.EfDisk, Tag: 0, Op: proto.OpWrite, Len: 4096})
		}
	}}
	e, path := solo(t, Config{Machine: m, Primary: true, Report: func(replica.Report) { close(inside); <-release }})
	en := e.table.get(4096, false)
	copy(en.buf, bytes.Repeat([]byte{7}, 4096))
	cancel, ended := run(e)
	called := make(chan error)
	go func() { e.Settings(replica.Settings{}); close(called) }()
	<-inside
	cancel()
	select {
	case <-ended:
		t.Error("Run returned while somebody was about to write")
	case <-time.After(200 * time.Millisecond):
	}
	before := first(t, path)
	close(release)
	within(t, "Settings", called)
	within(t, "Run", ended)
	if got := first(t, path); before != 0 || got != 7 {
		t.Errorf("byte 0 was %d and is %d", before, got)
	}
	// Whoever comes now finds the gate shut.
	copy(en.buf, bytes.Repeat([]byte{8}, 4096))
	e.Settings(replica.Settings{})
	e.Stop()
	e.Permit(true)
	e.tick()
	if got := first(t, path); got != 7 {
		t.Errorf("written after the end: byte 0 is %d", got)
	}
}

func TestStoppedTwice(t *testing.T) {
	m := &scripted{step: func(ev *replica.Event, out *replica.Effects) {
		if ev.Kind == replica.EvStop {
			out.List = append(out.List, replica.Effect{Kind: replica.EfStopped}, replica.Effect{Kind: replica.EfStopped})
		}
	}}
	e, _ := solo(t, Config{Machine: m})
	cancel, ended := run(e)
	defer cancel()
	e.Stop()
	e.Stop()
	within(t, "Run", ended)
}

func TestGate(t *testing.T) {
	var g gate
	g.init()
	var inside, after atomic.Int64
	var shut atomic.Bool
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20000 {
				if !g.enter() {
					continue
				}
				if shut.Load() {
					after.Add(1)
				}
				inside.Add(1)
				inside.Add(-1)
				g.leave()
			}
		})
	}
	time.Sleep(time.Millisecond)
	g.shut()
	shut.Store(true)
	if n := inside.Load(); n != 0 {
		t.Errorf("%d are inside", n)
	}
	wg.Wait()
	if n := after.Load(); n != 0 {
		t.Errorf("%d came in through a shut gate", n)
	}
}

// TestLeaseEndsInTheMachine: a request that was taken with a lease and goes on without one reaches neither disk nor wire.
func TestLeaseEndsInTheMachine(t *testing.T) {
	a, b := newSide(t, "a", true), newSide(t, "b", false)
	connect(t, a, b, false)
	c := &client{a.eng, make(chan *device.Request, 16)}
	c.do(t, proto.OpWrite, 0, bytes.Repeat([]byte{1}, 4096), 4096) // the map knows its extent
	c.do(t, proto.OpFlush, 0, nil, 0)
	a.uses.Store(1) // Submit has it, nobody after
	c.submit(proto.OpWrite, 0, bytes.Repeat([]byte{2}, 4096), 4096)
	c.submit(proto.OpWrite, 0, bytes.Repeat([]byte{3}, 4096), 4096)
	select {
	case <-c.done:
		t.Error("answered without a lease")
	case <-time.After(300 * time.Millisecond):
	}
	if x, y := first(t, a.path), first(t, b.path); x != 1 || y != 1 {
		t.Errorf("without a lease %d was written here, %d there", x, y)
	}
	if n := a.eng.Oldest(); n != 0 {
		t.Errorf("what is held counts as slow: %v", n)
	}
	if a.eng.Leased() {
		t.Error("status does not show it")
	}
	a.expired.Store(false)
	for range 2 {
		select {
		case r := <-c.done:
			if r.Errno != proto.OK {
				t.Errorf("with the lease again: %v", r.Errno)
			}
			a.eng.Put(r)
		case <-time.After(5 * time.Second):
			t.Fatalf("not answered when the lease was back: %+v", a.eng.Status())
		}
	}
	c.do(t, proto.OpFlush, 0, nil, 0)
	if x, y := first(t, a.path), first(t, b.path); x != 3 || y != 3 {
		t.Errorf("with the lease again %d was written here, %d there", x, y)
	}
	// The same, and the link goes meanwhile: nothing is left over.
	a.uses.Store(1)
	c.submit(proto.OpWrite, 0, bytes.Repeat([]byte{4}, 4096), 4096)
	time.Sleep(50 * time.Millisecond)
	b.eng.DropPeer("test")
	time.Sleep(50 * time.Millisecond)
	a.expired.Store(false)
	select {
	case r := <-c.done:
		a.eng.Put(r)
	case <-time.After(5 * time.Second):
		t.Fatalf("not answered when the lease was back and the peer gone: %+v", a.eng.Status())
	}
	a.stop()
	b.close()
	if n := a.eng.table.inUse(); n != 0 {
		t.Errorf("%d entries were not given back", n)
	}
}

// TestBufferOfARead: what a peer may fill, and for how long it stays.
func TestBufferOfARead(t *testing.T) {
	e, _ := solo(t, Config{Machine: &scripted{step: func(*replica.Event, *replica.Effects) {}}, Primary: true})
	h := &handler{e: e, conn: 1}
	en := e.table.get(4096, false)
	tag := en.req.Tag
	seq := uint64(9)<<32 | uint64(tag)
	en.readSeq.Store(seq)
	f := &wire.Header{Type: wire.TypeData, Seq: seq, Length: 4096}
	if h.Buffer(peer.Control, f) != nil {
		t.Error("DATA on the control connection gets a buffer")
	}
	for _, bad := range []wire.Header{
		{Type: wire.TypeWrite, Seq: seq, Length: 4096},
		{Type: wire.TypeData, Seq: seq + 1<<32, Length: 4096},
		{Type: wire.TypeData, Seq: 1<<32 - 1, Length: 4096},
		{Type: wire.TypeData, Seq: seq + 1, Length: 4096}, // a free entry
		{Type: wire.TypeData, Seq: seq, Length: 8192},
	} {
		if h.Buffer(peer.Data, &bad) != nil {
			t.Errorf("%+v gets a buffer", bad)
		}
		h.end() // the link ends
	}
	if len(h.Buffer(peer.Data, f)) != 4096 {
		t.Fatal("DATA that was asked for gets no buffer")
	}
	e.table.drop(tag) // the machine and the client are done with it, whatever the reason
	if e.table.inUse() != 1 {
		t.Fatal("the buffer is free while the link fills it")
	}
	h.Frame(peer.Data, f, en.buf)
	if e.table.inUse() != 0 {
		t.Error("the buffer is kept")
	}
	en = e.table.get(4096, false)
	en.readSeq.Store(uint64(en.req.Tag))
	h.Buffer(peer.Data, &wire.Header{Type: wire.TypeData, Seq: uint64(en.req.Tag), Length: 4096})
	h.end() // half read
	e.table.drop(en.req.Tag)
	if e.table.inUse() != 0 {
		t.Error("a link that broke keeps the buffer")
	}
}

// TestNobodyOvertakes: a large request gets its buffer though small ones keep coming.
func TestNobodyOvertakes(t *testing.T) {
	arena, err := NewArena(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer arena.Close()
	tab := newTable(16, 0, arena)
	small := tab.get(4096, true)
	got := make(chan *entry)
	waiters := func() uint64 { tab.mu.Lock(); defer tab.mu.Unlock(); return tab.next - tab.serving }
	wait := func(n int, queue uint64) {
		go func() { got <- tab.get(n, true) }()
		for end := time.Now().Add(5 * time.Second); waiters() != queue; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("does not wait")
			}
		}
	}
	wait(1<<20, 1)
	if tab.get(4096, false) != nil {
		t.Fatal("a small request overtakes")
	}
	wait(4096, 2)
	wait(0, 3)
	tab.drop(small.req.Tag)
	large := <-got
	if len(large.buf) != 1<<20 {
		t.Fatalf("%d bytes came first", len(large.buf))
	}
	tab.drop(large.req.Tag)
	<-got
	<-got
	if tab.get(4096, false) == nil {
		t.Error("nobody waits, and there is nothing to be had")
	}
	wait(1<<20, 1)
	wait(1<<20, 2)
	tab.close()
	if <-got != nil || <-got != nil || tab.get(0, true) != nil {
		t.Error("a closed table gives something")
	}
}

func TestOldest(t *testing.T) {
	e, _ := solo(t, Config{Machine: &scripted{step: func(*replica.Event, *replica.Effects) {}}})
	if n := e.Oldest(); n != 0 {
		t.Errorf("an idle disk is busy since %v", n)
	}
	en := e.table.get(4096, false)
	jobs := []job{{kind: jobDisk, tag: replica.Tag(en.req.Tag), op: proto.OpRead, n: 4096}, {kind: jobMeta}}
	e.handOut(new(batch), jobs[:1]) // the pool does not run: a disk that does not answer
	time.Sleep(50 * time.Millisecond)
	e.handOut(new(batch), jobs[1:])
	if n := e.Oldest(); n < 50*time.Millisecond || n > 10*time.Second {
		t.Errorf("the oldest request is %v old", n)
	}
	for range jobs {
		j := <-e.jobs
		e.do(&j)
	}
	if n := e.Oldest(); n != 0 {
		t.Errorf("a disk that has answered is busy since %v", n)
	}
}

// TestWithoutTheQueue: everything works by the pool, and where the kernel's queue declines, because each write would have to
// drop cached pages.
func TestWithoutTheQueue(t *testing.T) {
	for _, c := range []string{"off", "declines"} {
		a, b := newSide(t, "a", true), newSide(t, "b", false)
		connect(t, a, b, false)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		if c == "off" {
			a.eng.queueOff.Store(true)
			b.eng.queueOff.Store(true)
		} else {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						os.ReadFile(a.path)
						os.ReadFile(b.path)
					}
				}
			})
		}
		cl := &client{a.eng, make(chan *device.Request, AppTags)}
		buf := make([]byte, 8192)
		for round := range 20 {
			for i := range 32 {
				copy(buf, bytes.Repeat([]byte{byte(round + i)}, len(buf)))
				cl.submit(proto.OpWrite, proto.Offset(i)<<20, buf, 8192)
			}
			for range 32 {
				r := <-cl.done
				if r.Errno != proto.OK {
					t.Fatalf("%s: %v", c, r.Errno)
				}
				a.eng.Put(r)
			}
		}
		close(stop)
		wg.Wait()
		for i := range 32 {
			if got := cl.do(t, proto.OpRead, proto.Offset(i)<<20, nil, 8192); got[0] != byte(19+i) || got[8191] != byte(19+i) {
				t.Errorf("%s: write %d reads as %d", c, i, got[0])
			}
		}
		if n, _, _, _ := func() (uint64, time.Duration, time.Duration, time.Duration) {
			_, r, _ := a.eng.Latency()
			return r.Summary()
		}(); n < 640 {
			t.Errorf("%s: the peer's answers were timed %d times, want 640", c, n)
		}
		a.stop()
		b.stop()
		same(t, a, b)
	}
}

// TestQueueThatCant: a file that can't do without waiting is left to the pool, which is told once.
func TestQueueThatCant(t *testing.T) {
	var notes []string
	e, _ := solo(t, Config{Machine: &scripted{step: func(*replica.Event, *replica.Effects) {}}, Note: func(text string) { notes = append(notes, text) }})
	e.openQueue()
	defer e.queue.Close()
	if len(notes) != 0 {
		t.Fatalf("no queue: %v", notes)
	}
	tags := []uint32{e.table.get(4096, false).req.Tag, e.table.get(4096, false).req.Tag}
	for i, tag := range tags {
		j := job{kind: jobDisk, tag: replica.Tag(tag), op: proto.OpWrite, off: proto.Offset(i) << 20, n: 4096, fua: true}
		b := new(batch)
		e.ages.begin(&j, e.now())
		if !e.queued(&j, &b.disk) {
			t.Fatal("a write does not go to the queue")
		}
		if i == 0 {
			e.refuse(uint64(tag), unix.EOPNOTSUPP)
		} else {
			e.reaped([]aio.Event{{Data: uint64(tag), Res: -int64(unix.EOPNOTSUPP)}})
		}
		if got := <-e.jobs; got.tag != j.tag || got.op != j.op || got.off != j.off || got.n != j.n || got.fua != j.fua {
			t.Errorf("the pool has %+v, want %+v", got, j)
		}
	}
	if !e.queueOff.Load() || len(notes) != 1 {
		t.Errorf("queue left: %v; %q", e.queueOff.Load(), notes)
	}
}

// TestStatusLosesNothing: an event that comes while somebody asks for the status is worked on when that is done,
// not at the machine's next tick.
func TestStatusLosesNothing(t *testing.T) {
	stepped := make(chan error, 16)
	inside, come := make(chan struct{}), make(chan struct{})
	m := &scripted{
		step: func(ev *replica.Event, out *replica.Effects) {
			if ev.Kind == replica.EvDisk {
				stepped <- nil
			}
		},
		status: func() { close(inside); <-come },
	}
	e, _ := solo(t, Config{Machine: m, Primary: true})
	cancel, ended := run(e)
	<-e.ready
	go e.Status()
	<-inside
	e.post(replica.Event{Kind: replica.EvDisk})
	e.pump() // finds the machine taken
	close(come)
	within(t, "an event beside a status", stepped)
	cancel()
	within(t, "Run's end", ended)
}

// TestFlushesOneByOne: a flush of the data does not overlap one of the metadata, and is answered after it (rule 11).
func TestFlushesOneByOne(t *testing.T) {
	answers := make(chan replica.EventKind, 4)
	block := make([]byte, 8192)
	at := uintptr(unsafe.Pointer(&block[0]))
	block = block[(4096-at%4096)%4096:][:4096]
	m := &scripted{step: func(ev *replica.Event, out *replica.Effects) {
		switch ev.Kind {
		case replica.EvSettings:
			out.List = append(out.List, replica.Effect{Kind: replica.EfMeta, Meta: []replica.MetaBlock{{Off: 0, Data: block}}})
		case replica.EvPermit:
			out.List = append(out.List, replica.Effect{Kind: replica.EfDisk, Tag: AppTags + SyncTags, Op: proto.OpFlush})
		case replica.EvMeta, replica.EvDisk:
			answers <- ev.Kind
		}
	}}
	inside, release := make(chan struct{}), make(chan struct{})
	e, _ := soloFlush(t, Config{Machine: m, Primary: true}, func() bool { close(inside); <-release; return true })
	cancel, ended := run(e)
	e.Settings(replica.Settings{})
	<-inside // the metadata is being flushed
	e.Permit(false)
	select {
	case k := <-answers:
		t.Fatalf("answer %d while a flush is under way", k)
	case <-time.After(100 * time.Millisecond):
	}
	close(release)
	for _, want := range []replica.EventKind{replica.EvMeta, replica.EvDisk} {
		select {
		case k := <-answers:
			if k != want {
				t.Fatalf("answer %d, want %d", k, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatal("no answer")
		}
	}
	cancel()
	within(t, "Run's end", ended)
}
