package lint

import (
	"bytes"
	"go/format"
	"regexp"
	"strings"
	"testing"
)

func TestFormatted(t *testing.T) {
	for _, s := range sources(t) {
		if want, err := format.Source(s.text); err != nil {
			t.Errorf("%s: %v", s.path, err)
		} else if !bytes.Equal(want, s.text) {
			t.Errorf("%s: run gofmt", s.path)
		}
	}
}

func TestPackagesSayWhatTheyAre(t *testing.T) {
	docs, pkgs := map[string]string{}, map[string]bool{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		pkgs[s.pkg] = true
		if strings.HasSuffix(s.path, "/doc.go") && s.file.Doc != nil {
			docs[s.pkg] = s.file.Doc.Text()
		}
		if !strings.HasSuffix(s.path, "/doc.go") && s.file.Doc != nil && s.file.Name.Name != "main" {
			t.Errorf("%s: the package's comment belongs into doc.go", s.path)
		}
		if s.file.Name.Name == "main" && s.file.Doc != nil {
			docs[s.pkg] = s.file.Doc.Text()
		}
	}
	for p := range pkgs {
		if len(docs[p]) < 80 {
			t.Errorf("%s: doc.go has to say what the package does, what it does not, and who may call it", p)
		}
	}
}

// Words are put together here so that this file does not find itself.
var (
	unfinished = regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
	skipped    = regexp.MustCompile(`\bt\.` + `Skip(f|Now)?\(`)
	machine    = regexp.MustCompile(`/wo` + `rk/|(^|\W)/ro` + `ot/|bash` + `_jobs`) // but not what a process has as its root, below /proc
)

func TestNothingUnfinished(t *testing.T) {
	for path, b := range texts(t) {
		for i, line := range bytes.Split(b, []byte("\n")) {
			switch {
			case strings.HasSuffix(path, ".go") && unfinished.Match(line):
				t.Errorf("%s:%d: unfinished: %s", path, i+1, line)
			case strings.HasSuffix(path, "_test.go") && skipped.Match(line):
				t.Errorf("%s:%d: a test that skips itself tests nothing: %s", path, i+1, line)
			case machine.Match(line):
				t.Errorf("%s:%d: a path of one machine: %s", path, i+1, line)
			}
		}
	}
}

// TestDependenciesAreExplained holds go.mod against docs/design/dependencies.md.
func TestDependenciesAreExplained(t *testing.T) {
	all := texts(t)
	doc := string(all["docs/design/dependencies.md"])
	required := regexp.MustCompile(`(?m)^\s*(?:require\s+)?([a-z0-9.]+\.[a-z]+/\S+)\s+v\S+`)
	found := required.FindAllSubmatch(all["go.mod"], -1)
	for _, m := range found {
		if !strings.Contains(doc, "`"+string(m[1])+"`") {
			t.Errorf("docs/design/dependencies.md does not say why %s is needed", m[1])
		}
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(doc, -1) {
		if !bytes.Contains(all["go.mod"], []byte(m[1]+" ")) {
			t.Errorf("docs/design/dependencies.md explains %s, which go.mod does not require", m[1])
		}
	}
	if len(found) == 0 {
		t.Error("no dependency found in go.mod: the test looks for the wrong thing")
	}
}
