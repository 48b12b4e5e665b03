package hooks

import (
	"strconv"
	"strings"
	"unicode"

	"hast/proto"
)

// Kind is what happened: HAST's words, which are the program's first argument. The zero value is invalid.
type Kind string

// The kinds of events.
const (
	KindRole       Kind = "role"        // the role changed
	KindConnect    Kind = "connect"     // the handshake with the peer is done
	KindDisconnect Kind = "disconnect"  // a connection that had been up is gone
	KindSyncStart  Kind = "syncstart"   // primary: a sync began
	KindSyncDone   Kind = "syncdone"    // primary: it ended, both copies are equal
	KindSyncIntr   Kind = "syncintr"    // primary: it was interrupted
	KindSplitBrain Kind = "split-brain" // both nodes wrote; once per episode
)

// Event is one thing that happened to a resource.
type Event struct {
	Kind    Kind
	ID      uint64     // of the daemon's event stream, for people who compare it with the log
	Role    proto.Role // at the time of the event
	OldRole proto.Role // KindRole only
	NewRole proto.Role // KindRole only
	Peer    string     // the other node's name, "" if there is none
	Device  string     // path of the block device, "" if there is none now
	Reason  string     // for people; may come from the peer and is cleaned before it is used
}

// String returns the arguments as one text for the log.
func (e *Event) String() string {
	if e.Kind == KindRole {
		return "role " + word(e.OldRole) + " to " + word(e.NewRole)
	}
	return string(e.Kind)
}

// arguments returns what the program is called with, as HAST does.
func (e *Event) arguments(resource string) []string {
	if e.Kind == KindRole {
		return []string{string(e.Kind), resource, word(e.OldRole), word(e.NewRole)}
	}
	return []string{string(e.Kind), resource}
}

// searchPath is the PATH of a hook. The daemon's own is not used: it depends on who started it.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment returns all that the program finds in its environment. Every variable is always there, empty where it does not apply.
func (e *Event) environment(resource, node string) []string {
	return []string{
		"PATH=" + searchPath,
		"HAST_EVENT=" + string(e.Kind),
		"HAST_EVENT_ID=" + strconv.FormatUint(e.ID, 10),
		"HAST_RESOURCE=" + clean(resource),
		"HAST_NODE=" + clean(node),
		"HAST_PEER=" + clean(e.Peer),
		"HAST_ROLE=" + word(e.Role),
		"HAST_OLD_ROLE=" + word(e.OldRole),
		"HAST_NEW_ROLE=" + word(e.NewRole),
		"HAST_DEVICE=" + clean(e.Device),
		"HAST_REASON=" + clean(e.Reason),
	}
}

// word is a role's name, or nothing for no role.
func word(r proto.Role) string {
	if !r.Valid() {
		return ""
	}
	return r.String()
}

// maxText bounds one variable in bytes; a path or a sentence fits.
const maxText = 1024

// clean makes a text of any origin fit for one line and for an environment, which can't hold a zero byte.
func clean(s string) string {
	s = strings.ToValidUTF8(s[:min(len(s), maxText)], "?")
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
