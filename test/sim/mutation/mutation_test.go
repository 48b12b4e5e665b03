package mutation

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
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

func try(t *testing.T, top string, m mutation) {
	dir := t.TempDir()
	replace := map[string]string{}
	if *onto != "" {
		var base struct{ Replace map[string]string }
		b, err := os.ReadFile(*onto)
		if err == nil {
			err = json.Unmarshal(b, &base)
		}
		if err != nil {
			t.Fatal(err)
		}
		replace = base.Replace
	}
	path := filepath.Join(top, m.file)
	from := path
	if r := replace[path]; r != "" {
		from = r
	}
	text, err := mutate(from, m)
	if err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, filepath.Base(m.file))
	replace[path] = broken
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err == nil {
		err = os.WriteFile(broken, text, 0o600)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "sim.test")
	build := exec.Command("go", "test", "-c", "-vet=off", "-overlay", filepath.Join(dir, "overlay.json"), "-o", bin, "./test/sim")
	build.Dir = top
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("does not build: %v\n%s", err, out)
	}
	run := exec.Command(bin, "-test.run", "TestSeeds$", "-sim.start=1", fmt.Sprint("-sim.seeds=", m.seeds), "-sim.until="+m.checkers)
	run.Dir = filepath.Join(top, "test/sim")
	out, err := run.CombinedOutput()
	if hit := caught.FindSubmatch(out); hit != nil {
		t.Logf("caught by %s at seed %s", hit[2], hit[1])
		return
	}
	if err != nil && strings.Contains(string(out), "panic: replica:") {
		t.Log("caught by the machine's own panic")
		return
	}
	t.Errorf("survives %d seeds; %s should have caught it\n%.2000s", m.seeds, m.checkers, out)
}
