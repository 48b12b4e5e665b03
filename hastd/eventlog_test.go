package hastd

import "testing"

func TestEventLogKeepsOrderAndDropsSlowReaders(t *testing.T) {
	l := newEventLog()
	for range keptEvents + 10 {
		l.add(event{name: "x"})
	}
	old, ch, cancel := l.subscribe(0)
	defer cancel()
	if len(old) != keptEvents || old[0].id != 11 || old[len(old)-1].id != keptEvents+10 {
		t.Fatalf("got %d events from %d to %d", len(old), old[0].id, old[len(old)-1].id)
	}
	if again, _, c := l.subscribe(keptEvents + 8); len(again) != 2 {
		t.Fatalf("since %d gave %d events, want 2", keptEvents+8, len(again))
	} else {
		c()
		c() // harmless
	}
	for range readerQueue + 1 {
		l.add(event{name: "y"})
	}
	n, want := 0, uint64(keptEvents+11)
	for e := range ch { // ends because the log closed it
		if e.id != want {
			t.Fatalf("event %d where %d was due", e.id, want)
		}
		n, want = n+1, want+1
	}
	if n != readerQueue {
		t.Fatalf("%d events before the drop, want %d", n, readerQueue)
	}
}
