package worker

import (
	"errors"
	"time"

	"hast/hastd/peer"
	"hast/hastd/worker/ipc"
)

// failureMemory is how long a failed handshake is worth showing: a peer that is still there tries again within its
// back-off (10 s) and its timeout. What somebody tried once and gave up is forgotten.
const failureMemory = time.Minute

// sameKey is what people read who have different keys on the two nodes. It says no more than the other side knows anyway.
const sameKey = "authentication failed: the peer does not have the same key: copy the key file (/etc/hast/key) of one node to the other and run hastctl reload on both"

// failKind sorts failures by what a person does about them. The zero value is invalid.
type failKind uint8

const (
	failKey failKind = 1 << iota
	failSettings
	failOther // the network's words, which have port numbers in them
)

// failures remembers how handshakes end. An episode begins with a failure and ends with a success, or when nothing has been tried
// for failureMemory; each kind is told once in it, because a stranger must not fill the log (rule 15).
type failures struct {
	text string
	last time.Time
	told failKind
}

// add takes a failure in. It returns what to tell, "" for nothing, and for the event that of
// authentication is (ipc.EventAuthFailed) its reason; "" stands for the network's failures, which are no event.
func (f *failures) add(err error, now time.Time) (text, reason string) {
	if f.current(now) == "" {
		f.told = 0
	}
	kind := failOther
	f.text, f.last = err.Error(), now
	switch {
	case errors.Is(err, peer.ErrKeys):
		kind, f.text, reason = failKey, sameKey, ipc.ReasonKey
	case errors.Is(err, peer.ErrEncrypt):
		kind, f.text, reason = failSettings, peer.ErrEncrypt.Error(), ipc.ReasonEncrypt
	case errors.Is(err, peer.ErrReflected):
		kind, f.text, reason = failSettings, peer.ErrReflected.Error(), ipc.ReasonLoop
	}
	if f.told&kind != 0 {
		return "", ""
	}
	f.told |= kind
	return f.text, reason
}

// succeeded ends the episode.
func (f *failures) succeeded() { *f = failures{} }

// current is why connections fail at this time, "" if none has lately.
func (f *failures) current(now time.Time) string {
	if now.Sub(f.last) > failureMemory {
		return ""
	}
	return f.text
}
