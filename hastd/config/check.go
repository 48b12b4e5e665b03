package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// checker walks over a decoded file and collects what is wrong with it.
type checker struct {
	file     string
	lines    map[string]int
	problems Problems
}

// fail notes a problem of key.
func (c *checker) fail(key, format string, args ...any) {
	c.problems = append(c.problems, Problem{File: c.file, Line: c.line(key), Key: key, Text: fmt.Sprintf(format, args...)})
}

// line finds the line of key or, if the file does not have it, of the table around it.
func (c *checker) line(key string) int {
	for {
		if n, ok := c.lines[key]; ok {
			return n
		}
		i := strings.LastIndexAny(key, ".[")
		if i < 0 {
			return 0
		}
		key = key[:i]
	}
}

// setting is one value of the file. A bad one has been reported; it counts as
// present, so that nothing is called missing that is merely wrong.
type setting struct {
	key   string
	value any
	bad   bool
}

// settings are the values of one table.
type settings map[string]setting

// file is what a TOML file says, checked value by value, not yet resolved for a node.
type file struct {
	top       settings
	nodes     map[string]settings
	resources map[string]*resourceTable
}

// resourceTable is one [resource.NAME].
type resourceTable struct {
	key string
	own settings
	on  map[string]settings
	// broken: a section inside of it is unknown, so the name is probably misread, and what seems missing is elsewhere.
	broken bool
}

// check reads the top level.
func (c *checker) check(root map[string]any) *file {
	f := &file{nodes: map[string]settings{}, resources: map[string]*resourceTable{}}
	for _, name := range slices.Sorted(maps.Keys(later)) {
		if _, ok := root[name]; ok {
			c.fail(name, "%s", later[name])
		}
	}
	f.top = c.table(root, "", scopeTop, func(name string) bool { return name == "node" || name == "resource" || later[name] != "" })
	c.each(root, "", "node", checkNode, func(name, key string, t map[string]any) {
		f.nodes[name] = c.table(t, key, scopeNode, nil)
	})
	c.each(root, "", "resource", checkResource, func(name, key string, t map[string]any) {
		r := &resourceTable{key: key, on: map[string]settings{}}
		r.own = c.table(t, key, scopeResource, func(name string) bool { return name == "on" })
		c.each(t, key, "on", func(string) error { return nil }, func(node, key string, t map[string]any) {
			r.on[node] = c.table(t, key, scopeOn, nil)
		})
		for name, v := range t {
			_, table := v.(map[string]any)
			r.broken = r.broken || table && name != "on"
		}
		f.resources[name] = r
	})
	return f
}

// each calls visit for each table inside of the table called group, e.g. for each [node.NODE].
func (c *checker) each(parent map[string]any, at, group string, check func(string) error, visit func(name, key string, t map[string]any)) {
	v, ok := parent[group]
	if !ok {
		return
	}
	at = join(at, group)
	t, ok := v.(map[string]any)
	if !ok {
		c.fail(at, "is %s, but must be a table: write [%s.NAME]", kind(v), at)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(t)) {
		key := join(at, name)
		if err := check(name); err != nil {
			c.fail(key, "%v", err)
			continue
		}
		inner, ok := t[name].(map[string]any)
		if !ok {
			c.fail(key, "is %s, but must be a table: write [%s]", kind(t[name]), key)
			continue
		}
		visit(name, key, inner)
	}
}

// table reads the directives of one table; keys for which skip is true are read elsewhere.
func (c *checker) table(t map[string]any, at string, where scope, skip func(string) bool) settings {
	s := settings{}
	for _, name := range slices.Sorted(maps.Keys(t)) {
		if skip != nil && skip(name) {
			continue
		}
		key, d := join(at, name), findDirective(name)
		if d == nil {
			c.unknown(key, at, name, where, t[name])
			continue
		}
		if d.scopes&where == 0 {
			c.fail(key, "is not allowed here, only %s", d.scopes)
			continue
		}
		v, err := d.parse(t[name])
		if err != nil {
			c.value(key, err)
		}
		s[name] = setting{key, v, err != nil}
	}
	return s
}

// value reports a bad value, at its line within a list where there is one.
func (c *checker) value(key string, err error) {
	var e *elementError
	if errors.As(err, &e) {
		key, err = element(key, e.index), e.error
	}
	c.fail(key, "%v", err)
}

// unknown reports a key that no directive has, with the likeliest intention.
func (c *checker) unknown(key, at, name string, where scope, v any) {
	_, table := v.(map[string]any)
	switch {
	case table && at != "":
		c.fail(key, "unknown section; if the dot is part of a name, quote the name: [%s]", quoteLast(at, name))
	case table:
		c.fail(key, "unknown section: there are [node.NODE], [resource.NAME] and [resource.NAME.on.NODE]")
	default:
		c.fail(key, "unknown key%s", suggest(name, where))
	}
}

// quoteLast shows how to write at's last part and name as one name.
func quoteLast(at, name string) string {
	i := strings.LastIndexByte(at, '.')
	return at[:i+1] + quote(at[i+1:]+"."+name)
}

// suggest returns the directive that name was probably meant to be, or all that are allowed there.
func suggest(name string, where scope) string {
	best, most := "", 1+len(name)/4
	var allowed []string
	for i := range directives {
		d := &directives[i]
		if d.scopes&where == 0 {
			continue
		}
		allowed = append(allowed, d.name)
		if n := distance(strings.ToLower(name), d.name); n <= most {
			best, most = d.name, n-1
		}
	}
	if best != "" {
		return fmt.Sprintf("; did you mean %s?", best)
	}
	slices.Sort(allowed)
	return "; allowed here: " + strings.Join(allowed, ", ")
}

// distance counts the edits between two words, names longer than a directive can be cut off.
func distance(a, b string) int {
	const longest = 2 * 16
	a = a[:min(len(a), longest)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
