package engine

import "sync/atomic"

// gate counts who is inside, and can be shut for good. To pass it costs two additions.
type gate struct {
	n     atomic.Int64
	empty chan struct{}
}

// shutGate is added to the count when the gate is shut.
const shutGate = 1 << 62

func (g *gate) init() { g.empty = make(chan struct{}, 1) }

// enter reports whether the caller is inside; then it has to leave.
func (g *gate) enter() bool {
	if g.n.Add(1) < shutGate {
		return true
	}
	g.leave()
	return false
}

func (g *gate) leave() {
	if g.n.Add(-1) == shutGate {
		select {
		case g.empty <- struct{}{}:
		default:
		}
	}
}

// shut lets nobody in any more and returns when nobody is inside. Those who are
// turned away may delay it by the moment in which they are counted.
func (g *gate) shut() {
	if g.n.Add(shutGate) != shutGate {
		<-g.empty
	}
}
