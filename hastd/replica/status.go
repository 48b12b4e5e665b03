package replica

import (
	"fmt"

	"hast/proto"
)

// Link is the state of the connection as status shows it. The zero value is invalid.
type Link uint8

// The states of the link.
const (
	LinkWaiting    Link = iota + 1 // secondary: no primary has come yet
	LinkConnecting                 // primary: dialling
	LinkHandshake                  // connected, not yet agreed
	LinkConnected                  // replicating
	LinkSplitBrain                 // refused: both wrote
	LinkRefused                    // refused: see Why
	LinkNone                       // remote = "none"
)

// String returns the word used in status.
func (l Link) String() string {
	switch l {
	case LinkWaiting:
		return "waiting"
	case LinkConnecting:
		return "connecting"
	case LinkHandshake:
		return "handshake"
	case LinkConnected:
		return "connected"
	case LinkSplitBrain:
		return "split-brain"
	case LinkRefused:
		return "refused"
	case LinkNone:
		return "none"
	}
	return "invalid"
}

// Status is a snapshot of a machine; the engine adds what only it knows.
type Status struct {
	Role       proto.Role
	Link       Link
	Why        string // reason of SplitBrain or Refused, or how the last connection ended, for people
	Trouble    string // what keeps application I/O from being done, whatever the link is like; for people
	Frozen     bool
	Data       proto.DataState // own copy
	PeerData   proto.DataState // as last heard; 0 = never
	PeerNode   proto.Node
	PeerRole   proto.Role // as last heard; 0 = never
	Mode       proto.Mode
	Epoch      proto.Epoch
	Resource   proto.ID
	Current    proto.ID
	Base       proto.ID
	DirtyBytes uint64
	Since      Time // when Link last changed

	Syncing     bool
	SyncSource  bool // this node is the source
	SyncTotal   uint64
	SyncDone    uint64
	SyncMoved   uint64 // bytes of data sent or fetched; equal and zero blocks are not moved
	SyncStarted Time
	LocalLost   bool
	Forced      bool   // promoted with --force in this generation
	Promoted    bool   // primary: may serve; the parent creates the device when this becomes true
	PeerFailed  string // why the peer's copy was disqualified last, if it failed; until it is synced
	PeerFailAt  Time
	LocalError  string // the latest error of the local disk, until the copy is synced
	LocalErrAt  Time
	PeerWait    Time // at the last tick: for how long the oldest application request had waited for the connected peer's answer
	HotExtents  int
	InFlight    int
	Waiting     int // requests that wait for a lock, the map or a generation
	FrozenCount int

	Counters Counters
}

// Counters are totals since the worker started.
type Counters struct {
	Reads, Writes, Zeroes, Flushes                         uint64
	ReadBytes, WriteBytes, ZeroBytes                       uint64
	MapUpdates, MetaWrites                                 uint64
	LocalReadErrors, LocalWriteErrors, LocalFlushErrors    uint64
	RemoteReadErrors, RemoteWriteErrors, RemoteFlushErrors uint64
	RemoteReads, ReadRepairs                               uint64
	SyncBytes, SyncEqualBytes, SyncZeroBytes               uint64
}

// failure is the latest error of a disk, for people.
type failure struct {
	text string
	at   Time
}

// diskFailed notes an error of the local disk.
func (c *core) diskFailed(format string, args ...any) {
	c.diskErr = failure{fmt.Sprintf(format, args...), c.now}
}

// trouble says why application I/O is not done, and what to do; the most lasting reason first.
func (m *Primary) trouble() string {
	switch {
	case m.noCopy:
		return fmt.Sprintf("neither copy is whole: reads and writes fail. Stop the users of this device; create %s anew on one node and restore it", m.cfg.Name)
	case m.flushFailed:
		return fmt.Sprintf("writes are refused: a flush of the local disk failed without an up-to-date peer, and what was written since the last good one may be gone. "+
			"Stop the users of this device; let the peer connect (hastctl role secondary %s there), whose sync writes anew what is in doubt, or replace the disk", m.cfg.Name)
	case m.frozen&frOutdated != 0:
		return "a newer primary exists: this node's copy is outdated"
	case m.frozen&frInconsistent != 0:
		return "the local copy is not whole and the peer is away"
	case m.frozen&frPolicy != 0:
		return "the peer is lost and on_peer_loss is freeze"
	}
	return ""
}

// waitForPeer returns for how long somebody has waited for the peer, 0 if nobody does.
func (m *Primary) waitForPeer() Time {
	if !m.established || m.appBusy == 0 {
		return 0
	}
	first := m.now
	for i := range m.reqs[:m.cfg.AppTags] {
		if r := &m.reqs[i]; r.peer == partPending && !r.replied && (r.state == stIssued || r.state == stRemote) {
			first = min(first, r.asked)
		}
	}
	for i := range m.flushes {
		if f := &m.flushes[i]; f.active && f.peer == partPending && !f.acked && f.apps.len() > 0 {
			first = min(first, f.asked)
		}
	}
	return m.now - first
}
