package main

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const manPage = "../../docs/man/hastctl.8"

// section returns the part of the page between the subsection heading of a verb and the next heading.
func section(page, verb string) string {
	_, rest, ok := strings.Cut(page, "\n.SS "+verb+"\n")
	if !ok {
		return ""
	}
	if i := strings.Index(rest, "\n.S"); i >= 0 {
		rest = rest[:i]
	}
	return rest
}

// Every verb has a section with an example, every option is in its verb's section, and the synopsis names each verb.
func TestManPage(t *testing.T) {
	b, err := os.ReadFile(manPage)
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	synopsis, _, _ := strings.Cut(page, ".SH DESCRIPTION")
	root := newRoot(newApp(io.Discard, io.Discard))
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) { documented(t, page, "hastctl", f) })
	for _, c := range root.Commands() {
		if c.Hidden {
			continue
		}
		text := section(page, c.Name())
		if text == "" || !strings.Contains(text, ".EX\nhastctl ") {
			t.Errorf("verb %s has no section with an example", c.Name())
		}
		if !strings.Contains(synopsis, "\n.B hastctl "+c.Name()) {
			t.Errorf("the synopsis lacks %s", c.Name())
		}
		for _, c := range append([]*cobra.Command{c}, c.Commands()...) {
			c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
				if f.Name != "help" {
					documented(t, text, c.CommandPath(), f)
				}
			})
			if c.Parent() != root && (!strings.Contains(text, "key "+c.Name()) && !strings.Contains(text, "config "+c.Name())) {
				t.Errorf("%s is not explained", c.CommandPath())
			}
		}
	}
}

func documented(t *testing.T, text, path string, f *pflag.Flag) {
	t.Helper()
	long := `\-\-` + strings.ReplaceAll(f.Name, "-", `\-`)
	if f.Shorthand != "" {
		long = `\-` + f.Shorthand + ", " + long
	}
	if !strings.Contains(text, long) {
		t.Errorf("%s: option %s is not explained", path, long)
	}
}

// The page has no lint, by the formatter that man uses. Without groff only its structure is checked.
func TestManPageLint(t *testing.T) {
	b, err := os.ReadFile(manPage)
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(string(b), "\n") {
		if strings.TrimRight(line, " \t") != line {
			t.Errorf("line %d ends with a space", i+1)
		}
	}
	if strings.Count(string(b), ".EX\n") != strings.Count(string(b), ".EE\n") || strings.Count(string(b), ".RS\n") != strings.Count(string(b), ".RE\n") {
		t.Error("examples are not closed")
	}
	groff, err := exec.LookPath("groff")
	if err != nil {
		return
	}
	if out, err := exec.Command(groff, "-ww", "-z", "-man", manPage).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

// Every exit code of the vocabulary that hastctl uses is in the page.
func TestManPageExitCodes(t *testing.T) {
	b, err := os.ReadFile(manPage)
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), ".SH EXIT STATUS")
	text, _, _ = strings.Cut(text, ".SH FILES")
	for _, code := range []string{"0", "1", "2", "3", "64", "65", "66", "69", "70", "71", "72", "74", "75", "78", "255"} {
		if !strings.Contains(text, ".TP\n"+code+"\n") {
			t.Errorf("exit status %s is not explained", code)
		}
	}
}
