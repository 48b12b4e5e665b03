package hastd

import (
	"context"

	"hast/proto"
)

// impact is how much of a resource a new configuration touches; larger includes smaller.
type impact uint8

const (
	impactNone      impact = iota
	impactLive             // the worker takes it while it runs
	impactReconnect        // the connection begins anew, the device stays
	impactRestart          // role init, then the old role again
)

// shutdown ends the resource for good: the daemon stops or the resource left
// the configuration. A device in use stays held and frozen (architecture section 3); any other is removed.
func (r *resource) shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	r.setPhase("stopping")
	if r.front != nil {
		if busy := r.dropFront(ctx, false); busy != nil {
			r.log.Warn("the device stays, frozen, until hastd runs again: it is in use", "reason", busy)
		}
	}
	r.stopWorker(ctx)
	if r.front != nil {
		r.front.release(r.current().name)
		r.front = nil
	}
	r.dials.close()
	return nil
}

// detach removes the device by all means (hastctl stop --detach), and with it the role.
func (r *resource) detach() error { return r.changeRole(proto.RoleInit, true) }
