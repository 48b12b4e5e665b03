package hastd

import (
	"sync"
	"time"
)

// event is one thing that happened, as hastctl events shows it.
type event struct {
	id       uint64 // from 1, without gaps, in the order of happening
	at       time.Time
	resource string // "" for the daemon's own
	name     string
	text     string
	fields   map[string]string
}

const (
	// keptEvents is how far back a reader can ask: an hour of a busy failover.
	keptEvents = 1024
	// readerQueue is how far a reader may fall behind before it is dropped (rule 15).
	readerQueue = 256
)

// eventLog keeps the latest events and passes new ones on. Adding never waits for a reader.
type eventLog struct {
	mu      sync.Mutex
	next    uint64
	ring    [keptEvents]event
	readers map[chan event]struct{}
}

func newEventLog() *eventLog { return &eventLog{next: 1, readers: make(map[chan event]struct{})} }

// add numbers e and returns its number.
func (l *eventLog) add(e event) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.id = l.next
	l.next++
	l.ring[e.id%keptEvents] = e
	for ch := range l.readers {
		select {
		case ch <- e:
		default:
			// A reader that does not read is told by the end of its stream.
			delete(l.readers, ch)
			close(ch)
		}
	}
	return e.id
}

// subscribe returns the kept events after since, and a channel for the ones that follow. The
// channel is closed when the reader falls too far behind, or by cancel.
func (l *eventLog) subscribe(since uint64) (old []event, ch chan event, cancel func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first := since + 1
	if l.next > keptEvents {
		first = max(first, l.next-keptEvents)
	}
	for id := first; id < l.next; id++ {
		old = append(old, l.ring[id%keptEvents])
	}
	ch = make(chan event, readerQueue)
	l.readers[ch] = struct{}{}
	return old, ch, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if _, ok := l.readers[ch]; ok {
			delete(l.readers, ch)
			close(ch)
		}
	}
}

// last returns the number of the newest event, 0 before the first.
func (l *eventLog) last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next - 1
}
