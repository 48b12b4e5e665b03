package ipc

import "hast/proto"

// State is a worker's view of itself: the machine's status in words, and what
// the engine counted. Times are CLOCK_BOOTTIME nanoseconds.
type State struct {
	Promoted bool   `json:"promoted"` // a primary that may serve
	Serving  bool   `json:"serving"`  // the front-end answers
	Link     string `json:"link"`
	Why      string `json:"why,omitempty"`
	// Trouble is what keeps application I/O from being done, whatever the link is like.
	Trouble string `json:"trouble,omitempty"`
	// Handshake is why the peer could not be authenticated lately; set only while there is no connection.
	Handshake string `json:"handshake,omitempty"`
	Frozen    bool   `json:"frozen,omitempty"`
	Data      string `json:"data"`
	PeerData  string `json:"peer_data,omitempty"` // as last heard; empty: never
	PeerNode  string `json:"peer_node,omitempty"`
	Mode      string `json:"mode"`

	Epoch    proto.Epoch `json:"epoch"`
	Resource proto.ID    `json:"resource"`
	Current  proto.ID    `json:"current"`
	Base     proto.ID    `json:"base"`

	DirtyBytes uint64 `json:"dirty_bytes"`
	Since      int64  `json:"since"`

	Syncing     bool   `json:"syncing,omitempty"`
	SyncSource  bool   `json:"sync_source,omitempty"`
	SyncTotal   uint64 `json:"sync_total,omitempty"`
	SyncDone    uint64 `json:"sync_done,omitempty"`
	SyncMoved   uint64 `json:"sync_moved,omitempty"`
	SyncStarted int64  `json:"sync_started,omitempty"`

	LocalLost   bool   `json:"local_lost,omitempty"`
	PeerPrimary bool   `json:"peer_primary,omitempty"` // by the last handshake, whatever its verdict
	Forced      bool   `json:"forced,omitempty"`
	PeerFailed  string `json:"peer_failed,omitempty"`
	HotExtents  int    `json:"hot_extents"`
	InFlight    int    `json:"in_flight"`
	Waiting     int    `json:"waiting"`
	FrozenCount int    `json:"frozen_count"`

	LocalError   string `json:"local_error,omitempty"`
	LocalErrorAt int64  `json:"local_error_at,omitempty"`
	PeerFailedAt int64  `json:"peer_failed_at,omitempty"`
	// PeerWait is for how long the oldest application request has waited for the connected peer, in nanoseconds.
	PeerWait int64 `json:"peer_wait,omitempty"`
	// DiskAge is for how long the oldest operation of the local disk has been under way, in nanoseconds.
	DiskAge int64 `json:"disk_age,omitempty"`

	Counters Counters `json:"counters"`

	// Fixed for the worker's life.
	DataSize      proto.Offset `json:"data_size"`
	ExtentSize    uint32       `json:"extent_size"`
	Logical       uint32       `json:"logical"`
	HotExtentsMax uint32       `json:"hot_extents_max"`
	UID           int          `json:"uid"`

	// What crossed the link, in bytes, and how long things took, in nanoseconds.
	SentBytes     uint64             `json:"sent_bytes"`
	ReceivedBytes uint64             `json:"received_bytes"`
	Latency       map[string]Latency `json:"latency,omitempty"`
}

// Latency sums a stage up. Times are nanoseconds.
type Latency struct {
	Count uint64 `json:"count"`
	P50   int64  `json:"p50"`
	P99   int64  `json:"p99"`
	Max   int64  `json:"max"`
}

// Counters are totals since the worker started; replica.Counters converts to it.
type Counters struct {
	Reads, Writes, Zeroes, Flushes                         uint64
	ReadBytes, WriteBytes, ZeroBytes                       uint64
	MapUpdates, MetaWrites                                 uint64
	LocalReadErrors, LocalWriteErrors, LocalFlushErrors    uint64
	RemoteReadErrors, RemoteWriteErrors, RemoteFlushErrors uint64
	RemoteReads, ReadRepairs                               uint64
	SyncBytes, SyncEqualBytes, SyncZeroBytes               uint64
}
