package replica

import "hast/proto"

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
	Why        string // reason of SplitBrain, Refused or Frozen, for people
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
	PeerFailed  string // why the peer's copy was disqualified last, if it failed
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
