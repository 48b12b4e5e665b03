package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"pgregory.net/rapid"
)

func TestLines(t *testing.T) {
	text := `# one
a = 1
"b c".d = """x
[no] y = 1 \"""
"""   # six comes
e = [ 1,
  "two", # [
  { f = 1,
    g.h = 2 },
]
[t]
'x' = '''
'''''
[t.u."v\u0041"]
z = 1979-05-27 07:32:00
[[l]]
m = 1
[[l]]
[l.n]
o = "\"=#"
p = { q = 'a' , r = [ [ 1 ], [ 2, 3 ] ] }
`
	want := map[string]int{
		"a": 2, `"b c"`: 3, `"b c".d`: 3, "e": 6, "e[0]": 6, "e[1]": 7, "e[2]": 8, "e[2].f": 8, "e[2].g": 9, "e[2].g.h": 9,
		"t": 11, "t.x": 12, "t.u": 14, "t.u.vA": 14, "t.u.vA.z": 15, "l": 16, "l[0]": 16, "l[0].m": 17, "l[1]": 18,
		"l[1].n": 19, "l[1].n.o": 20, "l[1].n.p": 21, "l[1].n.p.q": 21, "l[1].n.p.r": 21,
		"l[1].n.p.r[0]": 21, "l[1].n.p.r[1]": 21, "l[1].n.p.r[0][0]": 21, "l[1].n.p.r[1][0]": 21, "l[1].n.p.r[1][1]": 21,
	}
	got, deep := lines(text)
	for k, n := range want {
		if got[k] != n {
			t.Errorf("%s: line %d, want %d", k, got[k], n)
		}
	}
	for k, n := range got {
		if want[k] == 0 {
			t.Errorf("%s: unexpected, line %d", k, n)
		}
	}
	if deep != 0 {
		t.Error("deep", deep)
	}
	if _, err := decode(text); err != nil {
		t.Error("the test's text is not TOML:", err)
	}
}

// complete checks that each key that the library found has a line.
func complete(t interface{ Errorf(string, ...any) }, text string) {
	found, deep := lines(text)
	var v map[string]any
	if deep != 0 {
		return
	}
	md, err := toml.Decode(text, &v)
	if err != nil {
		return
	}
	last := strings.Count(text, "\n") + 1
	for k, n := range found {
		if n < 1 || n > last {
			t.Errorf("%s is on line %d of %d", k, n, last)
		}
	}
	walk(v, "", func(key string) {
		if found[key] == 0 {
			t.Errorf("no line for %s of %q; found %v", key, md.Keys(), found)
		}
	})
}

// walk visits each key of a decoded file.
func walk(v any, key string, visit func(string)) {
	if key != "" {
		visit(key)
	}
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			walk(e, join(key, k), visit)
		}
	case []any:
		for i, e := range v {
			walk(e, element(key, i), visit)
		}
	case []map[string]any:
		for i, e := range v {
			walk(e, element(key, i), visit)
		}
	}
}

func TestLinesModel(t *testing.T) {
	word := rapid.SampledFrom([]string{"a", "b", `"c d"`, `'e.f'`, `"g\"h"`, `"\u0041"`, "i-j"})
	value := rapid.SampledFrom([]string{"1", `"x # ] }"`, "'''\n#\n'''", `"""a\"""b"""`, "[1, 2,\n 3, # x\n]", "{a = 1, b.c = 'd'}",
		"[{a = [1]}, {b = 2}]", "true", "1979-05-27 07:32:00", "[]", "{}", "[[], [1]]"})
	rapid.Check(t, func(t *rapid.T) {
		var b strings.Builder
		for range rapid.IntRange(0, 12).Draw(t, "n") {
			key := strings.Join(rapid.SliceOfN(word, 1, 3).Draw(t, "key"), rapid.SampledFrom([]string{".", " . "}).Draw(t, "dot"))
			switch rapid.IntRange(0, 4).Draw(t, "kind") {
			case 0:
				b.WriteString("[ " + key + " ] # table\n")
			case 1:
				b.WriteString("[[" + key + "]]\n")
			default:
				b.WriteString(key + " = " + value.Draw(t, "value") + "\r\n")
			}
			// Most random texts define something twice; what is valid so far is checked each time.
			complete(t, b.String())
		}
	})
}

// seeds adds the files of the test data.
func seeds(f *testing.F) {
	for _, pattern := range []string{"testdata/valid/*.toml", "testdata/invalid/*.toml", "../../etc/hast.toml"} {
		files, _ := filepath.Glob(pattern)
		for _, name := range files {
			b, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b)
		}
	}
}

func FuzzLines(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) { complete(t, string(b)) })
}

func FuzzParse(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Parse("f", b, "hb1")
		if err != nil {
			if _, ok := err.(Problems); !ok || len(err.Error()) == 0 {
				t.Errorf("not a problem: %v", err)
			}
			return
		}
		roundTrip(t, c)
		Diff(c, c)
	})
}

func FuzzAddress(f *testing.F) {
	for _, s := range []string{"10.0.0.1", "10.0.0.1:1", "[::1]:2", "::1", "h", "h:3", "[::1", "fe80::1%e", "none", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := parseRemote(s)
		if err != nil || a == "" {
			return
		}
		if b, err := parseRemote(a); err != nil || a != b {
			t.Errorf("%q became %q, which became %q, %v", s, a, b, err)
		}
	})
}

func TestSizes(t *testing.T) {
	for s, want := range map[string]uint64{"0": 0, "1": 1, "1k": 1024, "3M": 3 << 20, "2g": 2 << 30, "16777215T": 16777215 << 40, "18446744073709551615": 1<<64 - 1} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("%s: %d %v", s, got, err)
		}
	}
	for _, s := range []string{"", "k", "-1", "1kk", "1.5M", "16777216T", "18446744073709551616", "1 M", "+1", "1-", "1\v"} {
		if n, err := ParseSize(s); err == nil {
			t.Errorf("%q: %d", s, n)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Uint64().Draw(t, "n") >> rapid.IntRange(0, 63).Draw(t, "shift") << rapid.IntRange(0, 40).Draw(t, "up")
		if got, err := ParseSize(formatSize(n)); err != nil || got != n {
			t.Errorf("%d became %s, %d, %v", n, formatSize(n), got, err)
		}
	})
}
