package peer

import (
	"fmt"
	"time"

	"hast/proto/wire"
)

// watch sends a keepalive whenever nothing was sent, or nothing came, on the control connection
// for a quarter of the timeout, and ends the link when nothing came on it for
// the timeout. Silence counts only while our reader waits for the network, and only as far
// as this process was running: a pause of our own is not the peer's death.
//
// Where nothing came, it asks for one in return: the peer's timeout, and so what it sends unasked, may be another one.
func (l *Link) watch() {
	limit := l.timeout()
	tick := limit / 16
	t := time.NewTicker(tick)
	defer t.Stop()
	s, r := &l.send[Control-1], &l.recv[Control-1]
	var silent time.Duration
	heard, before := r.reads.Load(), time.Now()
	polls, asked := r.polls.Load(), before
	for {
		select {
		case <-l.done:
			return
		case <-l.retuned:
			limit = l.timeout()
			tick, silent = limit/16, 0
			t.Reset(tick)
			continue
		case <-t.C:
		}
		if n := r.polls.Load(); n == polls {
			l.Rest(Control) // whoever assists is held up
		} else {
			polls = n
		}
		now := time.Now()
		past := min(now.Sub(before), 2*tick)
		before = now
		if n := r.reads.Load(); n != heard {
			heard, silent = n, 0
		} else if !r.busy.Load() {
			silent += past
		}
		if silent >= limit-2*tick { // so that the timeout itself is kept, ticks included
			l.ended(fmt.Errorf("nothing from the peer on the control connection for %v: %w", limit, ErrSilent))
			return
		}
		quiet := now.UnixNano()-s.last.Load() >= int64(limit/4-tick) && s.empty()
		deaf := silent >= limit/4-tick && now.Sub(asked) >= limit/4-tick && s.queued() < QueueFrames/2
		switch {
		case deaf:
			asked = now
			l.keepalive(wire.KeepaliveAsk)
		case quiet:
			l.keepalive(0)
		}
	}
}

func (l *Link) keepalive(aux uint64) {
	h := wire.Header{Type: wire.TypeKeepalive, Aux: aux}
	if l.Send(Control, &h, nil, 0) == nil {
		l.Flush(Control)
	}
}

// Tuning is what may change while a link lives.
type Tuning struct {
	Timeout     time.Duration    // as Config's
	Compression wire.Compression // for what this node sends from now on
	Checksum    wire.Checksum    // for what this node sends from now on
}

func (l *Link) timeout() time.Duration { return time.Duration(l.patient.Load()) }

// Retune changes how this end sends, and how soon it takes the peer for dead. It does not wait; what is queued goes out as it is. Any
// goroutine may call it. An error says what is not as asked for, and leaves the link as it was but for that.
func (l *Link) Retune(t Tuning) error {
	if t.Timeout < MinTimeout || !t.Compression.Valid() || !t.Checksum.Valid() {
		return fmt.Errorf("timeout %v, compression %d, checksum %d: not valid", t.Timeout, t.Compression, t.Checksum)
	}
	var err error
	for i := range l.send {
		l.send[i].next.Store(wire.NewEncoder(t.Compression, t.Checksum))
		if e := patience(t.Timeout, l.send[i].sock.conn.Set); e != nil {
			err = e
		}
	}
	if l.patient.Swap(int64(t.Timeout)) != int64(t.Timeout) {
		select {
		case l.retuned <- struct{}{}:
		default: // it has not looked yet
		}
	}
	return err
}
