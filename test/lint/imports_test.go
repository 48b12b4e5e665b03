package lint

import (
	"go/ast"
	"strings"
	"testing"
)

// house is the table of the architecture: what a package may import of this module. The
// longest prefix that names a package, or a directory above it, counts; "x/..." allows x and everything below it.
var house = map[string][]string{
	"proto":      {},
	"proto/wire": {"proto"},
	"proto/ctl":  {"proto"},

	"extent":    {"proto"},
	"heartbeat": {"proto"},

	"hastd/role":    {"proto", "extent"},
	"hastd/replica": {"proto", "proto/wire", "extent", "hastd/role"},
	"hastd/store":   {"proto", "extent"},
	"hastd/sock":    {},
	"hastd/peer":    {"proto", "proto/wire", "hastd/sock"},
	"hastd/device":  {"proto", "hastd/sock", "hastd/device/...", "hastd/hold/..."},
	"hastd/hold":    {"proto", "hastd/hold/..."},
	"hastd/config":  {"proto", "extent"},
	"hastd/control": {"proto", "proto/ctl"},
	"hastd/engine":  {"proto/...", "extent", "hastd/role", "hastd/replica", "hastd/store/...", "hastd/peer", "hastd/device/..."},
	"hastd/worker":  {"proto/...", "extent", "hastd/engine", "hastd/replica", "hastd/store", "hastd/peer/...", "hastd/device/...", "hastd/hold/...", "hastd/worker/..."},
	"hastd/sandbox": {"proto"},
	"hooks":         {"proto/...", "hooks/..."},

	// The root assembles.
	"hastd": {"proto/...", "extent", "hastd/...", "heartbeat/...", "hooks/..."},

	"cmd/hastd":   {"proto/...", "hastd/...", "extent"},
	"cmd/hastctl": {"proto/...", "extent", "hastd/config", "hastd/store"},

	"test": {"proto/...", "extent", "hastd/...", "heartbeat/...", "hooks/...", "test/..."},
}

// rulesFor returns the line of house for a package: the longest that fits.
func rulesFor(pkg string) (string, []string, bool) {
	for p := pkg; ; {
		if r, ok := house[p]; ok {
			return p, r, true
		}
		i := strings.LastIndexByte(p, '/')
		if i < 0 {
			return "", nil, false
		}
		p = p[:i]
	}
}

func allowed(rules []string, pkg string) bool {
	for _, r := range rules {
		if dir, ok := strings.CutSuffix(r, "/..."); ok {
			if pkg == dir || strings.HasPrefix(pkg, dir+"/") {
				return true
			}
		} else if pkg == r {
			return true
		}
	}
	return false
}

func TestWhoImportsWhom(t *testing.T) {
	for _, s := range sources(t) {
		key, rules, ok := rulesFor(s.pkg)
		if !ok {
			t.Errorf("%s: package %s has no line in the table of the house (imports_test.go)", s.path, s.pkg)
			continue
		}
		if s.test && key != "test" {
			rules = append(rules[:len(rules):len(rules)], s.pkg, key+"/...", "test/...") // own package and its test helpers
		}
		own, _ := imports(&s)
		for _, p := range own {
			if !allowed(rules, p) && !strings.HasPrefix(p, s.pkg+"/") {
				t.Errorf("%s: %s must not import %s", s.path, key, p)
			}
		}
	}
}

// pure packages decide; they see no clock, no disk, no net and no chance.
var pure = []string{"proto", "proto/wire", "extent", "hastd/role", "hastd/replica", "heartbeat"}

// impure are the packages of the standard library that a pure package may not
// import, with everything below them. Of package time only formatting is allowed (clockless).
var impure = []string{"os", "net", "sync", "syscall", "math/rand", "crypto/rand", "runtime", "context", "log", "io/ioutil", "path/filepath", "plugin", "golang.org/x/sys", "golang.org/x/sync"}

// clockless are the names of package time that read no clock and start nothing.
var clockless = map[string]bool{"Unix": true, "UTC": true, "RFC3339": true, "Time": true, "Duration": true}

func TestPurePackages(t *testing.T) {
	for _, s := range sources(t) {
		if s.test || !isPure(s.pkg) {
			continue
		}
		_, foreign := imports(&s)
		for _, p := range foreign {
			for _, bad := range impure {
				if p == bad || strings.HasPrefix(p, bad+"/") {
					t.Errorf("%s: a pure package must not import %s", s.path, p)
				}
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s: a pure package starts no goroutine", s.set.Position(n.Pos()))
			case *ast.ChanType, *ast.SelectStmt:
				t.Errorf("%s: a pure package has no channels", s.set.Position(n.Pos()))
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && x.Obj == nil && !clockless[n.Sel.Name] {
					t.Errorf("%s: a pure package has no clock: time.%s", s.set.Position(n.Pos()), n.Sel.Name)
				}
			}
			return true
		})
	}
}

func isPure(pkg string) bool {
	for _, p := range pure {
		if p == pkg {
			return true
		}
	}
	return false
}
