package sim

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	seeds = flag.Int("sim.seeds", int(env("SIM_SEEDS")), "how many seeds TestSeeds plays; 0: as many as fit into sim.time. Default: SIM_SEEDS")
	start = flag.Uint64("sim.start", env("SIM_START"), "first seed; 0: from the clock. Default: SIM_START")
	limit = flag.Duration("sim.time", 10*time.Second, "how long TestSeeds goes on when sim.seeds is 0")
	until = flag.String("sim.until", "", "pass over violations of other checkers than these (comma-separated); for the list of mutations")
	keep  = flag.Bool("sim.keep", false, "go on after a violation, and tell each in one line")
	one   = flag.Uint64("sim.seed", 0, "the seed that TestReplay plays")
)

// env reads a number that make hands in.
func env(name string) uint64 {
	n, _ := strconv.ParseUint(os.Getenv(name), 10, 64)
	return n
}

// TestSeeds plays fresh seeds. A failing seed prints the end of its transcript and the command that plays it again.
func TestSeeds(t *testing.T) {
	first := *start
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	var next, played, acked, steps atomic.Uint64
	var mu sync.Mutex
	var bad []Result
	stop := time.Now().Add(*limit)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				i := next.Add(1) - 1
				if *seeds > 0 && i >= uint64(*seeds) || *seeds == 0 && time.Now().After(stop) {
					return
				}
				r := Run(first+i, Draw(first+i), false)
				played.Add(1)
				acked.Add(uint64(r.Acked))
				steps.Add(uint64(r.Steps))
				if v := r.Violation; v != nil && (*until == "" || strings.Contains(","+*until+",", ","+v.Checker+",")) {
					mu.Lock()
					bad = append(bad, r)
					mu.Unlock()
					if !*keep {
						return
					}
				}
				mu.Lock()
				n := len(bad)
				mu.Unlock()
				if n > 0 && !*keep {
					return
				}
			}
		}()
	}
	wg.Wait()
	t.Logf("seeds %d to %d: %d played, %d requests answered, %d steps", first, first+next.Load()-1, played.Load(), acked.Load(), steps.Load())
	for _, r := range bad {
		if *keep {
			t.Errorf("seed %d: checker %s at %.6f s: %.240s", r.Seed, r.Violation.Checker, float64(r.Violation.At)/float64(sec), r.Violation.Text)
			continue
		}
		show(t, r)
	}
}

// TestRange plays the same seeds each time, so that what one change breaks shows beside what fresh seeds find.
func TestRange(t *testing.T) {
	const last = 1000
	var wg sync.WaitGroup
	var next atomic.Uint64
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for s := next.Add(1); s <= last && !t.Failed(); s = next.Add(1) {
				if r := Run(s, Draw(s), false); r.Violation != nil {
					show(t, r)
				}
			}
		})
	}
	wg.Wait()
}

func show(t *testing.T, r Result) {
	t.Helper()
	full := Run(r.Seed, r.Options, true)
	tail := full.Trace
	if len(tail) > 200 {
		tail = tail[len(tail)-200:]
	}
	fmt.Println(strings.Join(tail, "\n"))
	t.Errorf("seed %d: checker %s at %.6f s: %s\noptions %+v\nplay it again: go test ./test/sim -run 'TestReplay$' -v -sim.seed=%d",
		r.Seed, r.Violation.Checker, float64(r.Violation.At)/float64(sec), r.Violation.Text, r.Options, r.Seed)
}

// TestReplay prints the whole transcript of one seed: a line for each event and effect, a column for each node.
func TestReplay(t *testing.T) {
	s := *one
	if s == 0 {
		s = 1 // without a seed given: that a run can be told at all
	}
	r := Run(s, Draw(s), true)
	if len(r.Trace) == 0 {
		t.Error("no transcript")
	}
	if *one != 0 {
		for _, l := range r.Trace {
			fmt.Println(l)
		}
		if r.Violation != nil {
			t.Errorf("seed %d: checker %s: %s", s, r.Violation.Checker, r.Violation.Text)
		}
	}
}

// TestSameSeedSameRun: a seed is a run.
func TestSameSeedSameRun(t *testing.T) {
	for s := uint64(1); s < 6; s++ {
		a, b := Run(s, Draw(s), true), Run(s, Draw(s), true)
		if len(a.Trace) != len(b.Trace) {
			t.Fatalf("seed %d: %d and %d lines", s, len(a.Trace), len(b.Trace))
		}
		for i := range a.Trace {
			if a.Trace[i] != b.Trace[i] {
				t.Fatalf("seed %d, line %d:\n%s\n%s", s, i, a.Trace[i], b.Trace[i])
			}
		}
	}
}

// TestRegressions plays the seeds that once found something.
func TestRegressions(t *testing.T) {
	b, err := os.ReadFile("testdata/regressions.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(b), "\n") {
		var s uint64
		if _, err := fmt.Sscan(line, &s); err != nil {
			continue // a comment
		}
		if r := Run(s, Draw(s), false); r.Violation != nil {
			t.Errorf("regression %s: checker %s: %s", line, r.Violation.Checker, r.Violation.Text)
		}
	}
}

// BenchmarkRun measures seeds per second.
func BenchmarkRun(b *testing.B) {
	s := uint64(0)
	for b.Loop() {
		s++
		Run(s, Draw(s), false)
	}
}
