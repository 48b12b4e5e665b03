package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"hast/test/lab"
)

// ledger is what its writers were told of each block of a region.
type ledger struct {
	t      *testing.T
	acked  []atomic.Uint64 // the seed of the last write that was acknowledged
	sent   []atomic.Uint64 // of the last one that was begun
	seed   atomic.Uint64
	stop   atomic.Bool
	wg     sync.WaitGroup
	failed atomic.Pointer[error]
}

const ledgerBlocks, ledgerWriters, ledgerBlock = 2048, 4, 4096

func newLedger(t *testing.T) *ledger {
	l := &ledger{t: t, acked: make([]atomic.Uint64, ledgerBlocks), sent: make([]atomic.Uint64, ledgerBlocks)}
	t.Cleanup(func() { l.halt() })
	return l
}

// run lets writers at the node's device until halt, or an error; each has blocks of its own.
func (l *ledger) run(n *lab.Node) {
	l.t.Helper()
	l.stop.Store(false)
	l.failed.Store(nil)
	for w := range ledgerWriters {
		a := open(l.t, n)
		l.wg.Go(func() {
			defer a.f.Close()
			for !l.stop.Load() {
				b := rand.IntN(ledgerBlocks/ledgerWriters)*ledgerWriters + w
				s := l.seed.Add(1)
				l.sent[b].Store(s)
				if err := a.write(int64(b)*ledgerBlock, ledgerBlock, s); err != nil {
					l.failed.CompareAndSwap(nil, &err)
					return
				}
				l.acked[b].Store(s)
			}
		})
	}
}

// halt ends the writers and returns their first error.
func (l *ledger) halt() error {
	l.stop.Store(true)
	l.wg.Wait()
	if p := l.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// check reads every block: it is what was acknowledged last, or what was under way when its writer ended.
func (l *ledger) check(n *lab.Node) {
	l.t.Helper()
	a := open(l.t, n)
	defer a.f.Close()
	for b := range ledgerBlocks {
		off := int64(b) * ledgerBlock
		if _, err := a.f.ReadAt(a.buf[:ledgerBlock], off); err != nil {
			l.t.Fatalf("read of block %d: %v", b, err)
		}
		acked, sent := l.acked[b].Load(), l.sent[b].Load()
		switch {
		case acked != 0 && bytes.Equal(a.buf[:ledgerBlock], pattern(off, ledgerBlock, acked)):
			l.sent[b].Store(acked) // what was under way is gone
		case sent != 0 && bytes.Equal(a.buf[:ledgerBlock], pattern(off, ledgerBlock, sent)):
			l.acked[b].Store(sent)
		case acked == 0 && bytes.Equal(a.buf[:ledgerBlock], make([]byte, ledgerBlock)): // as it was made
			l.sent[b].Store(0)
		default:
			l.t.Fatalf("block %d is neither what was acknowledged (writing %d) nor what was under way (%d)", b, acked, sent)
		}
	}
}

// TestSwapsAndKills writes all the time, on whichever node is primary, while roles are swapped and processes die in a random order. No
// acknowledged write is lost; the death of a worker, or of the other node, is no error for the writers. fio writes a region of its own with
// checksums, and reads it on the other node.
func TestSwapsAndKills(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	l := newLab(t, lab.Options{Resource: `timeout = "3s"`})
	up(t, l)
	led := newLedger(t)
	pri, sec := l.A, l.B
	fio := func(more ...string) {
		t.Helper()
		run(t, pri, "fio", append([]string{"--name=v", "--filename=/dev/hast/data", "--rw=randwrite", "--bs=4k", "--offset=32m", "--size=8m", "--direct=1",
			"--ioengine=libaio", "--iodepth=8", "--verify=crc32c", "--randseed=7", "--end_fsync=1"}, more...)...)
	}
	synced := func() {
		t.Helper()
		until(t, 30*time.Second, "in sync", is(pri, func(r resource) bool { return r.State == "connected" && r.PeerData == "uptodate" }))
	}
	back := func(n *lab.Node) {
		t.Helper()
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
		run(t, n, "hastctl", "role", "secondary", "data")
		synced()
	}
	actions := []struct {
		name string
		do   func()
	}{
		{"a planned swap", func() {
			if err := led.halt(); err != nil {
				t.Fatal(err)
			}
			fio("--do_verify=0")
			run(t, pri, "hastctl", "role", "secondary", "data")
			run(t, sec, "hastctl", "role", "primary", "data")
			pri, sec = sec, pri
			device(t, pri)
			fio("--verify_only")
		}},
		{"the primary dies", func() {
			pri.Die()
			led.halt() // its device has gone, so there is an error
			pri, sec = sec, pri
			promote(t, pri)
			led.check(pri)
			led.run(pri)
			back(sec)
			if err := led.halt(); err != nil {
				t.Fatal(err)
			}
		}},
		{"the secondary dies", func() {
			sec.Die()
			time.Sleep(300 * time.Millisecond)
			back(sec)
			if err := led.halt(); err != nil {
				t.Fatal(err)
			}
		}},
		{"the primary's worker dies", func() {
			for _, p := range pri.Titles("hastd: data (primary)") {
				syscall.Kill(p, syscall.SIGKILL)
			}
			time.Sleep(time.Second)
			synced()
			if err := led.halt(); err != nil {
				t.Fatal(err)
			}
		}},
		{"both die", func() {
			pri.Die()
			sec.Die()
			led.halt()
			for _, n := range []*lab.Node{sec, pri} {
				if err := n.Start(); err != nil {
					t.Fatal(err)
				}
			}
			run(t, sec, "hastctl", "role", "secondary", "data")
			run(t, pri, "hastctl", "role", "primary", "data")
			device(t, pri)
			synced()
		}},
	}
	order := rnd.Perm(len(actions))
	for range 3 {
		order = append(order, rnd.IntN(len(actions)))
	}
	for i, k := range order {
		led.run(pri)
		time.Sleep(time.Duration(100+rnd.IntN(400)) * time.Millisecond)
		began := time.Now()
		actions[k].do()
		led.check(pri)
		t.Logf("%d: %s: %v, %d writes so far", i, actions[k].name, time.Since(began).Round(time.Millisecond), led.seed.Load())
	}
	fio("--do_verify=0")
	fio("--verify_only")
	if n := led.seed.Load(); n < 1000 {
		t.Error(fmt.Errorf("only %d writes", n))
	}
	sameDisks(t, l)
}
