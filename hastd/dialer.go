package hastd

import (
	"context"
	"crypto/rand"
	"sync"
	"time"

	"hast/hastd/worker/ipc"
)

// Back-off of dialling: quick first, since a peer that was restarted is back within a second;
// never slower than HAST's 10 s.
const (
	dialFirst = 100 * time.Millisecond
	dialMost  = 10 * time.Second
)

// dialKind sums up what the latest attempt to reach the peer brought.
type dialKind uint8

const (
	dialNone       dialKind = iota // none was finished yet
	dialPassed                     // two connections were handed to the worker
	dialSilent                     // nobody answered
	dialNotPrimary                 // the peer's parent says that its role is init
	dialRefused                    // the peer's parent refused for another reason
	dialStranger                   // whoever answered does not have our key
)

// dialOutcome is the latest attempt's result; text is for people.
type dialOutcome struct {
	kind dialKind
	text string
}

// dialer connects to the peer whenever the worker wants it, with its own
// goroutine for the time that takes. There is at most one attempt at a time for each resource.
type dialer struct {
	r    *resource
	mu   sync.Mutex
	last dialOutcome
	stop context.CancelFunc // of the attempt series under way
	// pause is how long the next series waits first: connections that are made
	// and then refused (split brain, different keys) must not be made again at once, for ever.
	pause time.Duration
	wg    sync.WaitGroup
}

// linker dials: two connections with one token, preambles exchanged, ready to be passed on.
type linker interface {
	dial(ctx context.Context, s *spec, node string, token [16]byte) (*joined, dialOutcome)
}

func newDialer(r *resource) *dialer { return &dialer{r: r} }

func (l *dialer) outcome() dialOutcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

// want begins a series of attempts for w; one that is under way is replaced. It does not wait.
func (l *dialer) want(w *workerProc, why string) {
	s := l.r.current()
	if s.alone() {
		return
	}
	l.r.log.Debug("worker wants a connection", "why", why)
	ctx, cancel := context.WithCancel(context.Background())
	l.mu.Lock()
	if l.stop != nil {
		l.stop()
	}
	l.stop, l.last = cancel, dialOutcome{}
	first := l.pause
	l.pause = min(max(dialFirst, 2*l.pause), dialMost)
	l.wg.Add(1)
	l.mu.Unlock()
	go l.series(ctx, cancel, w, first)
}

// agreed notes that a handshake was completed: the next loss is answered at once.
func (l *dialer) agreed() { l.mu.Lock(); l.pause = 0; l.mu.Unlock() }

// cancel ends the series under way and forgets its outcome.
func (l *dialer) cancel() {
	l.mu.Lock()
	if l.stop != nil {
		l.stop()
		l.stop = nil
	}
	l.last, l.pause = dialOutcome{}, 0
	l.mu.Unlock()
}

// close ends everything and waits for it.
func (l *dialer) close() { l.cancel(); l.wg.Wait() }

func (l *dialer) series(ctx context.Context, cancel context.CancelFunc, w *workerProc, first time.Duration) {
	defer l.wg.Done()
	defer cancel()
	var told dialOutcome
	select {
	case <-time.After(first):
	case <-ctx.Done():
	case <-w.done:
	}
	for pause := dialFirst; ; pause = min(2*pause, dialMost) {
		out := l.attempt(ctx, w)
		if ctx.Err() != nil || w.gone() {
			return
		}
		l.mu.Lock()
		l.last = out
		l.mu.Unlock()
		l.r.poke()
		if out.kind == dialPassed {
			return
		}
		if out != told { // once for each new reason, not for each attempt
			s := l.r.current()
			l.r.log.Warn("no connection to the peer", "peer", s.peer, "reason", out.text)
			if out.kind == dialStranger {
				l.r.d.event(l.r, ipc.EventAuthFailed, out.text, map[string]string{ipc.FieldRemote: s.remote, ipc.FieldReason: ipc.ReasonKey})
			}
			told = out
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		case <-w.done:
			return
		}
	}
}

func (l *dialer) attempt(ctx context.Context, w *workerProc) dialOutcome {
	s := l.r.current()
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var token [16]byte
	rand.Read(token[:])
	j, out := l.r.d.link.dial(ctx, s, l.r.d.node, token)
	if j == nil {
		return out
	}
	if err := j.pass(w, true); err != nil {
		return dialOutcome{dialSilent, "the worker does not take the connection: " + err.Error()}
	}
	return dialOutcome{kind: dialPassed}
}

// pass hands the connections to w and closes the parent's copies: from here on
// no byte of them is read by root.
func (j *joined) pass(w *workerProc, initiator bool) error {
	defer ipc.CloseAll(j.files())
	m := &ipc.Message{
		Kind:  ipc.KindConnection,
		Files: []string{ipc.FileData, ipc.FileControl},
		Connection: &ipc.Connection{Initiator: initiator, Token: j.token[:], Preambles: j.preambles,
			Remote: j.remote},
	}
	return w.conn.Send(m, sendTimeout, j.files()...)
}
