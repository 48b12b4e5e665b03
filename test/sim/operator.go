package sim

import (
	"hast/hastd/replica"
	"hast/proto"
)

// operator is the person, or the script, and the two parent daemons: whatever decides roles.
type operator struct {
	busy    bool // one thing at a time
	last    int  // the node that was primary last
	settled bool
	healing bool
	rounds  int
	since   Time // when things were last seen to be well, or the last repair
	inited  [2]bool
	asked   bool
	gaveUp  bool // both copies are inconsistent by their disks' faults: refusing is right
}

// begin starts both nodes and everything that may go wrong.
func (w *world) begin() {
	w.op.last = w.rnd.n(2)
	for _, n := range w.nodes {
		n := n
		w.after(w.rnd.skew(0, 2*sec), func() { w.bringUp(n) })
	}
	o := &w.opt
	w.every(o.Cut, w.outage)
	w.every(o.Crash, func() {
		if n := w.nodes[w.rnd.n(2)]; n.alive {
			w.crash(n)
		}
	})
	w.every(o.PowerLoss, func() {
		n := w.nodes[w.rnd.n(2)]
		if w.opt.BothPower && w.rnd.one(3) {
			w.powerOff(w.peerOf(n))
		}
		w.powerOff(n)
	})
	w.every(o.Operator, w.act)
	if o.SplitBrain {
		w.after(w.rnd.skew(2*sec, 20*sec), w.forceSplit)
	}
	w.watch()
}

// every lets f happen about every ms milliseconds as long as faults do.
func (w *world) every(ms int, f func()) {
	if ms == 0 {
		return
	}
	w.after(Time(w.rnd.between(ms/4, ms*2))*msec, func() {
		if w.faults {
			f()
			w.every(ms, f)
		}
	})
}

// bringUp starts a secondary on a node that has a kernel and no worker; who becomes primary is decided later.
func (w *world) bringUp(n *node) {
	if !n.up || n.alive || w.op.inited[n.id] {
		return
	}
	if n.disk.busy() {
		w.after(5*msec, func() { w.bringUp(n) })
		return
	}
	if n.promoted && n.localOut {
		// The parent knows by the last status that this copy was out, even where that could not be recorded.
		n.promoted = false
		n.detach()
	}
	if n.promoted {
		n.start(proto.RolePrimary, true)
		n.resend()
		return
	}
	n.start(proto.RoleSecondary, false)
}

// crash ends a worker; the parent starts its successor.
func (w *world) crash(n *node) {
	w.ruleDifferencesMarked("when the worker of " + n.name.String() + " dies")
	n.die()
	w.after(w.rnd.skew(5*msec, 800*msec), func() { w.bringUp(n) })
}

// workerEnds keeps book of what a worker's end costs.
func (w *world) workerEnds(n *node) {
	n.lastDeath = w.now
	p := w.peerOf(n)
	lost := p.lostVolatile || p.flushLost && w.opt.Mode != proto.ModeFullsync
	if lost && !n.promoted && (!n.orderly || n.metaFailed) {
		w.oracleOf(n).dropVolatile() // the other one lost what it had in its cache, and this one can't prove any more, or not write down, that it has everything
	}
	n.intact = false
}

// afterFlush takes, now and then, the power of the peer right after a flush was acknowledged: that is when most is under way there that
// must not come before it.
func (w *world) afterFlush(n *node) {
	if w.opt.PowerLoss == 0 || !w.faults || !w.rnd.one(60) {
		return
	}
	w.after(w.rnd.skew(10*usec, 4*msec), func() {
		if w.faults {
			w.powerOff(w.peerOf(n))
		}
	})
}

// powerOff takes the power away, and gives it back.
func (w *world) powerOff(n *node) {
	if !n.up || w.split {
		return // what a loss of power costs two primaries apart is not in the plan
	}
	w.ruleDifferencesMarked("when the power of " + n.name.String() + " fails")
	w.tracef(n.id, "power fails")
	o, p := w.oracleOf(n), w.peerOf(n)
	primary := n.promoted
	if n.alive {
		n.die()
	}
	n.up, n.power = false, n.power+1
	w.abandonLink(n, true)
	n.detach()
	n.promoted = false
	n.disk.powerLoss()
	n.lastLoss = w.now
	if !primary {
		w.ruleBarriers(n)
	}
	if primary {
		sp := w.super(p.id)
		if w.lags() || !p.alive || !p.intact || p.metaFailed || sp.Data != proto.DataUpToDate || !o.holds(p) || w.split || w.disqualified(p, n) {
			o.dropVolatile()
		} else {
			n.lostVolatile = true
		}
	} else if !p.up || !p.promoted || w.split || p.flushLost || !o.holds(p) {
		o.dropVolatile()
	}
	if !primary && (p.localOut && !p.alive || p.alive && p.m.Status().LocalLost) {
		o.dropVolatile() // whatever the other disk still shows, this was the only copy that counted
		w.onlyReceived(n)
	}
	w.ruleDifferencesMarked("after the power of " + n.name.String() + " failed")
	w.after(w.rnd.skew(100*msec, 8*sec), func() {
		n.up = true
		n.boot = proto.IDFromWords(w.rnd.next(), uint64(n.id)+1)
		w.after(w.rnd.skew(10*msec, sec), func() { w.bringUp(n) })
	})
}

// watch looks every half second: somebody has to be primary, and what is in sync is noted.
func (w *world) watch() {
	w.after(w.rnd.skew(200*msec, sec), func() {
		w.noteSync()
		if w.op.healing {
			w.repair()
		}
		w.ensure()
		w.watch()
	})
}

// noteSync remembers that both copies are equal by the machines' own word.
func (w *world) noteSync() bool {
	for _, n := range w.nodes {
		p := w.peerOf(n)
		if !n.promoted || !n.alive || !p.alive || n.link == nil || p.link != n.link || n.link.dead {
			continue
		}
		s, t := n.m.Status(), p.m.Status()
		if s.Link == replica.LinkConnected && t.Link == replica.LinkConnected && !s.Syncing && s.DirtyBytes == 0 &&
			s.PeerData == proto.DataUpToDate && t.Data == proto.DataUpToDate && s.Data == proto.DataUpToDate && !s.LocalLost &&
			s.InFlight+t.InFlight == 0 && !n.link.silent[0] && !n.link.silent[1] {
			n.intact, p.intact = true, true
			n.lostVolatile, p.lostVolatile = false, false
			n.flushLost, p.flushLost = false, false
			return true
		}
	}
	return false
}

// ensure promotes a node if none is primary.
func (w *world) ensure() {
	if w.op.busy || w.nodes[0].promoted || w.nodes[1].promoted {
		return
	}
	n := w.nodes[w.op.last]
	if w.rnd.one(3) {
		n = w.peerOf(n)
	}
	p := w.peerOf(n)
	if !n.alive || n.role != proto.RoleSecondary {
		return
	}
	force := w.opt.Forced && w.faults && !p.up && w.mayForce(n)
	if !p.alive && !force {
		return
	}
	w.promote(n, force)
}

// mayForce reports whether a promotion by force gives nothing up that the mode does not.
func (w *world) mayForce(n *node) bool {
	s, t := w.super(n.id), w.super(1-n.id)
	if s.Data == proto.DataInconsistent || s.Current != t.Current || !n.intact || s.Current.IsZero() {
		return false
	}
	return w.lags() || w.oracleOf(n).holds(n)
}

// promote makes a secondary primary, as the parent does: a new worker, a handshake or a permit, the device.
func (w *world) promote(n *node, force bool) {
	w.op.busy = true
	w.tracef(n.id, "operator: role primary force=%v", force)
	w.stop(n, func() {
		if !n.up || n.alive {
			w.op.busy = false
			return
		}
		n.start(proto.RolePrimary, false)
		if force {
			n.forced = true
			n.step(&replica.Event{Kind: replica.EvPermit, Force: true, Wall: w.wall()})
		}
		w.await(n, n.inc, w.now+w.rnd.skew(2*sec, 12*sec), force)
	})
}

// await waits for a promotion, and goes back to secondary if it does not come.
func (w *world) await(n *node, inc int, until Time, force bool) {
	w.after(20*msec, func() {
		if n.inc != inc || !n.alive {
			w.op.busy = false // it died; the parent makes it secondary again
			return
		}
		s := n.m.Status()
		switch {
		case s.Promoted:
			w.rulePromoted(n, force)
			n.promoted = true
			w.op.last, w.op.busy = n.id, false
			if force && (w.lags() || w.split) {
				w.oracleOf(n).rebase(n)
			}
			w.mount(n, force)
		case w.now > until, s.Link == replica.LinkRefused, s.Link == replica.LinkSplitBrain:
			w.tracef(n.id, "operator: promotion given up: %s %s", s.Link, s.Why)
			w.demote(n)
		default:
			w.await(n, inc, until, force)
		}
	})
}

// mount lets clients use what was promoted, at once or, in some runs and after force, after a while.
func (w *world) mount(n *node, force bool) {
	n.terms++
	if !w.opt.SlowMount && !force || !w.faults || w.rnd.one(2) {
		n.front.attached = true
		return
	}
	term := n.terms
	w.after(w.rnd.skew(0, 20*sec), func() {
		if n.terms == term && n.promoted {
			n.front.attached = true
		}
	})
}

// stop ends a worker in an orderly way, or kills it when that takes too long; then goes on.
func (w *world) stop(n *node, then func()) {
	if !n.alive { // it has just died; what was to succeed it does not
		n.detach()
		n.promoted = false
		w.whenIdle(n, then)
		return
	}
	n.stopping = true
	inc, over := n.inc, false
	done := func(why string) {
		if over {
			return
		}
		over = true
		if n.inc != inc && n.alive { // it died, and its successor came first: that has to stop, too
			w.stop(n, then)
			return
		}
		if n.alive {
			w.tracef(n.id, "operator: worker ended (%s)", why)
			n.orderly = why == "in order"
			n.die()
			n.orderly = false
		}
		n.detach()
		n.promoted = false
		w.whenIdle(n, then)
	}
	n.stopped = func() { done("in order") }
	w.after(w.rnd.skew(8*sec, 20*sec), func() { done("killed") })
	n.step(&replica.Event{Kind: replica.EvStop})
}

func (w *world) whenIdle(n *node, then func()) {
	if n.disk.busy() {
		w.after(2*msec, func() { w.whenIdle(n, then) })
		return
	}
	then()
}

// demote takes a node out of role primary: the device goes first.
func (w *world) demote(n *node) {
	w.op.busy = true
	w.drain(n, w.now+3*sec, func() {
		w.stop(n, func() {
			w.op.busy = false
			w.bringUp(n)
		})
	})
}

// drain waits until the device is not in use; its users stop first.
func (w *world) drain(n *node, until Time, then func()) {
	n.terms++
	n.front.attached = false
	if len(n.front.out) == 0 || w.now > until {
		then()
		return
	}
	w.after(20*msec, func() { w.drain(n, until, then) })
}

// act is something that an operator does now and then.
func (w *world) act() {
	if w.op.busy || w.split {
		return
	}
	n := w.nodes[w.rnd.n(2)]
	if !n.alive || n.stopping {
		return
	}
	switch k := w.rnd.n(10); {
	case w.opt.Single && n.promoted && w.rnd.one(3):
		w.unconfigure(n)
	case k < 5: // switch, or make it secondary for a while
		if n.promoted {
			w.tracef(n.id, "operator: role secondary")
			w.op.last = w.rnd.n(2)
			w.demote(n)
		}
	case k < 8: // role init, and back
		w.tracef(n.id, "operator: restart in order")
		w.restart(n, w.rnd.skew(0, 5*sec))
	case w.opt.ModeChange:
		w.mode = proto.ModeFullsync + proto.Mode(w.rnd.n(3))
		for _, n := range w.nodes {
			for _, r := range n.front.out {
				r.laxer = max(r.laxer, w.mode)
			}
		}
		for _, n := range w.nodes {
			if n.alive {
				s := w.settings(n)
				n.step(&replica.Event{Kind: replica.EvSettings, Settings: &s})
			}
		}
	}
}

// unconfigure takes the peer out of a primary's configuration (remote = "none"), as somebody does who has sent the other machine to be
// repaired, and puts it back later.
func (w *world) unconfigure(n *node) {
	if n.single || !w.faults {
		return
	}
	set := func(single bool) {
		w.tracef(n.id, "operator: single=%v", single)
		n.single = single
		s := w.settings(n)
		n.step(&replica.Event{Kind: replica.EvSettings, Settings: &s})
	}
	set(true)
	term := n.terms
	w.after(w.rnd.skew(10*msec, 20*sec), func() { w.configure(n, term, set) })
}

func (w *world) configure(n *node, term int, set func(bool)) {
	switch {
	case !n.single || n.terms != term:
	case !n.alive || n.stopping: // its successor has read the old file
		w.after(50*msec, func() { w.configure(n, term, set) })
	default:
		set(false)
	}
}

// restart stops a node's worker in order and starts it again as secondary.
func (w *world) restart(n *node, pause Time) {
	w.op.busy = true
	w.drain(n, w.now+3*sec, func() {
		w.op.inited[n.id] = true
		w.stop(n, func() {
			w.op.busy = false
			w.after(pause, func() {
				w.op.inited[n.id] = false
				w.bringUp(n)
			})
		})
	})
}

// forceSplit promotes a second primary while the first one lives, cut off: the
// operator's mistake that both nodes have to report and survive.
func (w *world) forceSplit() {
	var n *node
	for _, c := range w.nodes {
		if p := w.peerOf(c); c.alive && c.role == proto.RoleSecondary && p.alive && p.promoted {
			n = c
		}
	}
	if !w.faults || n == nil || w.op.busy || !w.nodes[0].intact || !w.nodes[1].intact || w.super(n.id).Current != w.super(1-n.id).Current {
		return
	}
	w.tracef(-1, "operator: forces %s to be primary while %s is", n.name, w.peerOf(n).name)
	w.cutOff, w.split, w.everSplit = true, true, true
	w.left = -1
	if w.opt.Moved {
		w.left = 1 - n.id
	}
	w.acksSinceSplit = [2]int{}
	w.oracles[n.id] = w.oracleOf(n).clone()
	if n.link != nil {
		w.cut(n.link)
	}
	w.promote(n, true)
	apart := w.rnd.skew(3*sec, 30*sec)
	if w.opt.SlowMount {
		apart = w.rnd.skew(500*msec, 8*sec) // they meet before both have written
	}
	w.after(apart, func() { w.endSplit(0) })
}

// endSplit lets the two primaries meet, and then does what their message says.
func (w *world) endSplit(tries int) {
	if w.cutOff && w.op.busy { // the second one is not primary yet: they are not to meet before
		w.after(sec, func() { w.endSplit(tries) })
		return
	}
	w.cutOff = false
	w.after(6*sec, func() {
		a, b := w.nodes[0], w.nodes[1]
		both := w.acksSinceSplit[0] > 0 && w.acksSinceSplit[1] > 0
		if w.op.busy || !a.alive || !b.alive || both && !(a.splitSeen && b.splitSeen) {
			if tries > 60 {
				w.fail("rule05", "both nodes acknowledged writes apart, and split brain is reported on %s: %v, on %s: %v", a.name, a.splitSeen, b.name, b.splitSeen)
				return
			}
			w.endSplit(tries + 1)
			return
		}
		w.resolve(a, b)
	})
}

// resolve makes one copy anew, or just demotes a primary that has written nothing.
func (w *world) resolve(a, b *node) {
	victim := a
	switch {
	case a.splitSeen || b.splitSeen:
		if w.rnd.one(2) {
			victim = b
		}
	case w.acksSinceSplit[0] > 0:
		victim = b
	}
	survivor := w.peerOf(victim)
	// A generation may have begun for a write that was never acknowledged, even while the victim was being stopped.
	seen := func() bool {
		sa, sb := w.super(a.id), w.super(b.id)
		apart := sa.Current != sb.Current && !descends(sa, sb.Current) && !descends(sb, sa.Current)
		return a.splitSeen || b.splitSeen || apart
	}
	w.tracef(victim.id, "operator: gives up this node (split brain %v)", seen())
	w.op.busy = true
	w.drain(victim, w.now+3*sec, func() {
		w.stop(victim, func() {
			w.op.busy = false
			if !victim.up || victim.alive {
				w.endSplit(0)
				return
			}
			sv, ss := w.super(victim.id), w.super(survivor.id)
			if seen() || sv.Current != ss.Current && descends(sv, ss.Current) { // it went ahead, if for nothing: what is given up must not win
				victim.create()
			} else if w.lags() && sv.Current == ss.Current {
				w.oracleOf(survivor).rebase(victim) // what async had under way when they were cut is no split brain, and either may be the source
			}
			w.oracles[victim.id] = w.oracleOf(survivor)
			w.op.last, w.split = survivor.id, false
			w.bringUp(victim)
		})
	})
}

// heal ends all faults; from now on everything has to become well.
func (w *world) heal() {
	w.tracef(-1, "heal")
	w.faults, w.op.healing, w.op.since = false, true, w.now
	for _, n := range w.nodes {
		clear(n.disk.bad)
		n.disk.badN = 0
	}
	w.partition = false
}

// repair is what an operator does while something is not well: he restarts workers, one after the other.
func (w *world) repair() {
	if w.bothFailed() {
		w.op.settled, w.op.gaveUp = true, true
		return
	}
	if w.op.busy || w.split {
		return
	}
	for _, n := range w.nodes {
		if n.up && !n.alive && !w.op.inited[n.id] {
			w.bringUp(n)
		}
	}
	idle := len(w.nodes[0].front.out)+len(w.nodes[1].front.out) == 0
	if w.noteSync() && idle {
		w.lastQuestions()
		return
	}
	if w.now-w.op.since < 40*sec {
		return
	}
	if w.op.rounds >= 3 && w.giveUpFailed() {
		return
	}
	for _, n := range w.nodes {
		// No operator is needed for a handshake to end, one way or the other.
		if n.alive && n.link != nil && !n.link.dead && w.now-n.link.born > 30*sec && n.m.Status().Link == replica.LinkHandshake {
			w.fail("liveness", "node %s is in a handshake that does not end", n.name)
			return
		}
	}
	w.op.since, w.op.rounds = w.now, w.op.rounds+1
	for _, n := range w.nodes {
		if n.alive && n.promoted == (w.op.rounds%2 == 0) {
			w.tracef(n.id, "operator: restarts what is not well")
			w.restart(n, 100*msec)
			return
		}
	}
}

// lastQuestions reads everything once and flushes; when that is answered the run is over.
func (w *world) lastQuestions() {
	if w.op.asked {
		w.op.settled = true
		return
	}
	for _, n := range w.nodes {
		if !n.promoted || !n.alive {
			continue
		}
		w.op.asked = true
		step := 64 * 8
		for s := 0; s < w.sectors; s += step {
			r := &request{op: proto.OpRead, first: s, n: min(step, w.sectors-s), inv: w.now}
			n.front.out = append(n.front.out, r)
			n.offer(r)
		}
		r := &request{op: proto.OpFlush, inv: w.now, laxer: w.mode}
		n.front.out = append(n.front.out, r)
		n.offer(r)
	}
}

// bothFailed reports whether the plan's disk errors have left no copy that could be a source.
func (w *world) bothFailed() bool {
	return w.opt.WriteError+w.opt.FlushError+w.opt.MetaError > 0 &&
		w.super(0).Data == proto.DataInconsistent && w.super(1).Data == proto.DataInconsistent &&
		!w.nodes[0].promoted && !w.nodes[1].promoted
}

// giveUpFailed makes a copy anew that its disk's faults left inconsistent, when the other one is whole and yet refused: it
// may lack what was acknowledged last (a local copy and the link lost at once), and a person has to choose.
func (w *world) giveUpFailed() bool {
	for _, n := range w.nodes {
		p := w.peerOf(n)
		if w.opt.WriteError+w.opt.FlushError+w.opt.MetaError == 0 || n.promoted || p.promoted || !n.up ||
			w.super(n.id).Data != proto.DataInconsistent || w.super(p.id).Data == proto.DataInconsistent {
			continue
		}
		w.tracef(n.id, "operator: gives this copy up")
		w.op.busy, w.op.since, w.op.rounds = true, w.now, 0
		w.stop(n, func() {
			w.op.busy = false
			if n.up && !n.alive {
				n.create()
				w.oracleOf(p).rebase(p)
				w.bringUp(n)
			}
		})
		return true
	}
	return false
}
