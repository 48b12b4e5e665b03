package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// resolve computes what the file means on each node and returns the one of
// self. Both are checked, whichever is returned: the file is the same on both.
func (c *checker) resolve(f *file, self identity) *Config {
	names := slices.Sorted(maps.Keys(f.nodes))
	c.nodes(f, names)
	configs := map[string]*Config{}
	for _, name := range names {
		peer := ""
		for _, other := range names {
			if other != name && peer == "" {
				peer = other
			}
		}
		configs[name] = c.node(f, name, peer)
	}
	for _, cfg := range configs {
		if cfg.Peer != "" {
			cfg.other = configs[cfg.Peer]
		}
	}
	return configs[c.pick(names, self)]
}

// nodes checks how many nodes there are and that all others that are named exist.
func (c *checker) nodes(f *file, names []string) {
	switch {
	case len(names) == 0 && !c.blamed("node"): // there may be sections with something else wrong
		c.fail("node", "missing: add [node.NODE] with the node's address for each of the two nodes")
	case len(names) > 2:
		c.fail(join("node", names[len(names)-1]), "there are %d nodes (%s), but exactly two can replicate", len(names), strings.Join(names, ", "))
	case len(names) == 2:
		a, b := f.nodes[names[0]]["address"], f.nodes[names[1]]["address"]
		if a.value != nil && a.value == b.value && !a.bad && !b.bad {
			c.fail(b.key, "%s has the same address: each node needs its own", names[0])
		}
	}
	for _, r := range f.resources {
		for node := range r.on {
			if _, ok := f.nodes[node]; !ok && len(names) > 0 {
				c.fail(join(join(r.key, "on"), node), "there is no node %s: the name must be %s", quote(node), words(names))
			}
		}
	}
}

// blamed reports whether a problem of key, or of something inside of it, is known.
func (c *checker) blamed(key string) bool {
	return slices.ContainsFunc(c.problems, func(p Problem) bool { return p.Key == key || strings.HasPrefix(p.Key, key+".") })
}

// lookup finds name in the most specific table that has it.
func lookup(name string, chain ...settings) (setting, bool) {
	for _, s := range chain {
		if v, ok := s[name]; ok {
			return v, true
		}
	}
	return setting{}, false
}

// node resolves the file for one node.
func (c *checker) node(f *file, name, peer string) *Config {
	cfg := &Config{File: c.file, Node: name, Peer: peer}
	own := f.nodes[name]
	if v := f.nodes[peer]["address"]; v.value != nil && !v.bad {
		cfg.PeerAddress = v.value.(string)
	}
	for i := range directives {
		if d := &directives[i]; !d.perResource() {
			c.assign(d, cfg, nil, own, f.top)
		}
	}
	// As in HAST the listeners of both scopes add up.
	if v, ok := f.top["listen"]; ok && !v.bad {
		for _, a := range v.value.([]string) {
			if !slices.Contains(cfg.Listen, a) {
				cfg.Listen = append(cfg.Listen, a)
			}
		}
	}
	cfg.Listen = unique(cfg.Listen)
	cfg.Resources = []Resource{}
	for _, r := range slices.Sorted(maps.Keys(f.resources)) {
		cfg.Resources = append(cfg.Resources, c.resource(f, cfg, r))
	}
	c.collisions(f, cfg)
	return cfg
}

// unique returns list without its repetitions, in order, in memory of its own.
func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// assign sets one directive from the most specific table that has it, or to its default.
func (c *checker) assign(d *directive, cfg *Config, r *Resource, chain ...settings) (present bool) {
	v, present := lookup(d.name, chain...)
	if present && !v.bad {
		d.set(cfg, r, v.value)
	} else {
		d.set(cfg, r, d.preset(cfg, r))
	}
	return present
}

// resource resolves one resource for cfg's node.
func (c *checker) resource(f *file, cfg *Config, name string) Resource {
	t, r := f.resources[name], Resource{Name: name}
	present := map[string]bool{}
	for i := range directives {
		if d := &directives[i]; d.perResource() {
			present[d.name] = c.assign(d, cfg, &r, t.on[cfg.Node], t.own, f.nodes[cfg.Node], f.top)
		}
	}
	if t.broken {
		return r
	}
	if !present["local"] {
		c.fail(t.key+".local", "missing for node %s: name the backing device or file here, or in [%s]", cfg.Node, join(t.key+".on", cfg.Node))
	}
	if v, ok := t.own["remote"]; ok && !v.bad && v.value != "" {
		c.fail(v.key, "an address can't be the same on both nodes: only %s is allowed here; write addresses into [node.NODE] (address) or [%s.on.NODE] (remote)", quote(noRemote), t.key)
	}
	if !present["remote"] {
		c.remote(f, cfg, t)
	}
	return r
}

// remote reports why a resource without the directive has no peer's address to fall back upon.
func (c *checker) remote(f *file, cfg *Config, t *resourceTable) {
	_, given := f.nodes[cfg.Peer]["address"]
	switch {
	case cfg.Peer == "":
		c.fail(t.key+".remote", "missing: there is only one node, %s: add [node.NODE] with the other one's address, or write remote = %s to run without a peer", cfg.Node, quote(noRemote))
	case !given:
		c.fail(join("node", cfg.Peer)+".address", "missing: %s needs it to reach %s, unless every resource has a remote in its [resource.NAME.on.%s]", cfg.Node, cfg.Peer, cfg.Node)
	}
}

// collisions reports what may be used once only on a node, and is used twice.
func (c *checker) collisions(f *file, cfg *Config) {
	if cfg.Control == cfg.PIDFile {
		c.fail("pidfile", "is the same path as control, %s", cfg.Control)
	}
	devices, paths := map[string]string{}, map[string]string{cfg.Control: "the control socket", cfg.PIDFile: "the pidfile", cfg.KeyFile: "the key"}
	for i := range cfg.Resources {
		r := &cfg.Resources[i]
		t := f.resources[r.Name]
		if first, ok := devices[r.DeviceName]; ok {
			c.fail(c.origin("name", t, cfg.Node), "resource %s already has the device name %s", first, quote(r.DeviceName))
		}
		devices[r.DeviceName] = r.Name
		for _, p := range []struct{ directive, path string }{{"local", r.Local}, {"metadata", r.Metadata}} {
			if p.path == "" {
				continue
			}
			if first, ok := paths[p.path]; ok {
				c.fail(c.origin(p.directive, t, cfg.Node), "%s is %s already", p.path, first)
			}
			paths[p.path] = fmt.Sprintf("the %s of resource %s", p.directive, r.Name)
		}
	}
}

// origin returns the key that sets a directive of a resource on a node.
func (c *checker) origin(directive string, t *resourceTable, node string) string {
	if v, ok := lookup(directive, t.on[node], t.own); ok {
		return v.key
	}
	return join(t.key, directive)
}
