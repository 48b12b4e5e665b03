package hastd

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
)

// TestLogLines: the level, the resource and the role stand first, as with HAST, and one event is one line.
func TestLogLines(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(&logHandler{level: LevelRequests, out: writeTo(&b)})
	data := log.With("resource", "data")
	worker := data.With("role", "primary", "pid", 7)
	log.Error("an error", "err", "two words")
	log.Warn("a warning")
	data.Info("news\nof two lines", "peer", "hb2")
	worker.Debug("detail", "empty", "")
	worker.Log(context.Background(), LevelRequests, "one request")
	want := `[ERROR] an error err="two words"
[WARNING] a warning
[INFO] [data] news | of two lines peer=hb2
[DEBUG][1] [data] (primary) detail pid=7 empty=""
[DEBUG][2] [data] (primary) one request pid=7
`
	if got := b.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestLogLevels: each -d shows one level more, and syslog is told the same severities.
func TestLogLevels(t *testing.T) {
	levels := []slog.Level{slog.LevelError, slog.LevelWarn, slog.LevelInfo, slog.LevelDebug, LevelRequests}
	for debug, shown := range []int{3, 4, 5, 5} {
		log, err := newLogger("stderr", true, debug)
		if err != nil {
			t.Fatal(err)
		}
		for i, l := range levels {
			if got := log.Enabled(t.Context(), l); got != (i < shown) {
				t.Errorf("-d %d times: level %v shown: %v", debug, l, got)
			}
		}
	}
	for i, want := range []int{3, 4, 6, 7, 7} {
		if got := priority(levels[i]); got != want {
			t.Errorf("level %v has priority %d, want %d", levels[i], got, want)
		}
	}
	if _, err := newLogger("paper", true, 0); err == nil || !strings.Contains(err.Error(), "journal") {
		t.Errorf("an unknown destination: %v", err)
	}
}
