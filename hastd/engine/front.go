package engine

import (
	"time"

	"hast/hastd/device"
	"hast/hastd/peer"
	"hast/hastd/replica"
	"hast/proto"
)

// The engine is the front-end's device.Sink.

// Get implements device.Sink.
func (e *Engine) Get(n proto.Length) *device.Request { return e.get(n, true) }

// TryGet implements device.Sink.
func (e *Engine) TryGet(n proto.Length) *device.Request { return e.get(n, false) }

func (e *Engine) get(n proto.Length, wait bool) *device.Request {
	if wait {
		e.Rest()
	}
	en := e.table.get(int(n), wait)
	if en == nil {
		return nil
	}
	return &en.req
}

// Put implements device.Sink.
func (e *Engine) Put(r *device.Request) { e.table.drop(r.Tag) }

// Help implements sock.Helper: whoever waits for a client's next request looks for the peer's answer to the last one. With
// more than one request under way that is done by a thread of its own, which then has no need to be woken.
func (e *Engine) Help() bool {
	l := e.live.Load()
	if l == nil {
		return false
	}
	if e.table.inUse() > 1 {
		l.Rest(peer.Control)
		return false
	}
	return l.Assist(peer.Control)
}

// Rest implements sock.Helper.
func (e *Engine) Rest() {
	if l := e.live.Load(); l != nil {
		l.Rest(peer.Control)
	}
}

// Submit implements device.Sink.
func (e *Engine) Submit(list []*device.Request) {
	if !e.leaseHolds() {
		e.heldMu.Lock()
		if !e.leased.Load() {
			e.held = append(e.held, list...)
			e.heldMu.Unlock()
			return
		}
		e.heldMu.Unlock()
	}
	began := time.Now().UnixNano()
	e.inMu.Lock()
	for _, r := range list {
		en := &e.table.entries[r.Tag]
		en.refs.Add(1) // the machine's
		en.began = began
		e.inbox = append(e.inbox, replica.Event{Kind: replica.EvIO, Tag: replica.Tag(r.Tag), Op: r.Op, FUA: r.FUA, NoUnmap: r.NoUnmap, Off: r.Off, Len: r.Len})
	}
	e.inMu.Unlock()
	e.pump()
}

// answer gives requests back to their owners, in runs of one owner. Without a lease nothing is answered: the
// parent may have let somebody else be primary meanwhile.
func (e *Engine) answer(list []*device.Request) {
	if !e.leaseHolds() {
		e.heldMu.Lock()
		if !e.leased.Load() {
			e.heldAn = append(e.heldAn, list...)
			e.heldMu.Unlock()
			return
		}
		e.heldMu.Unlock()
	}
	now := time.Now().UnixNano()
	for len(list) > 0 {
		k := 1
		for k < len(list) && list[k].Owner == list[0].Owner {
			k++
		}
		for _, r := range list[:k] {
			e.total.Add(time.Duration(now - e.table.entries[r.Tag].began))
		}
		list[0].Owner.Complete(list[:k])
		list = list[k:]
	}
}
