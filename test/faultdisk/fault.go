package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"hast/hastd/device"
	"hast/proto"
)

// fault is what shall happen to some requests.
type fault struct {
	act   string // fail, delay, hang
	op    string // read, write, flush, any
	from  uint64
	end   uint64
	times int // how often it still happens; below 0: always
	wait  time.Duration
	lose  bool
}

// counts is the answer to stat.
type counts struct {
	Reads   int `json:"reads"`
	Writes  int `json:"writes"`
	Flushes int `json:"flushes"`
	Failed  int `json:"failed"`
	Delayed int `json:"delayed"`
	Hanging int `json:"hanging"`
}

// faults is all of them, in the order in which they were asked for.
type faults struct {
	mu      sync.Mutex
	list    []*fault
	counts  counts
	release chan struct{} // closed by clear
}

func parse(words []string) (*fault, error) {
	if len(words) < 2 || !slices.Contains([]string{"fail", "delay", "hang"}, words[0]) || !slices.Contains([]string{"read", "write", "flush", "any"}, words[1]) {
		return nil, fmt.Errorf("no such command: %s", strings.Join(words, " "))
	}
	f := &fault{act: words[0], op: words[1], end: math.MaxUint64, times: -1}
	var n uint64
	for _, w := range words[2:] {
		key, value, _ := strings.Cut(w, "=")
		v, err := strconv.ParseUint(value, 10, 62)
		switch {
		case key == "lose" && value == "yes" && f.op == "flush" && f.act == "fail":
			f.lose = true
		case err != nil:
			return nil, fmt.Errorf("no such option: %s", w)
		case key == "from":
			f.from = v
		case key == "len":
			n = v
		case key == "times":
			f.times = int(v)
		case key == "ms":
			f.wait = time.Duration(v) * time.Millisecond
		default:
			return nil, fmt.Errorf("no such option: %s", w)
		}
	}
	if n > 0 {
		f.end = f.from + n
	}
	return f, nil
}

func (f *faults) add(x *fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = append(f.list, x)
}

func (f *faults) clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.list = nil
	close(f.release)
	f.release = make(chan struct{})
}

func (f *faults) stat() counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts
}

// kind is the word of a command for an operation.
func (f *faults) kind(op proto.Op) string {
	switch op {
	case proto.OpRead:
		f.counts.Reads++
		return "read"
	case proto.OpFlush:
		f.counts.Flushes++
		return "flush"
	}
	f.counts.Writes++
	return "write"
}

// meet has the request suffer what is in store for it, and returns its error. A hang that is released goes on as if nothing had been.
func (f *faults) meet(r *device.Request) (e proto.Errno, lose bool) {
	f.mu.Lock()
	op := f.kind(r.Op)
	var wait time.Duration
	var release chan struct{}
	for _, x := range f.list {
		off, end := uint64(r.Off), uint64(r.Off)+uint64(r.Len)
		hit := (x.op == op || x.op == "any") && x.times != 0 && (op == "flush" || off < x.end && end > x.from)
		if !hit {
			continue
		}
		x.times--
		switch x.act {
		case "fail":
			e, lose = proto.EIO, lose || x.lose
		case "delay":
			wait += x.wait
		case "hang":
			release = f.release
		}
	}
	if e != proto.OK {
		f.counts.Failed++
	}
	if wait > 0 {
		f.counts.Delayed++
	}
	if release != nil {
		f.counts.Hanging++
	}
	f.mu.Unlock()
	time.Sleep(wait)
	if release != nil {
		<-release
		f.mu.Lock()
		f.counts.Hanging--
		f.mu.Unlock()
	}
	return e, lose
}
