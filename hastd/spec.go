package hastd

import (
	"time"

	"hast/hastd/worker/ipc"
	"hast/proto"
)

// spec is what the parent needs to know of one resource's configuration.
type spec struct {
	name       string
	deviceName string
	device     string // /dev/hast/NAME
	front      string // frontNBD or frontFUSE
	local      string
	meta       string // path of external metadata, "" for internal
	peer       string // the other node's name
	remote     string // host:port, "" for none
	source     string // local address to dial from, "" for any
	timeout    time.Duration
	exec       string
	hookTime   time.Duration
	uid, gid   int
	key        []byte
	settings   ipc.Settings
}

// The front-ends of this build.
const (
	frontNBD  = "nbd-server"
	frontFUSE = "fuse"
)

// alone reports whether the resource has no peer (remote = "none").
func (s *spec) alone() bool { return s.remote == "" }

// sameDevice reports whether a worker and a device of s would do for o: the rest can be changed under them.
func (s *spec) sameDevice(o *spec) bool {
	return s.deviceName == o.deviceName && s.device == o.device && s.front == o.front && s.local == o.local && s.meta == o.meta &&
		s.uid == o.uid && s.gid == o.gid
}

// Limits of supervision, each with its reason.
const (
	// leaseTime is how long a worker serves on without its parent: long enough for a parent that is swapped in or
	// restarted within its watchdog's patience, far below every sensible deadtime (10 s by default).
	leaseTime = 3 * time.Second
	// leaseEvery leaves room for many missed renewals before a lease runs out.
	leaseEvery = 200 * time.Millisecond
	// sendTimeout bounds one message to a worker that does not read.
	sendTimeout = 500 * time.Millisecond
	// askTimeout bounds a status request; after it the last known state is shown, marked stale.
	askTimeout = 2 * time.Second
	// readyTimeout bounds start-up: loading the bitmap of a 16 TiB device takes about 2 s from a slow disk.
	readyTimeout = 30 * time.Second
	// stopTimeout bounds an orderly stop: a disk's own error recovery takes up to 7 s, a flush of its cache about as long.
	stopTimeout = 20 * time.Second
	// openPatience is how long a successor waits for its predecessor's last I/O, which the kernel still has.
	openPatience = 10 * time.Second
	// restartFirst and restartMost are the back-off of restarts; a worker that lived for restartHealthy begins anew.
	restartFirst   = 100 * time.Millisecond
	restartMost    = 10 * time.Second
	restartHealthy = 30 * time.Second
	// grace is how long a successor waits for the peer before it serves alone.
	grace = 3 * time.Second
	// forcePatience is how long a forced promotion waits for a silent peer: --force is said when the peer is believed dead.
	forcePatience = 3 * time.Second
)

// finalExit reports whether a worker's exit status means that trying again is
// pointless before a person has changed something (HAST: exit 78 leads to role init).
func finalExit(code int) bool {
	switch code {
	case proto.ExitConfig, proto.ExitData, proto.ExitNoInput, proto.ExitMetadata:
		return true
	}
	return false
}
