package mutation

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
)

var (
	all  = flag.Bool("all", false, "try the whole list, not the fast sample")
	only = flag.String("only", "", "try the mutations whose name contains this")
	onto = flag.String("overlay", "", "an overlay file to build upon, for work on a repair that is not in the tree")
)

// TestMutations: each breakage is caught by a checker that is named for it.
func TestMutations(t *testing.T) {
	top, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	slots := make(chan struct{}, 2) // builds use both cores
	for _, m := range list {
		if *only != "" && !strings.Contains(m.name, *only) || *only == "" && !*all && !m.fast {
			continue
		}
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			slots <- struct{}{}
			defer func() { <-slots }()
			try(t, top, m)
		})
	}
}

// TestListMatchesTree: every mutation's text is in its file, exactly once.
func TestListMatchesTree(t *testing.T) {
	for _, m := range list {
		if _, err := mutate(filepath.Join("../../..", m.file), m); err != nil {
			t.Error(err)
		}
	}
}

func mutate(path string, m mutation) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if n := strings.Count(string(b), m.old); n != 1 {
		return nil, fmt.Errorf("mutation %q: its text occurs %d times in %s: the code has changed, so must the list", m.name, n, m.file)
	}
	return []byte(strings.Replace(string(b), m.old, m.new, 1)), nil
}

var caught = regexp.MustCompile(`seed (\d+): checker (\S+) at`)

// base is the unbroken simulator, built once: a seed that fails there too proves nothing.
var base struct {
	sync.Once
	bin string
	err error
}

func unbroken(t *testing.T, top string) string {
	base.Do(func() {
		dir, err := os.MkdirTemp("", "sim")
		if base.err = err; err == nil {
			base.bin = filepath.Join(dir, "sim.test")
			base.err = build(top, base.bin, overlaid(t))
		}
	})
	if base.err != nil {
		t.Fatal(base.err)
	}
	return base.bin
}

// TestMain removes what unbroken left.
func TestMain(m *testing.M) {
	code := m.Run()
	if base.bin != "" {
		os.RemoveAll(filepath.Dir(base.bin))
	}
	os.Exit(code)
}

// overlaid returns the replacements that the caller of the tests asked for.
func overlaid(t *testing.T) map[string]string {
	var o struct{ Replace map[string]string }
	if *onto == "" {
		return map[string]string{}
	}
	b, err := os.ReadFile(*onto)
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	if err != nil {
		t.Fatal(err)
	}
	return o.Replace
}

// build makes the simulator's test binary with some files replaced.
func build(top, bin string, replace map[string]string) error {
	text, err := json.Marshal(map[string]any{"Replace": replace})
	list := bin + ".json"
	if err == nil {
		err = os.WriteFile(list, text, 0o600)
	}
	if err != nil {
		return err
	}
	c := exec.Command("go", "test", "-c", "-vet=off", "-overlay", list, "-o", bin, "./test/sim")
	c.Dir = top
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("does not build: %w\n%s", err, out)
	}
	return nil
}

// play runs seeds and returns the checker and the seed of the first violation that counts.
func play(top, bin, first string, seeds int, checkers string) (checker, seed string, out []byte) {
	c := exec.Command(bin, "-test.run", "TestSeeds$", "-sim.start="+first, fmt.Sprint("-sim.seeds=", seeds), "-sim.until="+checkers)
	c.Dir = filepath.Join(top, "test/sim")
	out, _ = c.CombinedOutput()
	if hit := caught.FindSubmatch(out); hit != nil {
		return string(hit[2]), string(hit[1]), out
	}
	return "", "", out
}

func try(t *testing.T, top string, m mutation) {
	sound := unbroken(t, top)
	replace := overlaid(t)
	path := filepath.Join(top, m.file)
	from := path
	if r := replace[path]; r != "" {
		from = r
	}
	text, err := mutate(from, m)
	dir := t.TempDir()
	broken := filepath.Join(dir, filepath.Base(m.file))
	if err == nil {
		err = os.WriteFile(broken, text, 0o600)
	}
	replace[path] = broken
	bin := filepath.Join(dir, "sim.test")
	if err == nil {
		err = build(top, bin, replace)
	}
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	for first := 1; first <= m.seeds; {
		checker, seed, text := play(top, bin, fmt.Sprint(first), m.seeds-first+1, m.checkers)
		if out = text; checker == "" {
			break
		}
		if c, _, _ := play(top, sound, seed, 1, m.checkers); c == "" {
			t.Logf("caught by %s at seed %s", checker, seed)
			return
		}
		t.Logf("seed %s fails without the breakage as well: it proves nothing", seed)
		if first, err = strconv.Atoi(seed); err != nil {
			t.Fatal(err)
		}
		first++
	}
	t.Errorf("survives %d seeds; %s should have caught it\n%.2000s", m.seeds, m.checkers, out)
}
