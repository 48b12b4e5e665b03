package ctl

import (
	"time"

	"hast/proto"
)

// Paths of the requests.
const (
	PathStatus     = "/v1/status"     // GET, name=... repeated; none: all
	PathRole       = "/v1/role"       // POST RoleRequest
	PathReload     = "/v1/reload"     // POST, no body
	PathStop       = "/v1/stop"       // POST StopRequest
	PathOperations = "/v1/operations" // GET, id=N: waits up to OperationWait for its end
	PathEvents     = "/v1/events"     // GET, since=N: a stream of lines, one Event each; without since: new ones
	PathDaemon     = "/v1/daemon"     // GET
)

const (
	// MaxBody bounds a request in bytes: a role for every resource of a large configuration fits many times.
	MaxBody = 64 << 10
	// MaxNames bounds the resources that one request names.
	MaxNames = 1024
	// StatusWait is how long a worker may take to say how it is before its last known state is used (rule 14).
	StatusWait = 2 * time.Second
	// OperationWait is how long one question about an operation may wait for its end.
	OperationWait = 2 * time.Second
	// StreamBeat is the longest silence in a stream of events: an empty line follows it, so
	// that each side finds out when the other is gone.
	StreamBeat = 5 * time.Second
)

// RoleRequest asks for a role. It starts one operation for each resource.
type RoleRequest struct {
	Names []string   `json:"names,omitempty"` // none: all
	Role  proto.Role `json:"role"`
	Force bool       `json:"force,omitempty"`
}

// StopRequest asks the daemon to end. Detach removes devices even while they are open, where the kernel can.
type StopRequest struct {
	Detach bool `json:"detach,omitempty"`
}

// OperationsReply answers whatever starts operations.
type OperationsReply struct {
	Operations []Operation  `json:"operations"`
	Errors     []NamedError `json:"errors,omitempty"`
}

// Operation is a change that may take longer than a request may. It goes on
// whether or not anybody asks for it.
type Operation struct {
	ID       uint64  `json:"id"`
	Verb     string  `json:"verb"`               // role, reload, stop
	Resource string  `json:"resource,omitempty"` // "" for the daemon's own
	Phase    string  `json:"phase,omitempty"`    // what it waits for, while it does
	Done     bool    `json:"done"`
	Seconds  float64 `json:"seconds"` // so far, or in all
	Error    *Error  `json:"error,omitempty"`
}

// Event is one thing that happened: a line of a stream.
type Event struct {
	ID       uint64            `json:"id,omitempty"` // from 1 in each life of the daemon; 0: a note about the stream itself
	Time     time.Time         `json:"time"`
	Resource string            `json:"resource,omitempty"`
	Event    string            `json:"event"` // role, connect, disconnect, syncstart, syncdone, syncintr, split-brain, ...
	Text     string            `json:"text,omitempty"`
	Fields   map[string]string `json:"fields,omitempty"`
}

// Notes about a stream itself, in Event.Event.
const (
	EventGap     = "gap"     // events are missing here: they are no longer kept
	EventRestart = "restart" // the daemon has started anew since the event that was asked for
	EventDropped = "dropped" // the reader was too slow; the stream ends
)

// Daemon says who answers.
type Daemon struct {
	Version      string `json:"version"`
	PID          int    `json:"pid"`
	Node         string `json:"node"`
	Peer         string `json:"peer,omitempty"`
	StartedUnix  int64  `json:"started_unix"`
	ConfigPath   string `json:"config_path"`
	ConfigDigest string `json:"config_digest"` // equal on both nodes if the files mean the same
	LastEvent    uint64 `json:"last_event"`
}
