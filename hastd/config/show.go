package config

import (
	"encoding"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"
)

// Show writes the effective configuration of both nodes as TOML, every default
// spelled out. Load makes the same Config of it.
func Show(w io.Writer, c *Config) error {
	_, err := io.WriteString(w, render(c, func(*directive, *Config, *Resource) bool { return true }))
	return err
}

// render writes the directives that keep lets pass, each in the most general table that can say it for both nodes.
func render(c *Config, keep func(*directive, *Config, *Resource) bool) string {
	p := printer{keep: keep}
	both := []*Config{c}
	if c.other != nil {
		both = append(both, c.other)
		if c.other.Node < c.Node {
			both[0], both[1] = both[1], both[0]
		}
	}
	p.daemon(scopeTop, both, both)
	for _, n := range both {
		p.header("node", n.Node)
		p.daemon(scopeNode, []*Config{n}, both)
	}
	for i := range c.Resources {
		name := c.Resources[i].Name
		p.header("resource", name)
		p.resource(scopeResource, name, both, both)
		for _, n := range both {
			p.header("resource", name, "on", n.Node)
			p.resource(scopeOn, name, []*Config{n}, both)
		}
	}
	return p.b.String()
}

type printer struct {
	b    strings.Builder
	keep func(*directive, *Config, *Resource) bool
}

func (p *printer) header(parts ...string) {
	key := ""
	for _, part := range parts {
		key = join(key, part)
	}
	fmt.Fprintf(&p.b, "\n[%s]\n", key)
}

// daemon prints the daemon's directives that belong into where.
func (p *printer) daemon(where scope, of, both []*Config) {
	for i := range directives {
		d := &directives[i]
		if d.perResource() {
			continue
		}
		// Listeners of both scopes add up, so they are printed in one only.
		shared := d.scopes&scopeTop != 0 && equal(d, both, func(*Config) *Resource { return nil })
		if shared == (where == scopeTop) {
			p.line(d, of[0], nil)
		}
	}
}

// resource prints a resource's directives that belong into where.
func (p *printer) resource(where scope, name string, of, both []*Config) {
	find := func(c *Config) *Resource { return c.Resource(name) }
	for i := range directives {
		d := &directives[i]
		if !d.perResource() {
			continue
		}
		shared := d.scopes&scopeResource != 0 && equal(d, both, find)
		if d.name == "remote" && !find(of[0]).Alone() {
			shared = false // an address is allowed for one node only
		}
		if shared == (where == scopeResource) {
			p.line(d, of[0], find(of[0]))
		}
	}
}

// equal reports whether d has the same value on all nodes.
func equal(d *directive, of []*Config, find func(*Config) *Resource) bool {
	first := d.get(of[0], find(of[0]))
	for _, c := range of[1:] {
		if !reflect.DeepEqual(first, d.get(c, find(c))) {
			return false
		}
	}
	return true
}

// line prints one directive. An address that the file does not have can't be written as TOML.
func (p *printer) line(d *directive, c *Config, r *Resource) {
	v := d.shown(c, r)
	if d.name == "address" && v == "" || !p.keep(d, c, r) {
		return
	}
	fmt.Fprintf(&p.b, "%-12s = %s\n", d.name, tomlValue(v))
}

// shown returns a directive's value as the file would have it.
func (d *directive) shown(c *Config, r *Resource) any {
	v := d.get(c, r)
	if d.show != nil {
		return d.show(v)
	}
	return v
}

// tomlValue writes any type of the directives' table.
func tomlValue(v any) string {
	switch v := v.(type) {
	case bool:
		return fmt.Sprint(v)
	case time.Duration:
		return quote(formatDuration(v))
	case Rate:
		if s := formatSize(uint64(v)); v != 0 {
			return quote(s)
		}
		return "0"
	case []string:
		list := make([]string, len(v))
		for i := range v {
			list[i] = quote(v[i])
		}
		return "[" + strings.Join(list, ", ") + "]"
	case encoding.TextMarshaler:
		b, _ := v.MarshalText() // proto's words: they never fail
		return quote(string(b))
	}
	return quote(fmt.Sprint(v))
}

// ShowJSON writes the effective configuration of this node as one JSON object: the directives by their names (durations as
// strings, rates in bytes per second), and node, peer, peer_address, digest and resources, each of which has its
// directives and resource, its name, and path, its block device.
func ShowJSON(w io.Writer, c *Config) error {
	top := jsonValues(c, nil)
	top["node"], top["peer"], top["peer_address"], top["digest"] = c.Node, c.Peer, c.PeerAddress, c.Digest()
	list := make([]map[string]any, len(c.Resources))
	for i := range c.Resources {
		r := &c.Resources[i]
		list[i] = jsonValues(c, r)
		list[i]["resource"], list[i]["path"] = r.Name, c.DevicePath(r)
	}
	top["resources"] = list
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(top)
}

func jsonValues(c *Config, r *Resource) map[string]any {
	m := map[string]any{}
	for i := range directives {
		d := &directives[i]
		if d.perResource() != (r != nil) {
			continue
		}
		v := d.shown(c, r)
		if t, ok := v.(time.Duration); ok {
			v = formatDuration(t)
		}
		m[d.name] = v
	}
	return m
}
