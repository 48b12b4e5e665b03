package lint

import (
	"go/ast"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const conformance = "docs/design/0004-conformance.md"

// TestConformanceIsProven holds the table of docs/design/0004 against the tree: every item once, in order, with the tests that
// prove it, which exist.
func TestConformanceIsProven(t *testing.T) {
	tests := map[string]bool{}
	for _, s := range sources(t) {
		if !s.test {
			continue
		}
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && (strings.HasPrefix(f.Name.Name, "Test") || strings.HasPrefix(f.Name.Name, "Fuzz")) {
				tests[s.path+":"+f.Name.Name] = true
			}
		}
	}
	row := regexp.MustCompile(`^\| (\d+) \| (U|F|U F) \| .+ \| .+ \| (.+) \|$`)
	named := regexp.MustCompile("`([^`]+)`")
	item := 0
	for line := range strings.Lines(string(texts(t)[conformance])) {
		line = strings.TrimSpace(line)
		m := row.FindStringSubmatch(line)
		if m == nil {
			if strings.HasPrefix(line, "|") && !strings.HasPrefix(line, "| | |") && !strings.HasPrefix(line, "|---") {
				t.Errorf("%s: not a row of the table: %s", conformance, line)
			}
			continue
		}
		item++
		if m[1] != strconv.Itoa(item) {
			t.Errorf("%s: item %s where %d belongs", conformance, m[1], item)
		}
		proofs := named.FindAllStringSubmatch(m[3], -1)
		if len(proofs) == 0 {
			t.Errorf("%s: item %s: no test is named", conformance, m[1])
		}
		for _, p := range proofs {
			if !tests[p[1]] {
				t.Errorf("%s: item %s: there is no %s", conformance, m[1], p[1])
			}
		}
	}
	if item != 71 {
		t.Errorf("%s: %d items, of 71", conformance, item)
	}
}
