package aio

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const fileSize = 8 << 20

// file is written from end to end, on a real file system: direct I/O is not possible on tmpfs.
func file(t testing.TB) *os.File {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "hast-aio-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "disk")
	if err := os.WriteFile(path, bytes.Repeat([]byte{0x55}, fileSize), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	if err := unix.Fdatasync(fd); err != nil {
		t.Fatal(err)
	}
	// Cached pages would have to be dropped by each write, which waits.
	if err := unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func memory(t testing.TB, n int) []byte {
	t.Helper()
	b, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Munmap(b) })
	return b
}

// queue is a Context with its Run.
type queue struct {
	*Context
	mu    sync.Mutex
	cond  *sync.Cond
	got   map[uint64]int64
	ended chan struct{}
}

func start(t testing.TB, f *os.File, depth int, mapped bool) *queue {
	t.Helper()
	c, err := New(int(f.Fd()), depth)
	if err != nil {
		t.Fatal(err)
	}
	c.mapped = c.mapped && mapped
	q := &queue{Context: c, got: map[uint64]int64{}, ended: make(chan struct{})}
	q.cond = sync.NewCond(&q.mu)
	go func() {
		defer close(q.ended)
		c.Run(func(list []Event) {
			q.mu.Lock()
			for _, e := range list {
				q.put(e.Data, e.Res)
			}
			q.mu.Unlock()
			q.cond.Broadcast()
		})
	}()
	return q
}

func (q *queue) put(data uint64, res int64) {
	if _, ok := q.got[data]; ok {
		panic("an event came twice")
	}
	q.got[data] = res
}

// submit notes what the kernel did not accept like any other outcome.
func (q *queue) submit(b *Batch) {
	q.Submit(b, func(data uint64, why unix.Errno) {
		q.mu.Lock()
		q.put(data, -int64(why))
		q.mu.Unlock()
	})
	b.Reset()
}

// wait returns the outcome of data.
func (q *queue) wait(t testing.TB, data uint64) int64 {
	t.Helper()
	late := time.AfterFunc(10*time.Second, func() { panic("an event was lost") })
	defer late.Stop()
	q.mu.Lock()
	defer q.mu.Unlock()
	for {
		if r, ok := q.got[data]; ok {
			delete(q.got, data)
			return r
		}
		q.cond.Wait()
	}
}

func (q *queue) close(t testing.TB) {
	t.Helper()
	q.Close()
	select {
	case <-q.ended:
	case <-time.After(10 * time.Second):
		t.Fatal("Run does not return")
	}
	q.Close() // harmless
	if n := q.inflight.Load(); n != 0 {
		t.Errorf("%d requests are counted after the end", n)
	}
}

func TestLayout(t *testing.T) {
	if n := unsafe.Sizeof(iocb{}); n != 64 {
		t.Errorf("struct iocb has 64 bytes, not %d", n)
	}
	if n := unsafe.Sizeof(Event{}); n != 32 {
		t.Errorf("struct io_event has 32 bytes, not %d", n)
	}
	if n := unsafe.Sizeof(ring{}); n != ringHeader {
		t.Errorf("struct aio_ring has %d bytes, not %d", ringHeader, n)
	}
	if n := unsafe.Offsetof(iocb{}.resFD); n != 60 {
		t.Errorf("aio_resfd is at 60, not %d", n)
	}
}

func TestWritesAndReads(t *testing.T) {
	for _, mapped := range []bool{true, false} {
		f, mem := file(t), memory(t, 1<<20)
		q := start(t, f, 64, mapped)
		if mapped && !q.mapped {
			t.Error("the ring of this kernel is not known")
		}
		var b Batch
		const n = 16
		for i := range n {
			buf := mem[i*16384:][:16384]
			for j := range buf {
				buf[j] = byte(i + 1)
			}
			b.Write(buf, int64(i)*65536, i%2 == 0, uint64(i))
		}
		q.submit(&b)
		declined := 0
		for i := range uint64(n) {
			switch r := q.wait(t, i); r {
			case 16384:
			case -int64(unix.EAGAIN): // the file's time changes with this write, for which the kernel would have to wait
				declined++
				if _, err := unix.Pwrite(int(f.Fd()), mem[i*16384:][:16384], int64(i)*65536); err != nil {
					t.Fatal(err)
				}
			default:
				t.Fatalf("mapped %v: write %d: %d", mapped, i, r)
			}
		}
		if declined > n/2 {
			t.Errorf("mapped %v: %d of %d writes were declined", mapped, declined, n)
		}
		clear(mem)
		for i := range n {
			b.Read(mem[i*16384:][:16384], int64(i)*65536, uint64(i))
		}
		q.submit(&b)
		for i := range uint64(n) {
			if r := q.wait(t, i); r != 16384 {
				t.Fatalf("mapped %v: read %d: %d", mapped, i, r)
			}
			if got := mem[i*16384:][:16384]; !bytes.Equal(got, bytes.Repeat([]byte{byte(i + 1)}, 16384)) {
				t.Fatalf("mapped %v: read %d brought something else", mapped, i)
			}
		}
		q.close(t)
	}
}

// TestWhatIsNotDone: everything that a caller has to do in another way comes back, once, and harms nothing else in its batch.
func TestWhatIsNotDone(t *testing.T) {
	f, mem := file(t), memory(t, 1<<20)
	q := start(t, f, 64, true)
	var b Batch
	b.Read(mem[:4096], 0, 1)
	b.Read(mem[8192+1:][:4096], 0, 2)            // not aligned
	b.Read(mem[16384:][:8192], fileSize-4096, 3) // beyond the end
	b.list = append(b.list, b.list[0])
	b.list[3].rwFlags, b.list[3].data = 1<<30, 4 // no such flag: not accepted
	b.Read(mem[32768:][:4096], 4096, 5)
	q.submit(&b)
	for data, want := range map[uint64]int64{1: 4096, 2: -int64(unix.EINVAL), 3: 4096, 4: -int64(unix.EOPNOTSUPP), 5: 4096} {
		if got := q.wait(t, data); got != want {
			t.Errorf("request %d: %d, want %d", data, got, want)
		}
	}
	q.close(t)
	b.Read(mem[:4096], 0, 6)
	q.submit(&b)
	if got := q.wait(t, 6); got != -int64(unix.EAGAIN) {
		t.Errorf("a request after the end: %d", got)
	}
}

func TestQueueIsBounded(t *testing.T) {
	f, mem := file(t), memory(t, 1<<20)
	q := start(t, f, 4, true)
	var b Batch
	const n = 256
	for i := range n {
		b.Read(mem[i*4096:][:4096], int64(i)*4096, uint64(i))
	}
	q.submit(&b)
	accepted := 0
	for i := range uint64(n) {
		switch got := q.wait(t, i); got {
		case 4096:
			accepted++
		case -int64(unix.EAGAIN):
		default:
			t.Errorf("request %d: %d", i, got)
		}
	}
	if accepted == 0 || accepted == n {
		t.Errorf("a queue of 4 took %d of %d at once", accepted, n)
	}
	q.close(t)
}

// TestNoWakeUpIsLost runs many submitters at all small depths, where Run goes to sleep after nearly each event.
func TestNoWakeUpIsLost(t *testing.T) {
	f, mem := file(t), memory(t, 1<<20)
	for _, workers := range []int{1, 2, 3, 8} {
		q := start(t, f, 64, true)
		var wg sync.WaitGroup
		for w := range workers {
			wg.Go(func() {
				var b Batch
				for i := range 2000 / workers {
					id := uint64(w)<<32 | uint64(i)
					b.Write(mem[w*8192:][:4096], int64(w)<<18, false, id)
					q.submit(&b)
					if r := q.wait(t, id); r != 4096 && r != -int64(unix.EAGAIN) {
						t.Errorf("write: %d", r)
						return
					}
				}
			})
		}
		wg.Wait()
		q.close(t)
	}
}

func TestCloseWaitsForAll(t *testing.T) {
	f, mem := file(t), memory(t, 8<<20)
	for range 20 {
		q := start(t, f, 64, true)
		var b Batch
		for i := range 8 {
			b.Write(mem[i<<20:][:1<<20], int64(i)<<20, true, uint64(i))
		}
		q.submit(&b)
		q.close(t)
		for i := range uint64(8) {
			q.mu.Lock()
			_, ok := q.got[i]
			q.mu.Unlock()
			if !ok {
				t.Fatalf("write %d was under way when Run returned", i)
			}
		}
	}
}

func TestOnlyDirect(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "buffered"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := New(int(f.Fd()), 8); err == nil {
		t.Error("a buffered file is accepted: io_submit would wait for the disk")
	}
}

func BenchmarkDepth16(b *testing.B) {
	f, mem := file(b), memory(b, 1<<20)
	c, err := New(int(f.Fd()), 64)
	if err != nil {
		b.Fatal(err)
	}
	free := make(chan uint64, 16)
	var other atomic.Int64
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Run(func(list []Event) {
			for _, e := range list {
				if e.Res != 4096 {
					other.Add(1)
				}
				free <- e.Data
			}
		})
	}()
	for i := range uint64(16) {
		free <- i
	}
	var batch Batch
	refused := func(data uint64, _ unix.Errno) { free <- data }
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		t := <-free
		batch.Write(mem[t*4096:][:4096], int64(i*7919%2048)*4096, false, t)
		if len(free) == 0 || batch.Len() == 8 {
			c.Submit(&batch, refused)
			batch.Reset()
		}
	}
	c.Submit(&batch, refused)
	c.Close()
	<-ended
	b.ReportMetric(float64(other.Load())/float64(b.N), "refused/op")
}
