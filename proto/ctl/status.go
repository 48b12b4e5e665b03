package ctl

import "hast/proto"

// StatusReply answers GET /v1/status.
type StatusReply struct {
	Node      string           `json:"node"`
	Resources []ResourceStatus `json:"resources"` // in the order asked for; sorted by name for all
	Errors    []NamedError     `json:"errors,omitempty"`
}

// ResourceStatus is everything that is known about one resource on this node.
type ResourceStatus struct {
	Name   string     `json:"name"`
	Role   proto.Role `json:"role"`
	State  State      `json:"state"`
	Status string     `json:"status"`        // HAST's word: complete, degraded or "-"
	Why    string     `json:"why,omitempty"` // one sentence: the reason for State, where it is not a normal one
	// Pending is what a change of role is waiting for at this moment; empty when none is under way.
	Pending string `json:"pending,omitempty"`

	// Stale: the worker did not answer in time; what follows is StaleSeconds old (0: it never answered).
	Stale        bool    `json:"stale,omitempty"`
	StaleSeconds float64 `json:"stale_seconds,omitempty"`

	Node     string `json:"node"`
	Peer     string `json:"peer,omitempty"`
	Data     string `json:"data,omitempty"`      // own copy: inconsistent, outdated, consistent, uptodate
	PeerData string `json:"peer_data,omitempty"` // the peer's copy, as last heard

	// From the configuration.
	Mode        proto.Mode `json:"mode"`
	Checksum    string     `json:"checksum,omitempty"`
	Compression string     `json:"compression,omitempty"`
	Encrypted   bool       `json:"encrypted"`
	OnPeerLoss  string     `json:"on_peer_loss,omitempty"` // continue or freeze
	FrontEnd    string     `json:"front_end,omitempty"`    // nbd-server or fuse
	Device      string     `json:"device,omitempty"`       // path of the device (or socket) while it exists
	Local       string     `json:"local"`
	Metadata    string     `json:"metadata,omitempty"` // path of external metadata
	Remote      string     `json:"remote,omitempty"`   // host:port, or "none"
	Source      string     `json:"source,omitempty"`

	// From the superblock.
	DataSizeBytes   uint64      `json:"data_size_bytes,omitempty"`
	ExtentSizeBytes uint64      `json:"extent_size_bytes,omitempty"`
	BlockSizeBytes  uint32      `json:"block_size_bytes,omitempty"` // logical block size
	HotExtents      uint32      `json:"hot_extents,omitempty"`      // as created
	HotExtentsUsed  int         `json:"hot_extents_used,omitempty"` // active now
	Resource        proto.ID    `json:"resource_id,omitzero"`
	Current         proto.ID    `json:"generation_current,omitzero"`
	Base            proto.ID    `json:"generation_base,omitzero"`
	Epoch           proto.Epoch `json:"epoch,omitzero"`
	Forced          bool        `json:"forced,omitempty"` // promoted with --force in this generation

	Link              string `json:"link,omitempty"`                // the worker's word for the connection
	LinkSinceUnix     int64  `json:"link_since_unix,omitempty"`     // when Link last changed
	DegradedSinceUnix int64  `json:"degraded_since_unix,omitempty"` // when one of the copies was lost
	DirtyBytes        uint64 `json:"dirty_bytes"`                   // marked as different
	LocalLost         bool   `json:"local_lost,omitempty"`          // the local copy is out
	LocalError        string `json:"local_error,omitempty"`         // the latest error of the local disk, until a sync has made up for it
	LocalErrorUnix    int64  `json:"local_error_unix,omitempty"`    // when that was
	PeerError         string `json:"peer_error,omitempty"`          // why the peer's copy was disqualified, until it is synced
	PeerErrorUnix     int64  `json:"peer_error_unix,omitempty"`     // when that was
	// For how long the oldest request has waited: of any kind for the local disk, of an application for the connected peer.
	DiskWaitSeconds float64 `json:"disk_wait_seconds,omitempty"`
	PeerWaitSeconds float64 `json:"peer_wait_seconds,omitempty"`

	Sync     *SyncStatus `json:"sync,omitempty"` // while one is under way
	Hook     *HookStatus `json:"hook,omitempty"` // while one runs
	Queues   *Queues     `json:"queues,omitempty"`
	Counters *Counters   `json:"counters,omitempty"`
	Latency  []Latency   `json:"latency,omitempty"` // by stage, in the order of a request's way

	WorkerPID     int    `json:"worker_pid,omitempty"`
	SentBytes     uint64 `json:"sent_bytes,omitempty"` // over the link since the worker started
	ReceivedBytes uint64 `json:"received_bytes,omitempty"`
}

// SyncStatus is the progress of a sync.
type SyncStatus struct {
	Source      bool    `json:"source"` // this node sends
	Percent     float64 `json:"percent"`
	TotalBytes  uint64  `json:"total_bytes"`
	DoneBytes   uint64  `json:"done_bytes"`
	MovedBytes  uint64  `json:"moved_bytes"` // of those done; equal and zero blocks are not moved
	LeftBytes   uint64  `json:"left_bytes"`
	RateBytes   uint64  `json:"rate_bytes_per_second"`
	SecondsLeft *int64  `json:"sync_seconds_left,omitempty"` // absent while nothing has moved
	StartedUnix int64   `json:"started_unix,omitempty"`
}

// NewSync computes the rest from what a machine counts. elapsed is in seconds
// and is not trusted to be positive, nor done to be at most total (writes go on meanwhile).
func NewSync(source bool, total, done, moved uint64, elapsed float64, startedUnix int64) *SyncStatus {
	s := &SyncStatus{Source: source, TotalBytes: total, DoneBytes: min(done, total), MovedBytes: moved, StartedUnix: startedUnix}
	s.LeftBytes = total - s.DoneBytes
	s.Percent = 100
	if total > 0 {
		s.Percent = 100 * float64(s.DoneBytes) / float64(total)
	}
	if elapsed > 0 {
		s.RateBytes = uint64(float64(s.DoneBytes) / elapsed)
	}
	if s.RateBytes > 0 {
		left := int64((s.LeftBytes + s.RateBytes - 1) / s.RateBytes)
		s.SecondsLeft = &left
	}
	return s
}

// HookStatus is an operator's program that runs now.
type HookStatus struct {
	Event       string `json:"event"`
	Program     string `json:"program"`
	StartedUnix int64  `json:"started_unix"`
	PID         int    `json:"pid,omitempty"`
}

// Queues are numbers of requests at this moment.
type Queues struct {
	InFlight int `json:"in_flight"`
	Waiting  int `json:"waiting"` // for a lock, the activity map or a generation
	Frozen   int `json:"frozen"`
}

// Latency sums one stage of a request's way up.
type Latency struct {
	Stage string `json:"stage"`
	Count uint64 `json:"count"`
	P50   int64  `json:"p50_ns"`
	P99   int64  `json:"p99_ns"`
	Max   int64  `json:"max_ns"`
}

// Counters are totals since the worker started. Its fields are those of the
// machine's counters (hastd/replica), in their order, so one converts to the other.
type Counters struct {
	Reads             uint64 `json:"reads"`
	Writes            uint64 `json:"writes"`
	Zeroes            uint64 `json:"zeroes"`
	Flushes           uint64 `json:"flushes"`
	ReadBytes         uint64 `json:"read_bytes"`
	WriteBytes        uint64 `json:"write_bytes"`
	ZeroBytes         uint64 `json:"zero_bytes"`
	MapUpdates        uint64 `json:"map_updates"`
	MetaWrites        uint64 `json:"meta_writes"`
	LocalReadErrors   uint64 `json:"local_read_errors"`
	LocalWriteErrors  uint64 `json:"local_write_errors"`
	LocalFlushErrors  uint64 `json:"local_flush_errors"`
	RemoteReadErrors  uint64 `json:"remote_read_errors"`
	RemoteWriteErrors uint64 `json:"remote_write_errors"`
	RemoteFlushErrors uint64 `json:"remote_flush_errors"`
	RemoteReads       uint64 `json:"remote_reads"`
	ReadRepairs       uint64 `json:"read_repairs"`
	SyncBytes         uint64 `json:"sync_bytes"`
	SyncEqualBytes    uint64 `json:"sync_equal_bytes"`
	SyncZeroBytes     uint64 `json:"sync_zero_bytes"`
}
