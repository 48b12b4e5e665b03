package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// source is one Go file of the tree.
type source struct {
	path string // from the module's root
	pkg  string // directory, "." for the root
	test bool
	text []byte
	file *ast.File
	set  *token.FileSet
}

// root returns the directory that holds go.mod.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if up := filepath.Dir(dir); up != dir {
			dir = up
			continue
		}
		t.Fatal("no go.mod above the test")
	}
}

// texts returns every file that people wrote, by path from the root; built and generated things are left out.
func texts(t *testing.T) map[string][]byte {
	t.Helper()
	top, out := root(t), map[string][]byte{}
	err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(top, path)
		if d.IsDir() {
			if name := d.Name(); rel != "." && (strings.HasPrefix(name, ".") || name == "bin" || name == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || !written(rel) {
			return nil
		}
		b, err := os.ReadFile(path)
		if err == nil {
			out[filepath.ToSlash(rel)] = b
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func written(rel string) bool {
	switch filepath.Ext(rel) {
	case ".go", ".md", ".mod", ".toml", ".service", ".sh", ".mk", ".txt", ".1", ".5", ".8":
		return true
	}
	return strings.HasPrefix(filepath.Base(rel), "Makefile") || strings.HasPrefix(rel, "etc"+string(filepath.Separator))
}

// sources parses every Go file of the tree. A file that does not parse fails the test.
func sources(t *testing.T) []source {
	t.Helper()
	var out []source
	for path, b := range texts(t) {
		if !strings.HasSuffix(path, ".go") {
			continue
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, path, b, parser.ParseComments)
		if err != nil {
			t.Error(err)
			continue
		}
		dir := "."
		if i := strings.LastIndexByte(path, '/'); i >= 0 {
			dir = path[:i]
		}
		out = append(out, source{path: path, pkg: dir, test: strings.HasSuffix(path, "_test.go"), text: b, file: f, set: set})
	}
	return out
}

func imports(s *source) (own, foreign []string) {
	for _, i := range s.file.Imports {
		p := strings.Trim(i.Path.Value, `"`)
		if rest, ok := strings.CutPrefix(p, "hast/"); ok {
			own = append(own, rest)
		} else if p == "hast" {
			own = append(own, ".")
		} else {
			foreign = append(foreign, p)
		}
	}
	return own, foreign
}
