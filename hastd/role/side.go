package role

import (
	"hast/extent"
	"hast/proto"
)

// Side is what one node says of itself in HELLO, as far as the decision needs it.
type Side struct {
	Node     proto.Node
	Role     proto.Role
	Resource proto.ID
	Current  proto.ID // generation of this copy; zero: blank
	Base     proto.ID // generation at which this copy's marks began; zero: no absence under way
	History  [extent.HistoryLen]proto.ID
	Data     proto.DataState
	Epoch    proto.Epoch
	SyncID   proto.ID // unfinished sync session
	SyncRole uint8    // in it: 0 none, 1 source, 2 target
	Marks    bool     // has dirty blocks (active extents of a crash count)
	Merged   bool     // and they are the peer's: taken over in a handshake after which no session began
	Blank    bool     // created, never written, no generation yet
	Crashed  bool     // was primary and was not cleanly demoted before this start
	Rebooted bool     // and the kernel restarted since: its volatile disk cache may be lost
	Intact   bool     // in sync when the previous connection ended, no restart of the worker since: has applied all that was acknowledged as received
	Served   bool     // primary: has served application I/O in this term
	Forced   bool     // promoted with --force once
	// FlushFailed: what this copy's disk returns is no proof of what it keeps, nor that it has what it took (rule 11).
	FlushFailed bool
	Mode        proto.Mode // the laxest in which it may have acknowledged what the other lacks

	DataSize   proto.Offset
	ExtentSize uint32
	Logical    uint32
}

// inHistory reports whether id is one of s's former generations.
func (s *Side) inHistory(id proto.ID) bool {
	if id.IsZero() {
		return false
	}
	for _, h := range s.History {
		if h == id {
			return true
		}
	}
	return false
}

// descends reports whether s's copy contains generation id: it is there now, or was.
func (s *Side) descends(id proto.ID) bool {
	return !id.IsZero() && (s.Current == id || s.Base == id || s.inHistory(id))
}

// Action is what a verdict says that this node does. The zero value is invalid.
type Action uint8

// The actions. Those behind TargetFull move nothing.
const (
	NoSync      Action = iota + 1 // both copies are equal
	Source                        // send the marked blocks
	SourceFull                    // send everything written, compared by digest
	Target                        // receive the marked blocks
	TargetFull                    // receive everything written
	SplitBrain                    // both wrote apart
	Unrelated                     // nothing in common
	PeerPrimary                   // both are primary, and have not diverged
	Refused                       // would be possible, and is not safe
	Impossible                    // facts that contradict each other
)

// String returns a word for logs.
func (a Action) String() string {
	switch a {
	case NoSync:
		return "no-sync"
	case Source:
		return "source"
	case SourceFull:
		return "source-full"
	case Target:
		return "target"
	case TargetFull:
		return "target-full"
	case SplitBrain:
		return "split-brain"
	case Unrelated:
		return "unrelated"
	case PeerPrimary:
		return "peer-primary"
	case Refused:
		return "refused"
	case Impossible:
		return "impossible"
	}
	return "invalid"
}

// Mirror is what the other node has to conclude.
func (a Action) Mirror() Action {
	switch a {
	case Source:
		return Target
	case SourceFull:
		return TargetFull
	case Target:
		return Source
	case TargetFull:
		return SourceFull
	}
	return a
}

// Verdict is a decision with its reason.
type Verdict struct {
	Action Action
	Rule   int    // number of the rule that decided
	Why    string // for people
}
