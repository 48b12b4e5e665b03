package config

import (
	"reflect"
	"slices"
)

// Kind says what it takes to bring a resource from one configuration to
// another, from the least intrusive. The zero value is invalid.
type Kind uint8

// The kinds of change.
const (
	// Live: the running worker takes the new settings; connection and device stay.
	Live Kind = iota + 1
	// Reconnect: the connection to the peer is made anew; the device stays.
	Reconnect
	// Restart: to role init and back to the role it has now; a primary's device goes away in between.
	Restart
	// Added: a new resource, which begins in role init.
	Added
	// Removed: to role init, and forgotten.
	Removed
)

// String returns a word for logs.
func (k Kind) String() string {
	switch k {
	case Live:
		return "live"
	case Reconnect:
		return "reconnect"
	case Restart:
		return "restart"
	case Added:
		return "added"
	case Removed:
		return "removed"
	}
	return "invalid"
}

// ResourceChange is what happens to one resource.
type ResourceChange struct {
	Name string
	Kind Kind
	Keys []string // the directives that differ, in the table's order; none for Added and Removed
}

// Changes is the difference between two configurations, each part to be
// applied in the least intrusive way (docs/man/hast.toml.5, RELOADING).
type Changes struct {
	Control bool // open the new control socket before the old one is closed
	PIDFile bool // lock the new pidfile before the old one is removed
	Log     bool // messages go elsewhere
	Cluster bool // the cluster's name, which only messages show

	ListenAdded   []string
	ListenRemoved []string

	// Daemon are directives that only a new daemon can apply; a reload leaves them as they were and says so.
	Daemon []string

	Resources []ResourceChange // sorted by name; those without a difference are left out
}

// Empty reports whether nothing differs.
func (c *Changes) Empty() bool { return reflect.DeepEqual(*c, Changes{}) }

// Diff compares what two files mean on this node. It modifies neither and shares no memory with them
// but for strings. The contents of the key file are not compared: only its path is known here.
func Diff(old, new *Config) Changes {
	c := Changes{
		Control: old.Control != new.Control, PIDFile: old.PIDFile != new.PIDFile,
		Log: old.Log != new.Log, Cluster: old.Cluster != new.Cluster,
		ListenAdded: missing(new.Listen, old.Listen), ListenRemoved: missing(old.Listen, new.Listen),
	}
	for _, d := range []struct {
		key     string
		differs bool
	}{{"node", old.Node != new.Node}, {"run_dir", old.RunDir != new.RunDir}, {"state_dir", old.StateDir != new.StateDir}} {
		if d.differs {
			c.Daemon = append(c.Daemon, d.key)
		}
	}
	for _, name := range unique(slices.Sorted(slices.Values(append(old.Names(), new.Names()...)))) {
		if rc := diffResource(old, new, old.Resource(name), new.Resource(name)); rc.Kind != 0 {
			rc.Name = name
			c.Resources = append(c.Resources, rc)
		}
	}
	return c
}

// missing returns the elements of list that are not in from.
func missing(list, from []string) (out []string) {
	for _, s := range list {
		if !slices.Contains(from, s) {
			out = append(out, s)
		}
	}
	return out
}

// diffResource compares one resource; a is nil if it is new, b if it is gone.
func diffResource(old, new *Config, a, b *Resource) (rc ResourceChange) {
	switch {
	case a == nil:
		return ResourceChange{Kind: Added}
	case b == nil:
		return ResourceChange{Kind: Removed}
	}
	for i := range directives {
		if d := &directives[i]; d.perResource() && d.get(old, a) != d.get(new, b) {
			rc.add(d.name, d.change)
		}
	}
	if old.User != new.User {
		rc.add("user", Restart)
	}
	if old.DeviceDir != new.DeviceDir {
		rc.add("device_dir", Restart)
	}
	// Who the peer is and what proves it: only for those that have one.
	if !a.Alone() || !b.Alone() {
		if old.KeyFile != new.KeyFile {
			rc.add("key", Reconnect)
		}
		if old.Peer != new.Peer {
			rc.add("node", Reconnect)
		}
	}
	return rc
}

// add notes one directive; the most intrusive one decides.
func (rc *ResourceChange) add(key string, k Kind) {
	rc.Keys = append(rc.Keys, key)
	rc.Kind = max(rc.Kind, k)
}
