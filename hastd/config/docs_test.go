package config

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

const (
	exampleFile = "../../etc/hast.toml"
	manPage     = "../../docs/man/hast.toml.5"
)

func readText(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The example loads, and so it does with each default that it names switched on, to the same meaning.
func TestExample(t *testing.T) {
	text := readText(t, exampleFile)
	c, err := Load(exampleFile, "hb1")
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, c)
	for i := range directives {
		if name := directives[i].name; !regexp.MustCompile(`(?m)^#?` + name + ` *=`).MatchString(text) {
			t.Errorf("the example does not show %s", name)
		}
	}
	spelled := regexp.MustCompile(`(?m)^#([a-z_]+ *=)`).ReplaceAllString(text, "$1")
	for _, not := range []string{"remote   = \"none\"", "source = \"10.0.0.1\""} {
		if !strings.Contains(spelled, not) {
			t.Errorf("the example lost %s", not)
		}
		spelled = strings.Replace(spelled, not, "", 1)
	}
	all, err := Parse(exampleFile, []byte(spelled), "hb1")
	if err != nil {
		t.Fatal(err)
	}
	if c.Digest() != all.Digest() {
		t.Errorf("what the example calls defaults are others:\n%s", show(t, all))
	}
}

// The man page's table of places is the table of this package.
func TestManPage(t *testing.T) {
	text := readText(t, manPage)
	for i := range directives {
		d := &directives[i]
		row := d.name
		for _, s := range []scope{scopeTop, scopeNode, scopeResource, scopeOn} {
			row += ";"
			if d.scopes&s != 0 {
				row += "x"
			}
		}
		if row = strings.TrimRight(row, ";"); !strings.Contains(text, "\n"+row+"\n") {
			t.Errorf("the table has no row %q", row)
		}
		if !strings.Contains(text, "\n.BI "+d.name+` "`) && !strings.Contains(text, "\n.BI "+d.name+" \" ") {
			t.Errorf("%s is not explained", d.name)
		}
	}
}
