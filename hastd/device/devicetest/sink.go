package devicetest

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hast/hastd/device"
	"hast/proto"
)

// Options of a Sink. Zero values mean the defaults.
type Options struct {
	Size    proto.Offset // bytes; a multiple of Logical
	Logical uint32       // 4096
	Entries int          // of the request table; 256
	// Workers is the number of goroutines that execute requests; 0: Submit executes and completes before it returns.
	Workers int
	// Volatile makes the sink a disk with a write cache: Crash loses what was not flushed.
	Volatile bool
	// Record keeps a list of everything that was submitted.
	Record bool
	// File, if set, holds the data (it is extended to Size), so that they outlive a killed process.
	File *os.File
}

// Record is one submitted request.
type Record struct {
	Op      proto.Op
	FUA     bool
	NoUnmap bool
	Off     proto.Offset
	Len     proto.Length
	Batch   int // number of the Submit call
}

// Counts is what a Sink has seen.
type Counts struct {
	Reads, Writes, Zeroes, Flushes, FUAs, NoUnmaps uint64
	Batches, Largest                               uint64 // Submit calls, and the most requests of one
	Most                                           int    // the most requests under way at a time
}

// state of a table entry.
type state uint8

const (
	free     state = iota
	held           // the front-end fills it in
	working        // submitted
	finished       // completed, not put back
)

// Sink is a device in memory. All methods are safe for concurrent use.
type Sink struct {
	info device.Info
	opt  Options

	mu      sync.Mutex
	room    sync.Cond
	closed  bool
	table   []device.Request
	bufs    [][]byte
	state   []state
	free    []uint32
	under   int // submitted and not completed
	counts  Counts
	records []Record
	faults  []string
	fail    func(*device.Request) proto.Errno
	delay   func(*device.Request) time.Duration

	data   sync.RWMutex // guards the images
	memory []byte
	stable []byte
	loose  []span // written since the last flush

	work    chan *device.Request
	workers sync.WaitGroup
	maps    [][]byte
}

type span struct{ off, end uint64 }

// New makes a sink; Close frees its memory. Both name what failed by t.
func New(t testing.TB, opt Options) *Sink {
	t.Helper()
	s, err := Make(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); s.Unmap(); s.Check(t) })
	return s
}

// Make is New for programs that are no tests; the caller ends it with Close and Unmap.
func Make(opt Options) (*Sink, error) {
	if opt.Logical == 0 {
		opt.Logical = 4096
	}
	if opt.Entries == 0 {
		opt.Entries = 256
	}
	s := &Sink{info: device.Info{Name: "test", Size: opt.Size, Logical: opt.Logical}, opt: opt}
	s.room.L = &s.mu
	arena, err := s.anon(opt.Entries * int(proto.MaxRequest))
	if err != nil {
		return nil, err
	}
	if s.memory, err = s.image(); err != nil {
		return nil, err
	}
	if opt.Volatile {
		if s.stable, err = s.anon(int(opt.Size)); err != nil {
			return nil, err
		}
	}
	s.table = make([]device.Request, opt.Entries)
	s.state = make([]state, opt.Entries)
	s.bufs = make([][]byte, opt.Entries)
	for i := range s.table {
		s.table[i].Tag = uint32(i)
		n := int(proto.MaxRequest)
		s.bufs[i] = arena[i*n : (i+1)*n : (i+1)*n]
		s.free = append(s.free, uint32(i))
	}
	s.work = make(chan *device.Request, opt.Entries)
	for range opt.Workers {
		s.workers.Add(1)
		go s.worker()
	}
	return s, nil
}

func (s *Sink) anon(n int) ([]byte, error) {
	// Touched now, as the engine's arena is: a server that is killed while the kernel copies a request into memory
	// that has to be faulted in first takes the request with it, and its sender gets EIO.
	m, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("%d bytes of memory: %w", n, err)
	}
	s.maps = append(s.maps, m)
	return m, nil
}

func (s *Sink) image() ([]byte, error) {
	if s.opt.File == nil {
		return s.anon(int(s.opt.Size))
	}
	if err := s.opt.File.Truncate(int64(s.opt.Size)); err != nil {
		return nil, err
	}
	m, err := unix.Mmap(int(s.opt.File.Fd()), 0, int(s.opt.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s: %w", s.opt.File.Name(), err)
	}
	s.maps = append(s.maps, m)
	return m, nil
}

// Info describes the device.
func (s *Sink) Info() device.Info { return s.info }

// Get implements device.Sink.
func (s *Sink) Get(n proto.Length) *device.Request { return s.get(n, true) }

// TryGet implements device.Sink.
func (s *Sink) TryGet(n proto.Length) *device.Request { return s.get(n, false) }

func (s *Sink) get(n proto.Length, wait bool) *device.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n > proto.MaxRequest {
		s.fault("Get(%d) is more than MaxRequest", n)
		return nil
	}
	for len(s.free) == 0 && wait && !s.closed {
		s.room.Wait()
	}
	if s.closed || len(s.free) == 0 {
		return nil
	}
	i := s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	s.state[i] = held
	r := &s.table[i]
	*r = device.Request{Tag: i, Len: n}
	if n > 0 {
		r.Buf = s.bufs[i][:n]
	}
	return r
}

// Put implements device.Sink.
func (s *Sink) Put(r *device.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.state[r.Tag]; st != finished && st != held {
		s.fault("Put of a request in state %d", st)
		return
	}
	s.state[r.Tag] = free
	s.free = append(s.free, r.Tag)
	s.room.Signal()
}

// Submit implements device.Sink.
func (s *Sink) Submit(batch []*device.Request) {
	s.accept(batch)
	if s.opt.Workers > 0 {
		for _, r := range batch {
			s.work <- r // never blocks: it has room for the whole table
		}
		return
	}
	// Requests of one owner that follow each other are answered together.
	for from := 0; from < len(batch); {
		to := from
		for to < len(batch) && batch[to].Owner == batch[from].Owner && !s.later(batch[to]) {
			s.execute(batch[to])
			to++
		}
		s.answer(batch[from:to])
		if to == from {
			to++ // that one was put off
		}
		from = to
	}
}

// later arranges for a request that has a delay to be executed when it is over.
func (s *Sink) later(r *device.Request) bool {
	s.mu.Lock()
	delay := s.delay
	s.mu.Unlock()
	if delay == nil {
		return false
	}
	d := delay(r)
	if d <= 0 {
		return false
	}
	time.AfterFunc(d, func() { s.execute(r); s.answer([]*device.Request{r}) })
	return true
}

func (s *Sink) worker() {
	defer s.workers.Done()
	one := make([]*device.Request, 1)
	for r := range s.work {
		if !s.later(r) {
			s.execute(r)
			one[0] = r
			s.answer(one)
		}
	}
}

func (s *Sink) accept(batch []*device.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(batch) == 0 {
		s.fault("empty batch")
	}
	for _, r := range batch {
		if st := s.state[r.Tag]; st != held {
			s.fault("%s submitted in state %d", r.Op, st)
		}
		s.state[r.Tag] = working
		s.check(r)
		s.count(r)
	}
	s.counts.Batches++
	s.counts.Largest = max(s.counts.Largest, uint64(len(batch)))
	s.under += len(batch)
	s.counts.Most = max(s.counts.Most, s.under)
}

// check holds a request against the contract of package device.
func (s *Sink) check(r *device.Request) {
	if r.Owner == nil {
		s.fault("%s has no owner", r.Op)
	}
	if r.Op == proto.OpFlush {
		if r.Buf != nil {
			s.fault("flush with a buffer")
		}
		return
	}
	if r.Len == 0 || uint64(r.Off)+uint64(r.Len) > uint64(s.info.Size) {
		s.fault("%s %d+%d of a device of %d bytes", r.Op, r.Off, r.Len, s.info.Size)
	}
	if uint64(r.Off)%uint64(s.info.Logical) != 0 || uint32(r.Len)%s.info.Logical != 0 {
		s.fault("%s %d+%d is not aligned to %d", r.Op, r.Off, r.Len, s.info.Logical)
	}
	switch r.Op {
	case proto.OpRead, proto.OpWrite:
		if len(r.Buf) != int(r.Len) || &r.Buf[0] != &s.bufs[r.Tag][0] {
			s.fault("%s of %d bytes with a buffer of %d bytes, or a foreign one", r.Op, r.Len, len(r.Buf))
		}
	case proto.OpZero:
		if r.Buf != nil || r.Len > device.MaxZero {
			s.fault("zero of %d bytes, with a buffer of %d", r.Len, len(r.Buf))
		}
	default:
		s.fault("operation %d", r.Op)
	}
}

func (s *Sink) count(r *device.Request) {
	switch r.Op {
	case proto.OpRead:
		s.counts.Reads++
	case proto.OpWrite:
		s.counts.Writes++
	case proto.OpZero:
		s.counts.Zeroes++
	case proto.OpFlush:
		s.counts.Flushes++
	}
	if r.FUA {
		s.counts.FUAs++
	}
	if r.NoUnmap {
		s.counts.NoUnmaps++
	}
	if s.opt.Record {
		s.records = append(s.records, Record{r.Op, r.FUA, r.NoUnmap, r.Off, r.Len, int(s.counts.Batches)})
	}
}

func (s *Sink) execute(r *device.Request) {
	s.mu.Lock()
	fail := s.fail
	s.mu.Unlock()
	if fail != nil {
		if r.Errno = fail(r); r.Errno != proto.OK {
			return
		}
	}
	r.Errno = proto.OK
	off, end := uint64(r.Off), uint64(r.Off)+uint64(r.Len)
	if r.Op == proto.OpRead {
		s.data.RLock()
		copy(r.Buf, s.memory[off:end])
		s.data.RUnlock()
		return
	}
	s.data.Lock()
	defer s.data.Unlock()
	switch r.Op {
	case proto.OpWrite:
		copy(s.memory[off:end], r.Buf)
	case proto.OpZero:
		clear(s.memory[off:end])
	case proto.OpFlush:
		s.settle()
		return
	}
	if s.stable == nil {
		return
	}
	if r.FUA {
		copy(s.stable[off:end], s.memory[off:end])
		return
	}
	s.loose = append(s.loose, span{off, end})
}

// settle makes everything stable; data is locked.
func (s *Sink) settle() {
	for _, l := range s.loose {
		copy(s.stable[l.off:l.end], s.memory[l.off:l.end])
	}
	s.loose = s.loose[:0]
}

func (s *Sink) answer(batch []*device.Request) {
	if len(batch) == 0 {
		return
	}
	s.mu.Lock()
	for _, r := range batch {
		if s.state[r.Tag] != working {
			s.fault("answered twice")
		}
		s.state[r.Tag] = finished
	}
	s.under -= len(batch)
	s.mu.Unlock()
	batch[0].Owner.Complete(batch)
}

func (s *Sink) fault(format string, args ...any) {
	if len(s.faults) < 20 { // enough to see what is wrong
		s.faults = append(s.faults, fmt.Sprintf(format, args...))
	}
}

// SetFail installs what decides the outcome of each request; nil: all succeed.
func (s *Sink) SetFail(f func(*device.Request) proto.Errno) { s.mu.Lock(); s.fail = f; s.mu.Unlock() }

// SetDelay installs what says how long each request takes; nil: no time.
func (s *Sink) SetDelay(f func(*device.Request) time.Duration) {
	s.mu.Lock()
	s.delay = f
	s.mu.Unlock()
}

// Crash loses what was written since the last flush without FUA, as a disk does at a power failure. Only with Volatile.
func (s *Sink) Crash() {
	s.data.Lock()
	defer s.data.Unlock()
	for _, l := range s.loose {
		copy(s.memory[l.off:l.end], s.stable[l.off:l.end])
	}
	s.loose = s.loose[:0]
}

// Peek copies n bytes at off, past the front-end.
func (s *Sink) Peek(off, n int) []byte {
	s.data.RLock()
	defer s.data.RUnlock()
	return append([]byte(nil), s.memory[off:off+n]...)
}

// Poke changes the data at off, past the front-end.
func (s *Sink) Poke(off int, b []byte) {
	s.data.Lock()
	defer s.data.Unlock()
	copy(s.memory[off:], b)
}

// Counts returns what the sink has seen so far.
func (s *Sink) Counts() Counts { s.mu.Lock(); defer s.mu.Unlock(); return s.counts }

// Records returns what was submitted, in order. Only with Record.
func (s *Sink) Records() []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Record(nil), s.records...)
}

// Outstanding returns how many table entries are not free.
func (s *Sink) Outstanding() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.table) - len(s.free) }

// Close makes every Get return nil, and waits for what was submitted.
func (s *Sink) Close() {
	s.mu.Lock()
	was := s.closed
	s.closed = true
	s.room.Broadcast()
	for !was && s.under > 0 {
		s.mu.Unlock()
		time.Sleep(time.Millisecond)
		s.mu.Lock()
	}
	s.mu.Unlock()
	if !was {
		close(s.work)
		s.workers.Wait()
	}
}

// Unmap frees the memory. Nothing may use the sink or its buffers any more.
func (s *Sink) Unmap() {
	for _, m := range s.maps {
		unix.Munmap(m)
	}
	s.maps = nil
}

// Check reports every breach of the contract that was seen, and entries that were not put back.
func (s *Sink) Check(t testing.TB) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.faults {
		t.Errorf("device contract: %s", f)
	}
	if n := len(s.table) - len(s.free); n != 0 {
		t.Errorf("device contract: %d requests were never put back", n)
	}
}
