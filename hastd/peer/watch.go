package peer

import (
	"fmt"
	"time"

	"hast/proto/wire"
)

// watch sends a keepalive whenever nothing was sent on the control connection
// for a quarter of the timeout, and ends the link when nothing came on it for
// the timeout. Silence counts only while our reader waits for the network, and only as far
// as this process was running: a pause of our own is not the peer's death.
func (l *Link) watch() {
	tick := l.cfg.Timeout / 16
	t := time.NewTicker(tick)
	defer t.Stop()
	s, r := &l.send[Control-1], &l.recv[Control-1]
	var silent time.Duration
	heard, before := r.reads.Load(), time.Now()
	polls := r.polls.Load()
	for {
		select {
		case <-l.done:
			return
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
		if silent >= l.cfg.Timeout-2*tick { // so that the timeout itself is kept, ticks included
			l.ended(fmt.Errorf("nothing from the peer on the control connection for %v: %w", l.cfg.Timeout, ErrSilent))
			return
		}
		if now.UnixNano()-s.last.Load() >= int64(l.cfg.Timeout/4-tick) && s.empty() {
			l.keepalive()
		}
	}
}

func (l *Link) keepalive() {
	h := wire.Header{Type: wire.TypeKeepalive}
	if l.Send(Control, &h, nil, 0) == nil {
		l.Flush(Control)
	}
}
