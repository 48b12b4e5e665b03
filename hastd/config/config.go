package config

import (
	"time"

	"hast/proto"
)

// Where things are unless the file says otherwise.
const (
	DefaultPath      = "/etc/hast/hast.toml"
	DefaultKeyFile   = "/etc/hast/key"
	DefaultCluster   = "hast"
	DefaultUser      = "hast"
	DefaultRunDir    = "/run/hast"
	DefaultStateDir  = "/var/lib/hast"
	DefaultDeviceDir = "/dev/hast"
	// ControlName and PIDName are the control socket and the pidfile below the run directory.
	ControlName = "hastctl.sock"
	PIDName     = "hastd.pid"
)

// DefaultControl is the control socket of a configuration that names neither control nor run_dir.
const DefaultControl = DefaultRunDir + "/" + ControlName

// Config is what one file means on one node, every default filled in.
type Config struct {
	File    string // where it was read from
	Node    string // this node's name in the file, at most 32 bytes
	Peer    string // the other node's name, "" if the file has only one node
	Cluster string
	KeyFile string // absolute path

	Address     string // host:port at which the peer reaches this node; "" if the file has none
	PeerAddress string // host:port of the peer; "" if the file has none

	Control   string   // path of the control socket
	PIDFile   string   // path
	Listen    []string // host:port each, no duplicates, never empty
	Log       LogTarget
	User      string // whom the workers run as; see LookupUser
	StateDir  string
	RunDir    string
	DeviceDir string

	Resources []Resource // sorted by name

	// other is the same file's meaning on the peer: printing and the digest cover both. nil for a single node.
	other *Config
}

// Resource is one replicated device as this node sees it.
type Resource struct {
	Name       string // at most proto.MaxName bytes
	DeviceName string // the name below DeviceDir
	Local      string // path of the backing device or file
	Metadata   string // path of the metadata file, "" for internal (the end of Local)
	Remote     string // host:port, not yet looked up; "" for none: this node runs alone
	Source     string // host or address to dial from, "" for any
	Front      Front

	Mode        proto.Mode
	Checksum    Checksum
	Compression Compression
	Encrypt     bool
	Timeout     time.Duration
	OnPeerLoss  PeerLoss
	MetaFlush   bool
	SyncRate    Rate
	IdleClean   time.Duration // 0: never

	Exec        string // path of the hook program, "" for none
	HookTimeout time.Duration
}

// Resource returns the resource called name, or nil.
func (c *Config) Resource(name string) *Resource {
	for i := range c.Resources {
		if c.Resources[i].Name == name {
			return &c.Resources[i]
		}
	}
	return nil
}

// Names returns the names of all resources, sorted.
func (c *Config) Names() []string {
	names := make([]string, len(c.Resources))
	for i := range c.Resources {
		names[i] = c.Resources[i].Name
	}
	return names
}

// DevicePath returns the path at which r's block device appears.
func (c *Config) DevicePath(r *Resource) string { return c.DeviceDir + "/" + r.DeviceName }

// Alone reports whether r has no peer to replicate to (remote = "none").
func (r *Resource) Alone() bool { return r.Remote == "" }

// Compression says how payload travels to the peer.
type Compression string

// The compressions.
const (
	CompressionNone Compression = "none"
	CompressionHole Compression = "hole" // all-zero requests travel without payload
	CompressionLZ4  Compression = "lz4"
)

// Checksum says how payload is protected on its way to the peer.
type Checksum string

// The checksums.
const (
	ChecksumNone   Checksum = "none"
	ChecksumCRC32C Checksum = "crc32c"
	ChecksumXXHash Checksum = "xxhash"
	ChecksumSHA256 Checksum = "sha256"
)

// Front says what gives Linux the block device.
type Front string

// The front-ends.
const (
	FrontAuto Front = "auto"
	FrontNBD  Front = "nbd-server"
	FrontFUSE Front = "fuse"
)

// PeerLoss says what a primary does with writes while its peer is away.
type PeerLoss string

// What to do when the peer is lost.
const (
	PeerLossContinue PeerLoss = "continue"
	PeerLossFreeze   PeerLoss = "freeze"
)

// LogTarget says where messages go.
type LogTarget string

// The log targets.
const (
	LogAuto    LogTarget = "auto"
	LogJournal LogTarget = "journal"
	LogSyslog  LogTarget = "syslog"
	LogStderr  LogTarget = "stderr"
)

// Rate is a number of bytes per second; 0 is without limit.
type Rate uint64
