package ctl

import "hast/proto"

// State is the one word that says how a resource is on this node. The zero value is invalid.
type State string

// The states, from idle over normal to bad.
const (
	StateInit       State = "init"        // no role: the backing device is free
	StateWaiting    State = "waiting"     // secondary: no primary has come
	StateConnecting State = "connecting"  // primary: being promoted, dials its peer
	StateHandshake  State = "handshake"   // connected, not yet agreed
	StateConnected  State = "connected"   // replicating, both copies equal
	StateSyncing    State = "syncing"     // replicating, one copy is being made equal
	StateDegraded   State = "degraded"    // serving with one copy
	StateFrozen     State = "frozen"      // I/O waits; Why says for what
	StateSplitBrain State = "split-brain" // both nodes wrote apart; nothing is overwritten
	StateRefused    State = "refused"     // the nodes do not agree; Why says on what
	StateStopped    State = "stopped"     // the worker gave up or can't start; Why says why
)

// States are all of them, in the order above.
var States = []State{
	StateInit, StateWaiting, StateConnecting, StateHandshake, StateConnected, StateSyncing,
	StateDegraded, StateFrozen, StateSplitBrain, StateRefused, StateStopped,
}

// HAST returns the word of hastctl(8)'s Status column: complete, degraded or "-".
// HAST calls two connections complete; here it takes two equal copies.
func (s State) HAST() string {
	switch s {
	case StateConnected:
		return "complete"
	case StateInit, StateWaiting, StateStopped:
		return "-"
	}
	return "degraded"
}

// Facts are what a state is concluded from.
type Facts struct {
	Role     proto.Role
	Failed   bool   // the latest worker gave up, or none can be started
	Link     string // the word of the worker's link: waiting, connecting, handshake, connected, split-brain, refused, none
	Promoted bool   // a primary that may serve
	Frozen   bool
	Syncing  bool
	OneCopy  bool // connected, and the local or the peer's copy is out
}

// StateOf concludes the state, the worst first: what a person has to act on
// is never hidden behind what will pass by itself.
func StateOf(f Facts) State {
	switch {
	case f.Failed:
		return StateStopped
	case f.Role != proto.RolePrimary && f.Role != proto.RoleSecondary:
		return StateInit
	case f.Link == "split-brain":
		return StateSplitBrain
	case f.Frozen:
		return StateFrozen
	case f.Link == "refused":
		return StateRefused
	case f.Link == "connected" && f.Syncing:
		return StateSyncing
	case f.Link == "connected" && f.OneCopy:
		return StateDegraded
	case f.Link == "connected":
		return StateConnected
	case f.Role == proto.RolePrimary && f.Promoted:
		return StateDegraded
	case f.Link == "handshake":
		return StateHandshake
	case f.Role == proto.RolePrimary:
		return StateConnecting
	}
	return StateWaiting
}
