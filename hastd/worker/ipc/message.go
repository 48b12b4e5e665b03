package ipc

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"hast/proto"
)

// Kind says what a message is for. Unknown kinds end the connection.
type Kind string

// From the parent to the worker.
const (
	// KindSetup is the first message, once: Setup, with the descriptors that FileXxx name.
	KindSetup Kind = "setup"
	// KindSettings replaces what may change while a worker runs: Settings. With Force the connection begins anew.
	KindSettings Kind = "settings"
	// KindConnection hands over two TCP connections after their preambles: Connection, FileData and FileControl.
	KindConnection Kind = "connection"
	// KindPermit lets a primary that is being promoted go on without its peer: Force (docs/design/0001 section 4).
	KindPermit Kind = "permit"
	// KindDevice gives a promoted primary its front-end: Device, with FileListen or FileDevice.
	KindDevice Kind = "device"
	// KindAsk asks for a KindState with the same ID.
	KindAsk Kind = "ask"
	// KindDetach ends the front-end and leaves replication running; with clients it is refused unless Force. Answered by KindDetached.
	KindDetach Kind = "detach"
	// KindStop asks for an orderly end: drain, flush, clean map. Answered by KindStopped, then the worker exits.
	KindStop Kind = "stop"
)

// From the worker to the parent.
const (
	// KindReady: locked in, metadata loaded, machine running: State.
	KindReady Kind = "ready"
	// KindReport is one transition: Report.
	KindReport Kind = "report"
	// KindConnect asks for a new pair of connections: Text says why.
	KindConnect Kind = "connect"
	// KindState answers KindAsk, and comes unasked (ID 0) when something that the parent decides on has changed.
	KindState Kind = "state"
	// KindServing: the front-end answers. Blob is what a successor has to know to take the device over.
	KindServing Kind = "serving"
	// KindDetached answers KindDetach; Text, if set, says why the device is still there.
	KindDetached Kind = "detached"
	// KindStopped: the machine has stopped; Text says what could not be stored, if anything.
	KindStopped Kind = "stopped"
	// KindLog is a line for the log: Level (a log/slog level), Text.
	KindLog Kind = "log"
	// KindFatal precedes an exit for a reason that people have to deal with: Text, Code.
	KindFatal Kind = "fatal"
)

// Names of descriptors in Message.Files.
const (
	FileLocal   = "local"   // the backing device, open with its lock
	FileMeta    = "meta"    // external metadata
	FileLease   = "lease"   // the role lease (package lease)
	FileRoot    = "root"    // the empty directory to be locked into
	FileHold    = "hold"    // hold's listening socket
	FileListen  = "listen"  // listening socket of an nbd-server
	FileDevice  = "device"  // /dev/fuse
	FileData    = "data"    // connection that carries requests
	FileControl = "control" // connection that carries answers
)

// HoldLabel is the one label that a hold process of ours knows: the device's
// descriptor, and hold's own listening socket, so that either can be had back.
const HoldLabel = "device"

// Survivor is the blob under HoldLabel: all that a new parent has to know of a device.
type Survivor struct {
	Resource string          `json:"resource"`
	Worker   int             `json:"worker"`  // pid of the worker that serves or served it
	Started  uint64          `json:"started"` // and its start time, so that the pid names no other process
	Loop     json.RawMessage `json:"loop,omitempty"`
	Prior    json.RawMessage `json:"prior,omitempty"`   // what the first server agreed with the kernel
	Orderly  bool            `json:"orderly,omitempty"` // the worker was stopped in order: its term as primary is over
}

// Message is one packet. Only the fields that its Kind names are set.
type Message struct {
	Kind       Kind            `json:"kind"`
	ID         uint64          `json:"id,omitempty"`
	Files      []string        `json:"files,omitempty"`
	Setup      *Setup          `json:"setup,omitempty"`
	Settings   *Settings       `json:"settings,omitempty"`
	Key        []byte          `json:"key,omitempty"` // with Settings: the secret for connections made from now on; none: as before
	Connection *Connection     `json:"connection,omitempty"`
	Device     *Device         `json:"device,omitempty"`
	Report     *Report         `json:"report,omitempty"`
	State      *State          `json:"state,omitempty"`
	Blob       json.RawMessage `json:"blob,omitempty"`
	Text       string          `json:"text,omitempty"`
	Level      int             `json:"level,omitempty"`
	Force      bool            `json:"force,omitempty"`
	Code       int             `json:"code,omitempty"`
}

// Setup is what a worker is for. Durations are nanoseconds.
type Setup struct {
	Resource  string     `json:"resource"`
	Role      proto.Role `json:"role"`
	Node      string     `json:"node"`
	Peer      string     `json:"peer"`
	LocalPath string     `json:"local_path"` // for messages to people; the worker can't open it
	MetaPath  string     `json:"meta_path,omitempty"`
	BootID    proto.ID   `json:"boot_id"`
	Started   uint64     `json:"started"` // start time of the worker's process in clock ticks, by which it is told from a later one of its pid
	UID       int        `json:"uid"`     // who to become; -1: stay, for tests as an ordinary user
	GID       int        `json:"gid"`
	LockMem   bool       `json:"lock_mem"`
	Key       []byte     `json:"key,omitempty"`
	// Successor: the device outlived this worker's predecessor, which did not stop in an orderly way.
	Successor bool     `json:"successor,omitempty"`
	Grace     int64    `json:"grace,omitempty"`
	Settings  Settings `json:"settings"`
	// Fake is for tests of supervision; the shipped worker refuses it.
	Fake json.RawMessage `json:"fake,omitempty"`
}

// Settings is what may change while a worker runs. Durations are nanoseconds, rates bytes per second.
type Settings struct {
	Mode        proto.Mode `json:"mode"`
	Compression string     `json:"compression"`
	Checksum    string     `json:"checksum"`
	Timeout     int64      `json:"timeout"`
	Encrypt     bool       `json:"encrypt"`
	MetaFlush   bool       `json:"metaflush"`
	Freeze      bool       `json:"freeze"`
	Standalone  bool       `json:"standalone"`
	SyncRate    uint64     `json:"sync_rate"`
	IdleClean   int64      `json:"idle_clean"`
}

// Connection describes two sockets between the nodes.
type Connection struct {
	Initiator bool   `json:"initiator"` // this node dialled
	Token     []byte `json:"token"`
	// The preambles and replies as they crossed the wire, data connection first: the workers' authentication covers them.
	Preambles [][]byte `json:"preambles"`
	Remote    string   `json:"remote"`
}

// Device describes the front-end that a worker serves.
type Device struct {
	Front string `json:"front"` // "nbd-server" or "fuse"
	Name  string `json:"name"`  // below /dev/hast
	// Negotiated, if set, is the Blob of the predecessor's KindServing: the kernel side exists already.
	Negotiated json.RawMessage `json:"negotiated,omitempty"`
}

// Report is a transition, told once: of the machine (replica.Report), or of the worker itself (EventXxx).
type Report struct {
	Event  string            `json:"event"`
	Text   string            `json:"text"`
	Bytes  uint64            `json:"bytes,omitempty"`
	Fields map[string]string `json:"fields,omitempty"` // of the event, beside "bytes"; constants and short numbers
}

// The worker's own events. hastctl.8 describes them with their fields: neither changes its meaning.
const (
	// EventAuthFailed: the other end of a connection did not prove that it is the peer. Fields FieldRemote, FieldReason.
	EventAuthFailed = "auth-failed"
	// EventStall: a request has waited so long that people have to know. Field FieldDisk.
	EventStall = "stall"
	// EventStallEnd ends it. Fields FieldDisk, FieldSeconds.
	EventStallEnd = "stall-end"
)

// The names of their fields, and what is in them where that is a constant.
const (
	FieldRemote  = "remote"  // address and port of the other end
	FieldReason  = "reason"  // ReasonXxx
	FieldDisk    = "disk"    // whose does not answer: DiskXxx
	FieldSeconds = "seconds" // how long it lasted, from the first request that waited; whole seconds

	ReasonKey     = "key"     // it has another key
	ReasonEncrypt = "encrypt" // one node encrypts, the other does not
	ReasonLoop    = "loop"    // the connection leads back to this node

	DiskLocal = "local"
	DiskPeer  = "peer"
)

// Decode parses one packet and checks that it has the parts that its kind needs.
func Decode(b []byte) (*Message, error) {
	if len(b) > MaxMessage {
		return nil, errors.New("message from the other process is too large")
	}
	m := new(Message)
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields() // both ends are the same binary
	if err := d.Decode(m); err != nil {
		return nil, fmt.Errorf("message from the other process: %w", err)
	}
	if len(m.Files) > MaxFiles {
		return nil, fmt.Errorf("message %s: %d descriptors, at most %d", m.Kind, len(m.Files), MaxFiles)
	}
	if !m.complete() {
		return nil, fmt.Errorf("message from the other process: %q is unknown or lacks a part", m.Kind)
	}
	return m, nil
}

func (m *Message) complete() bool {
	switch m.Kind {
	case KindSetup:
		return m.Setup != nil
	case KindSettings:
		return m.Settings != nil
	case KindConnection:
		return m.Connection != nil && len(m.Files) == 2
	case KindDevice:
		return m.Device != nil
	case KindReport:
		return m.Report != nil
	case KindState, KindReady:
		return m.State != nil
	case KindPermit, KindAsk, KindDetach, KindStop,
		KindConnect, KindServing, KindDetached, KindStopped, KindLog, KindFatal:
		return true
	}
	return false
}
