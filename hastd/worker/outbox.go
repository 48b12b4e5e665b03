package worker

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"

	"hast/hastd/worker/ipc"
)

// outboxSize is how many messages may wait for a parent that is slow; what comes then is
// dropped, and counted: nothing of the data path may wait for the parent (rule 14).
const outboxSize = 256

// outbox sends messages in order, from one goroutine.
type outbox struct {
	conn *ipc.Conn
	ch   chan *ipc.Message
	done chan struct{}

	mu      sync.Mutex
	closed  bool
	dropped int
}

func newOutbox(c *ipc.Conn) *outbox {
	o := &outbox{conn: c, ch: make(chan *ipc.Message, outboxSize), done: make(chan struct{})}
	go o.run()
	return o
}

// put queues m; it never waits.
func (o *outbox) put(m *ipc.Message) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return
	}
	if o.dropped > 0 && len(o.ch) < outboxSize/2 {
		note := fmt.Sprintf("%d messages were lost because the parent did not read", o.dropped)
		o.dropped = 0
		o.ch <- &ipc.Message{Kind: ipc.KindLog, Level: int(slog.LevelWarn), Text: note}
	}
	select {
	case o.ch <- m:
	default:
		o.dropped++
	}
}

func (o *outbox) run() {
	defer close(o.done)
	for m := range o.ch {
		o.conn.Send(m, sendWait) // a parent that is dead or stuck finds the state when it asks
	}
}

// close sends what is queued and ends; a parent that does not read gets sendWait for all of it at most once per message,
// and the process ends with it in any case.
func (o *outbox) close() {
	o.mu.Lock()
	o.closed = true
	close(o.ch)
	o.mu.Unlock()
	<-o.done
}

// outLog is a log handler whose lines the parent writes.
type outLog struct {
	out   *outbox
	attrs string
}

func (h *outLog) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelDebug }

func (h *outLog) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message)
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool { fmt.Fprintf(&b, " %s=%v", a.Key, a.Value); return true })
	text := b.String()
	h.out.put(&ipc.Message{Kind: ipc.KindLog, Level: int(r.Level), Text: text[:min(len(text), 4<<10)]})
	return nil
}

func (h *outLog) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	for _, a := range attrs {
		c.attrs += fmt.Sprintf(" %s=%v", a.Key, a.Value)
	}
	return &c
}

// WithGroup is not used by this program; groups are flattened.
func (h *outLog) WithGroup(string) slog.Handler { return h }
