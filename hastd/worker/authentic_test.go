package worker

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"hast/hastd/peer"
	"hast/hastd/worker/ipc"
)

func TestFailuresAreToldOncePerEpisode(t *testing.T) {
	var f failures
	now := time.Unix(1e9, 0)
	keys := fmt.Errorf("handshake with b for r: %w (remote error: tls: bad certificate)", peer.ErrKeys)
	step := func(err error, after time.Duration, told bool, shown string) {
		t.Helper()
		now = now.Add(after)
		got, reason := f.add(err, now)
		if (got != "") != told {
			t.Errorf("log line %q after %v", got, err)
		}
		want := ""
		switch {
		case told && errors.Is(err, peer.ErrKeys):
			want = ipc.ReasonKey
		case told && errors.Is(err, peer.ErrEncrypt):
			want = ipc.ReasonEncrypt
		}
		if reason != want {
			t.Errorf("reason %q after %v, want %q", reason, err, want)
		}
		if got := f.current(now); !strings.Contains(got, shown) {
			t.Errorf("shown: %q, want %q", got, shown)
		}
	}
	step(keys, 0, true, "does not have the same key")
	if strings.Contains(f.current(now), "certificate") {
		t.Errorf("the peer's own words are shown: %q", f.current(now))
	}
	for range 100 {
		step(keys, 10*time.Second, false, "does not have the same key")
	}
	step(errors.New("read: port 1: connection reset"), time.Second, true, "port 1")
	step(errors.New("read: port 2: connection reset"), time.Second, false, "port 2")
	step(fmt.Errorf("x: %w", peer.ErrEncrypt), time.Second, true, "encrypts")
	step(keys, time.Second, false, "same key")
	f.succeeded()
	if got := f.current(now); got != "" {
		t.Errorf("after a success: %q", got)
	}
	step(keys, time.Second, true, "same key")
	if got := f.current(now.Add(failureMemory + time.Second)); got != "" {
		t.Errorf("still shown when nobody tries any more: %q", got)
	}
	step(keys, failureMemory+time.Second, true, "same key")
}
