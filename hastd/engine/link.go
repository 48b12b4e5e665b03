package engine

import (
	"time"

	"hast/hastd/peer"
	"hast/hastd/replica"
	"hast/proto"
	"hast/proto/wire"
)

// handler receives one link's frames. Each connection has its goroutine, so taken is
// indexed by connection.
type handler struct {
	e     *Engine
	conn  replica.Conn
	taken [2]*entry // the entry whose buffer a frame's payload is being read into, with a reference of ours
}

// Buffer implements peer.Handler: where a frame's payload goes.
func (h *handler) Buffer(k peer.Kind, f *wire.Header) []byte {
	e := h.e
	if e.cfg.Primary {
		// DATA answers a READ of ours; its buffer has waited for it.
		tag := uint32(f.Seq)
		if k != peer.Data || f.Type != wire.TypeData || int(tag) >= len(e.table.entries) {
			return nil
		}
		en := &e.table.entries[tag]
		// The reference keeps the buffer while it is filled, should the machine be done with the request first.
		if !e.table.hold(tag) {
			return nil
		}
		h.taken[k-1] = en
		if en.readSeq.Load() != f.Seq || int(f.Length) > len(en.buf) { // looked at with the reference: it is this request's
			return nil // end gives the reference back
		}
		return en.buf
	}
	en := e.take(int(f.Length))
	if en == nil {
		return nil
	}
	h.taken[k-1] = en
	if f.Type == wire.TypeDigest {
		return en.digests
	}
	return en.buf
}

// Frame implements peer.Handler.
func (h *handler) Frame(k peer.Kind, f *wire.Header, payload []byte) {
	e := h.e
	if f.Type > wire.TypeAck && f.Type != wire.TypeDigestResult {
		// Its body is borrowed, so it is stepped here and now, after everything that arrived before it.
		e.stepNow(&replica.Event{Kind: replica.EvFrame, Conn: h.conn, Head: *f, Body: payload})
		return
	}
	ev := replica.Event{Kind: replica.EvFrame, Conn: h.conn, Head: *f}
	if want := f.Flags&wire.FlagWantReceived != 0; !e.cfg.Primary && f.Type == wire.TypeWrite && e.memsync.Load() != want {
		e.memsync.Store(want)
	}
	if f.Type >= wire.TypeAck {
		e.post(ev)
		return
	}
	switch {
	case e.cfg.Primary:
		tag := uint32(f.Seq)
		asked := k == peer.Data && f.Type == wire.TypeData && int(tag) < len(e.table.entries) && e.table.entries[tag].readSeq.Swap(0) == f.Seq
		h.give(k) // the buffer is full; if the machine has given the request up, it knows by Seq
		if !asked {
			e.breakOff(h.conn)
			return
		}
		ev.Tag = replica.Tag(tag)
	default:
		en := h.taken[k-1]
		h.taken[k-1] = nil
		if en == nil { // no payload
			n := 0
			if f.Type == wire.TypeRead {
				n = int(f.Length)
			}
			if n > int(proto.MaxRequest) {
				e.breakOff(h.conn)
				return
			}
			if en = e.take(n); en == nil {
				return
			}
		}
		ev.Tag = replica.Tag(en.req.Tag)
	}
	e.post(ev)
}

// answered feeds the histogram of the peer's answers: of a WRITE the first one, which in memsync says received.
func (e *Engine) answered(f *wire.Header, now replica.Time) {
	if tag := uint32(f.Seq); int(tag) < e.table.app {
		if t := e.table.entries[tag].sent.Swap(0); t != 0 {
			e.remote.Add(time.Duration(int64(now) - t))
		}
	}
}

// take gets an entry; before it waits for one, what has arrived is worked on, for that is what frees entries.
func (e *Engine) take(n int) *entry {
	if en := e.table.get(n, false); en != nil {
		return en
	}
	e.pump()
	return e.table.get(n, true)
}

// Idle implements peer.Handler: what the batch brought is worked on.
func (h *handler) Idle(peer.Kind) { h.e.pump() }

// Sent implements peer.Handler. It takes no lock that is held while frames are queued.
func (h *handler) Sent(_ peer.Kind, tags []uint32) {
	for _, t := range tags {
		h.e.table.drop(t)
	}
}

// end gives back what a broken link left half read. The link's goroutines have ended.
func (h *handler) end() {
	h.give(peer.Data)
	h.give(peer.Control)
}

// give gives connection k's reference back.
func (h *handler) give(k peer.Kind) {
	if en := h.taken[k-1]; en != nil {
		h.taken[k-1] = nil
		h.e.table.drop(en.req.Tag)
	}
}

// breakOff ends a link whose peer sent what nobody asked for.
func (e *Engine) breakOff(conn replica.Conn) {
	e.mu.Lock()
	l := e.link
	if e.conn != conn {
		l = nil
	}
	e.unlock()
	if l != nil {
		l.Close("a frame that answers nothing")
	}
}
