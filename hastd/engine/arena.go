package engine

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"

	"hast/proto"
)

// Arena is one region of page-aligned memory outside of the Go heap, from
// which every payload buffer comes: a buddy allocator of blocks of 4 KiB to 1 MiB. It never grows (rule 15), and is touched at
// start, so that the write path never waits for memory that it would have to free first.
type Arena struct {
	mem   []byte
	mu    sync.Mutex
	order []int8  // of the block that begins at this page if it is free; -1 otherwise
	next  []int32 // free lists, doubly linked by page
	prev  []int32
	heads [orders]int32
	free  int // pages
}

const (
	pageShift = 12
	orders    = 9 // 4 KiB ... 1 MiB
)

// NewArena maps and touches size bytes, a multiple of 1 MiB.
func NewArena(size int) (*Arena, error) {
	mem, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("buffer arena of %d bytes: %w", size, err)
	}
	pages := size >> pageShift
	a := &Arena{mem: mem, order: make([]int8, pages), next: make([]int32, pages), prev: make([]int32, pages)}
	for i := range a.heads {
		a.heads[i] = -1
	}
	for p := range a.order {
		a.order[p] = -1
	}
	for p := 0; p < pages; p += 1 << (orders - 1) {
		a.push(int32(p), orders-1)
	}
	a.free = pages
	return a, nil
}

// Close unmaps the region; no buffer may be in use.
func (a *Arena) Close() { unix.Munmap(a.mem) }

func (a *Arena) push(p int32, o int) {
	a.order[p] = int8(o)
	a.prev[p], a.next[p] = -1, a.heads[o]
	if a.heads[o] >= 0 {
		a.prev[a.heads[o]] = p
	}
	a.heads[o] = p
}

func (a *Arena) unlink(p int32) {
	o := a.order[p]
	if a.prev[p] >= 0 {
		a.next[a.prev[p]] = a.next[p]
	} else {
		a.heads[o] = a.next[p]
	}
	if a.next[p] >= 0 {
		a.prev[a.next[p]] = a.prev[p]
	}
	a.order[p] = -1
}

func orderOf(n int) int {
	o := 0
	for s := 1 << pageShift; s < n; s <<= 1 {
		o++
	}
	return o
}

// Get returns a buffer of n bytes, or nil if there is none; 0 < n <= proto.MaxRequest.
func (a *Arena) Get(n int) []byte {
	want := orderOf(n)
	if n <= 0 || want >= orders {
		panic(fmt.Sprintf("engine: a buffer of %d bytes", n))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	o := want
	for o < orders && a.heads[o] < 0 {
		o++
	}
	if o == orders {
		return nil
	}
	p := a.heads[o]
	a.unlink(p)
	for o > want {
		o--
		a.push(p+1<<o, o)
	}
	a.free -= 1 << want
	at := int(p) << pageShift
	return a.mem[at : at+n : at+(1<<want)<<pageShift]
}

// Put gives a buffer back that Get returned, whatever its length is now.
func (a *Arena) Put(b []byte) {
	b = b[:cap(b)]
	at := offset(a.mem, b)
	p, o := int32(at>>pageShift), orderOf(len(b))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.free += 1 << o
	for o < orders-1 {
		buddy := p ^ 1<<o
		if int(buddy) >= len(a.order) || a.order[buddy] != int8(o) {
			break
		}
		a.unlink(buddy)
		p &^= 1 << o
		o++
	}
	a.push(p, o)
}

// Free returns the number of free bytes.
func (a *Arena) Free() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.free << pageShift
}

const _ = uint(1<<(orders-1+pageShift) - int(proto.MaxRequest)) // the largest block holds the largest request
