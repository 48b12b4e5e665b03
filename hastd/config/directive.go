package config

import (
	"net"
	"strconv"
	"time"

	"hast/proto"
)

// scope is a set of places in which a directive may stand. From the least to the most specific:
type scope uint8

const (
	scopeTop      scope = 1 << iota // the top level
	scopeNode                       // [node.NODE]
	scopeResource                   // [resource.NAME]
	scopeOn                         // [resource.NAME.on.NODE]

	scopeDaemon = scopeTop | scopeNode
	scopeEither = scopeTop | scopeResource // must be equal on both nodes
	scopeAll    = scopeTop | scopeNode | scopeResource | scopeOn
)

// String names the places for messages.
func (s scope) String() string {
	var names []string
	for _, n := range []struct {
		bit  scope
		text string
	}{{scopeTop, "at the top level"}, {scopeNode, "in [node.NODE]"}, {scopeResource, "in [resource.NAME]"}, {scopeOn, "in [resource.NAME.on.NODE]"}} {
		if s&n.bit != 0 {
			names = append(names, n.text)
		}
	}
	return words(names)
}

// directive is one line of the table below, its types erased. get and set
// use their second argument for a resource's directive, else the first.
type directive struct {
	name   string
	scopes scope
	parse  func(any) (any, error)
	set    func(*Config, *Resource, any)
	get    func(*Config, *Resource) any
	preset func(*Config, *Resource) any // the default
	show   func(any) any                // what printing writes; nil: the value itself
	change Kind                         // of a resource's directive: what its change takes
}

// perResource reports whether it is a resource's setting, not the daemon's.
func (d *directive) perResource() bool { return d.scopes&(scopeResource|scopeOn) != 0 }

// fixed makes a default that does not depend on anything.
func fixed[T any](v T) func(*Config, *Resource) T { return func(*Config, *Resource) T { return v } }

// daemon makes a directive of the daemon.
func daemon[T any](name string, s scope, p parser[T], preset func(*Config, *Resource) T, field func(*Config) *T) directive {
	return directive{
		name: name, scopes: s,
		parse:  func(v any) (any, error) { return p(v) },
		set:    func(c *Config, _ *Resource, v any) { *field(c) = v.(T) },
		get:    func(c *Config, _ *Resource) any { return *field(c) },
		preset: func(c *Config, r *Resource) any { return preset(c, r) },
	}
}

// resource makes a directive of a resource.
func resource[T any](name string, s scope, k Kind, p parser[T], preset func(*Config, *Resource) T, field func(*Resource) *T) directive {
	return directive{
		name: name, scopes: s, change: k,
		parse:  func(v any) (any, error) { return p(v) },
		set:    func(_ *Config, r *Resource, v any) { *field(r) = v.(T) },
		get:    func(_ *Config, r *Resource) any { return *field(r) },
		preset: func(c *Config, r *Resource) any { return preset(c, r) },
	}
}

// showing replaces what printing writes for "".
func (d directive) showing(none string) directive {
	d.show = func(v any) any {
		if v == "" {
			return none
		}
		return v
	}
	return d
}

// Ranges of durations, each with its reason.
const (
	// minTimeout is the shortest time in which a busy peer surely answers; maxTimeout bounds how long an application waits for a dead one.
	minTimeout = time.Second
	maxTimeout = 10 * time.Minute
	// maxHook lets a hook check a large file system; more than a day is a mistake.
	minHook = time.Second
	maxHook = 24 * time.Hour
	// minIdle: cleaning the activity map more often costs more metadata writes than it saves resync.
	minIdle = time.Second
	maxIdle = 24 * time.Hour
)

// directives is the table of everything that can be set, in the order in which it is resolved (a default may depend on what
// stands above it) and printed.
var directives = []directive{
	daemon("cluster", scopeTop, text("a name", checkName), fixed(DefaultCluster), func(c *Config) *string { return &c.Cluster }),
	daemon("key", scopeDaemon, path(maxPath), fixed(DefaultKeyFile), func(c *Config) *string { return &c.KeyFile }),
	daemon("address", scopeNode, parsePeer, fixed(""), func(c *Config) *string { return &c.Address }),
	daemon("run_dir", scopeDaemon, path(maxPath), fixed(DefaultRunDir), func(c *Config) *string { return &c.RunDir }),
	daemon("state_dir", scopeDaemon, path(maxPath), fixed(DefaultStateDir), func(c *Config) *string { return &c.StateDir }),
	daemon("device_dir", scopeDaemon, path(maxPath), fixed(DefaultDeviceDir), func(c *Config) *string { return &c.DeviceDir }),
	daemon("control", scopeDaemon, path(maxSocket), func(c *Config, _ *Resource) string { return c.RunDir + "/" + ControlName },
		func(c *Config) *string { return &c.Control }),
	daemon("pidfile", scopeDaemon, path(maxPath), func(c *Config, _ *Resource) string { return c.RunDir + "/" + PIDName },
		func(c *Config) *string { return &c.PIDFile }),
	daemon("listen", scopeDaemon, parseListen, defaultListen, func(c *Config) *[]string { return &c.Listen }),
	daemon("log", scopeDaemon, word(LogAuto, LogJournal, LogSyslog, LogStderr), fixed(LogAuto), func(c *Config) *LogTarget { return &c.Log }),
	daemon("user", scopeDaemon, text("a user's name", checkUser), fixed(DefaultUser), func(c *Config) *string { return &c.User }),

	resource("name", scopeResource|scopeOn, Restart, text("a name", checkName), func(_ *Config, r *Resource) string { return r.Name },
		func(r *Resource) *string { return &r.DeviceName }),
	resource("local", scopeResource|scopeOn, Restart, path(maxPath), fixed(""), func(r *Resource) *string { return &r.Local }),
	resource("metadata", scopeResource|scopeOn, Restart, pathOr("internal"), fixed(""), func(r *Resource) *string { return &r.Metadata }).showing("internal"),
	resource("device", scopeAll, Restart, word(FrontAuto, FrontNBD, FrontFUSE), fixed(FrontAuto), func(r *Resource) *Front { return &r.Front }),
	resource("remote", scopeResource|scopeOn, Reconnect, parseRemote, func(c *Config, _ *Resource) string { return c.PeerAddress },
		func(r *Resource) *string { return &r.Remote }).showing(noRemote),
	resource("source", scopeNode|scopeOn, Reconnect, parseSource, fixed(""), func(r *Resource) *string { return &r.Source }),
	resource("encrypt", scopeEither, Reconnect, parseBool, fixed(true), func(r *Resource) *bool { return &r.Encrypt }),
	resource("replication", scopeEither, Live, parseMode, fixed(proto.ModeFullsync), func(r *Resource) *proto.Mode { return &r.Mode }),
	resource("timeout", scopeEither, Live, duration(minTimeout, maxTimeout, ""), fixed(20*time.Second), func(r *Resource) *time.Duration { return &r.Timeout }),
	resource("on_peer_loss", scopeEither, Live, word(PeerLossContinue, PeerLossFreeze), fixed(PeerLossContinue), func(r *Resource) *PeerLoss { return &r.OnPeerLoss }),
	resource("checksum", scopeAll, Live, word(ChecksumNone, ChecksumCRC32C, ChecksumXXHash, ChecksumSHA256), fixed(ChecksumCRC32C), func(r *Resource) *Checksum { return &r.Checksum }),
	resource("compression", scopeAll, Live, word(CompressionNone, CompressionHole, CompressionLZ4), fixed(CompressionHole), func(r *Resource) *Compression { return &r.Compression }),
	resource("metaflush", scopeAll, Live, parseBool, fixed(true), func(r *Resource) *bool { return &r.MetaFlush }),
	resource("sync_rate", scopeAll, Live, parseRate, fixed(Rate(0)), func(r *Resource) *Rate { return &r.SyncRate }),
	resource("idle_clean", scopeAll, Live, duration(minIdle, maxIdle, "never"), fixed(10*time.Second), func(r *Resource) *time.Duration { return &r.IdleClean }),
	resource("exec", scopeAll, Live, pathOr(""), fixed(""), func(r *Resource) *string { return &r.Exec }),
	resource("hook_timeout", scopeAll, Live, duration(minHook, maxHook, ""), fixed(10*time.Minute), func(r *Resource) *time.Duration { return &r.HookTimeout }),
}

// defaultListen is every address of both families, on the port at which the peer will call.
func defaultListen(c *Config, _ *Resource) []string {
	port := strconv.Itoa(proto.DefaultPort)
	if _, p, err := net.SplitHostPort(c.Address); err == nil {
		port = p
	}
	return []string{"0.0.0.0:" + port, "[::]:" + port}
}

// later are sections of versions to come, so that their absence has a better message than "unknown key".
var later = map[string]string{
	"heartbeat": "this version of hastd has no heartbeat yet: remove the section; roles are changed with hastctl role",
	"fence":     "this version of hastd has no fencing yet: remove the section; roles are changed with hastctl role",
	"group":     "this version of hastd has no groups yet: remove the section; hooks (exec) can mount and start services",
}

// findDirective returns the directive called name, or nil.
func findDirective(name string) *directive {
	for i := range directives {
		if directives[i].name == name {
			return &directives[i]
		}
	}
	return nil
}
