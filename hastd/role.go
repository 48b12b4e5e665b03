package hastd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"hast/hooks"
	"hast/proto"
	"hast/proto/ctl"
)

// changeRole carries out hastctl role. The old worker ends in an orderly way
// before the new one starts: one incarnation at a time (architecture section 3).
func (r *resource) changeRole(to proto.Role, force bool) error {
	from := r.roleNow()
	if from == to {
		return nil // HAST: a no-op, without a hook
	}
	if err := r.connectedElsewhere(to); err != nil {
		return err
	}
	// A device that survived its worker, in use, goes with any role but primary, which takes it up again.
	if r.front != nil && to != proto.RolePrimary {
		r.setPhase("removing the device")
		ctx, cancel := context.WithTimeout(context.Background(), detachTimeout)
		defer cancel()
		if err := r.dropFront(ctx, force); err != nil {
			return err
		}
	}
	r.leave()
	r.setWhy("")
	var err error
	switch to {
	case proto.RoleInit:
	case proto.RoleSecondary:
		err = r.enterSecondary()
	case proto.RolePrimary:
		err = r.enterPrimary(force)
	}
	if err == nil {
		r.setRole(to)
		return nil
	}
	r.abandon()
	r.setWhy(err.Error())
	r.log.Error("role change failed", "from", from, "to", to, "reason", err)
	if from == proto.RoleSecondary && to == proto.RolePrimary {
		// A refused promotion leaves what was: a secondary that goes on receiving.
		if e := r.enterSecondary(); e == nil {
			return err
		}
		r.abandon()
	}
	r.setRole(proto.RoleInit)
	return err
}

// connectedElsewhere refuses a promotion that is known to be in vain before
// the secondary's worker, which a primary relies on, is stopped for it. Force doesn't help: a primary that answers is alive (rule 5).
func (r *resource) connectedElsewhere(to proto.Role) error {
	w := r.proc()
	if to != proto.RolePrimary || w == nil || w.role != proto.RoleSecondary {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	w.refresh(ctx)
	st, _ := w.snapshot()
	if st.Link != "connected" {
		return nil
	}
	s := r.current()
	return &ctl.Error{Code: proto.ExitRefused, Message: fmt.Sprintf("node %s is primary of %s and connected", s.peer, s.name),
		Hint: fmt.Sprintf("run there first: hastctl role secondary %s", s.name)}
}

// leave ends the present role; its device is gone already.
func (r *resource) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	r.promoted = false
	r.retryAt, r.backoff = time.Time{}, 0
	r.setPhase("stopping the worker")
	r.stopWorker(ctx)
}

// stopWorker stops the present worker, if any, and waits until it is reaped. What went wrong is logged: the next
// start finds it on disk.
func (r *resource) stopWorker(ctx context.Context) {
	w := r.proc()
	if w == nil {
		return
	}
	r.dials.cancel()
	if err := w.stop(ctx); err != nil {
		r.log.Error("worker did not stop in order", "reason", err)
		r.d.event(r, "worker-died", err.Error(), nil)
	}
	r.forget(w)
}

// abandon ends the worker of a failed change of role. A device that waits in use for
// its promotion is left as it was.
func (r *resource) abandon() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	r.promoted = false
	r.stopWorker(ctx)
}

func (r *resource) enterSecondary() error {
	r.setPhase("starting the worker")
	_, err := r.spawn(proto.RoleSecondary, false)
	return err
}

// enterPrimary promotes. Its steps:
//
//	1 start     a worker without a device
//	2 ask       the peer, by a complete handshake or its parent's refusal (docs/design/0001 section 4)
//	3 device    the front-end, then its name below /dev/hast
func (r *resource) enterPrimary(force bool) error {
	r.setPhase("starting the worker")
	w, err := r.spawn(proto.RolePrimary, false)
	if err != nil {
		return err
	}
	r.setPhase("asking the peer")
	if err := r.promote(w, force); err != nil {
		return err
	}
	r.promoted = true
	r.setPhase("making the device")
	ctx, cancel := context.WithTimeout(context.Background(), attachTimeout)
	defer cancel()
	if r.front != nil {
		return r.serve(ctx, w)
	}
	if r.front, err = r.d.newFront(r.current()); err != nil {
		return err
	}
	if err = r.serve(ctx, w); err != nil {
		// Nobody can have begun to use it.
		if e := r.dropFront(ctx, true); e != nil {
			err = errors.Join(err, e)
		}
	}
	return err
}

// promote waits until the machine says that it may serve. It permits the machine to go on without its peer where the
// rules of promotion do (rule 8), and refuses otherwise.
func (r *resource) promote(w *workerProc, force bool) error {
	s := r.current()
	limit := s.timeout
	if force {
		limit += forcePatience // what is waited for the peer must not use up what the metadata takes
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	r.beginPromotion()
	began, permitted := time.Now(), false
	for _, d := range []time.Duration{forcePatience, max(forcePatience, s.timeout/2)} {
		defer time.AfterFunc(d, r.poke).Stop()
	}
	err := r.await(ctx, w, func() (bool, error) {
		st, _ := w.snapshot()
		switch st.Link {
		case "refused", "split-brain":
			if !st.Promoted && !(force && !permitted) {
				return false, errors.New(st.Why)
			}
		}
		if st.Promoted {
			return true, nil
		}
		if st.PeerPrimary && !permitted {
			// It has just said so itself. An epoch begun here would make it outdated and freeze its users (rule 5).
			return false, &ctl.Error{Code: proto.ExitRefused, Message: fmt.Sprintf("node %s is primary of %s", s.peer, s.name),
				Hint: fmt.Sprintf("run there first: hastctl role secondary %s", s.name)}
		}
		out := r.dials.outcome()
		if out.kind == dialNotPrimary && s.settings.Freeze && !force {
			// The machine would hold all I/O for the peer, and the kernel wants to read a device that it makes.
			return false, &ctl.Error{Code: proto.ExitRefused, Message: fmt.Sprintf("the role of %s is init on node %s, and with on_peer_loss = \"freeze\" I/O would only wait for it", s.name, s.peer),
				Hint: fmt.Sprintf("run there first: hastctl role secondary %s; or let this node serve alone: on_peer_loss = \"continue\" and hastctl reload", s.name)}
		}
		patience := forcePatience
		if out.kind == dialPassed {
			patience = max(patience, s.timeout/2) // somebody is there: what it says counts
		}
		ask := out.kind == dialNotPrimary ||
			force && (out.kind == dialSilent || out.kind == dialRefused || out.kind == dialStranger || st.Handshake != "" || st.Link == "refused" || st.Link == "split-brain" || time.Since(began) >= patience)
		if s.alone() {
			ask = force // it permits itself, but for what only a person may decide
		}
		if !permitted && ask {
			permitted = true
			return false, w.permit(force)
		}
		return false, nil
	})
	if err != nil {
		r.endPromotion()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return r.silence(s, w)
	}
	return err
}

// beginPromotion holds hooks back: a machine connects before it may be primary, and people want to hear of
// the role first, as with HAST.
func (r *resource) beginPromotion() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.promoting, r.heldHooks = true, nil
}

// endPromotion returns what was held back.
func (r *resource) endPromotion() []hooks.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	held := r.heldHooks
	r.promoting, r.heldHooks = false, nil
	return held
}

// holdHook keeps e for later if a promotion is under way. A promotion that keeps connecting is cut short, so few come.
func (r *resource) holdHook(e hooks.Event) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	const most = 16
	if !r.promoting {
		return false
	}
	if len(r.heldHooks) < most {
		r.heldHooks = append(r.heldHooks, e)
	}
	return true
}

// silence explains why nobody agreed within the timeout. Force is named only where nothing can be asked of the peer.
func (r *resource) silence(s *spec, w *workerProc) error {
	out := r.dials.outcome()
	st, _ := w.snapshot()
	if text := st.Handshake; text != "" || out.kind == dialStranger {
		if text == "" {
			text = out.text
		}
		return fmt.Errorf("node %s answers at %s, but nothing that it says can be believed: %s", s.peer, s.remote, text)
	}
	text := out.text
	if text == "" {
		text = "no answer"
	}
	return fmt.Errorf("peer %s (%s) did not agree within %v: %s. Start hastd there, or, if that node is certainly not primary, hastctl role primary --force %s",
		s.peer, s.remote, s.timeout, text, s.name)
}
