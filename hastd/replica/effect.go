package replica

import (
	"hast/proto"
	"hast/proto/wire"
)

// EffectKind says what the engine has to do. The zero value is invalid.
type EffectKind uint8

// What a machine asks of the engine.
const (
	// EfReply completes Tag's front-end request with Errno; a read's data is in
	// Tag's buffer. The tag stays with the machine until EfRelease (which may be in the same Step, after it):
	// a memsync or async write is answered before its buffer is free.
	EfReply EffectKind = iota + 1
	// EfRelease gives Tag and its buffer back to the engine.
	EfRelease
	// EfDisk submits an operation on the local backing device: Tag, Op, Off, Len, FUA, NoUnmap.
	// Data is in (or goes to) Tag's buffer. Answered by EvDisk, always, even after EfStopped.
	// At most one operation per tag at a time. Flushes, those of EfMeta too, are carried out one after the other, and answered in that order:
	// what a failed one has dropped no later one makes good, and the machine hears of the failure first (rule 11).
	EfDisk
	// EfDigest reads [Off, Off+Len) into Tag's buffer and digests each 4 KiB
	// block. Primary: the digests are then the payload of EfSend(Digest). Secondary: they are compared with the digests that
	// Tag's frame brought, and EvDigest carries the mask. The digest is keyed with Key.
	EfDigest
	// EfSend puts a frame on connection Conn: Head is complete but for payload size, compression and checksum.
	// If Payload, the frame carries Tag's buffer (Head.Length bytes, or 16 bytes for each 4 KiB for Digest); the buffer is
	// shared with the wire until sent, so the machine never changes it before the peer has answered. Body, if
	// set, is the payload of a control frame and is copied by the engine before Step's caller goes on.
	EfSend
	// EfMeta writes Meta's blocks to the metadata area, all of them, then flushes. Answered by EvMeta.
	// At most one at a time. The blocks belong to the machine and stay unchanged until the answer.
	EfMeta
	// EfConnect: the machine wants a connection (Primary, after EvStart and after each loss). The engine dials, with its own back-off,
	// until EvPeerUp. Text says why.
	EfConnect
	// EfDisconnect closes Conn; Text says why. EvPeerDown follows.
	EfDisconnect
	// EfReport: something that an operator, a hook or a metric wants to know. Report. Engine and parent turn it into one log line, one hook, one event.
	EfReport
	// EfStopped answers EvStop: everything is on disk (or Text says what is not).
	EfStopped
)

// Effect is one output of a machine.
type Effect struct {
	Kind    EffectKind
	Tag     Tag
	Op      proto.Op
	FUA     bool
	NoUnmap bool
	Payload bool
	Errno   proto.Errno
	Conn    Conn
	Len     proto.Length
	Off     proto.Offset
	Head    wire.Header
	Body    []byte
	Meta    []MetaBlock
	Key     [32]byte
	Text    string
	Report  Report
}

// MetaBlock is a piece of the metadata area: Data (a multiple of 4096 bytes, aligned memory) goes to byte
// Off of the area.
type MetaBlock struct {
	Off  int64
	Data []byte
}

// Effects is the reusable list that Step appends to.
type Effects struct{ List []Effect }

// Reset empties the list and keeps its memory.
func (e *Effects) Reset() { e.List = e.List[:0] }

func (e *Effects) add() *Effect {
	if len(e.List) < cap(e.List) {
		e.List = e.List[:len(e.List)+1]
		f := &e.List[len(e.List)-1]
		*f = Effect{}
		return f
	}
	e.List = append(e.List, Effect{})
	return &e.List[len(e.List)-1]
}

// ReportKind names a transition. It is also the event's name in `hastctl events`.
type ReportKind uint8

// The transitions of the replication core.
const (
	ReportConnect    ReportKind = iota + 1 // handshake complete (hook connect)
	ReportDisconnect                       // a complete connection ended (hook disconnect)
	ReportSyncStart                        // something is dirty and moves (hook syncstart)
	ReportSyncDone                         // both copies equal (hook syncdone)
	ReportSyncIntr                         // connection lost during a sync (hook syncintr)
	ReportSplitBrain                       // once per episode (hook split-brain)
	ReportRefused                          // the handshake was refused for another reason; once per episode
	ReportGeneration                       // a new generation began
	ReportDataState                        // own data state changed
	ReportPeerError                        // the peer failed a write or a flush
	ReportLocalLost                        // the local copy is out
	ReportFrozen                           // I/O waits; Text says why
	ReportResumed
	ReportReadRepair // a block that could not be read was rewritten from the peer
)

// String returns the word used in events and, where HAST has it, for the hook.
func (k ReportKind) String() string {
	switch k {
	case ReportConnect:
		return "connect"
	case ReportDisconnect:
		return "disconnect"
	case ReportSyncStart:
		return "syncstart"
	case ReportSyncDone:
		return "syncdone"
	case ReportSyncIntr:
		return "syncintr"
	case ReportSplitBrain:
		return "split-brain"
	case ReportRefused:
		return "refused"
	case ReportGeneration:
		return "generation"
	case ReportDataState:
		return "data-state"
	case ReportPeerError:
		return "peer-error"
	case ReportLocalLost:
		return "local-lost"
	case ReportFrozen:
		return "frozen"
	case ReportResumed:
		return "resumed"
	case ReportReadRepair:
		return "read-repair"
	}
	return "invalid"
}

// Report is a transition, told in words and numbers.
type Report struct {
	Kind  ReportKind
	Text  string // one sentence for people; what to do next where there is something to do
	Bytes uint64 // what moved, is dirty, or was repaired
}
