package hastd

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"log/syslog"
	"os"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/journal"
)

// LevelRequests is what the second -d adds: a line for single requests and connections.
const LevelRequests = slog.LevelDebug - 4

// newLogger makes the daemon's log. where is "stderr", "journal", "syslog" or
// "auto": standard error in the foreground unless systemd reads it, then its journal, else syslog. debug counts -d.
func newLogger(where string, foreground bool, debug int) (*slog.Logger, error) {
	level := slog.LevelInfo
	switch {
	case debug == 1:
		level = slog.LevelDebug
	case debug > 1:
		level = LevelRequests
	}
	if where == "auto" {
		_, underSystemd := os.LookupEnv("JOURNAL_STREAM")
		switch {
		case foreground && !underSystemd:
			where = "stderr"
		case journal.Enabled():
			where = "journal"
		case foreground:
			where = "stderr"
		default:
			where = "syslog"
		}
	}
	var out func(slog.Level, string)
	switch where {
	case "stderr":
		out = writeTo(os.Stderr)
	case "journal":
		out = func(l slog.Level, line string) { journal.Send(line, journal.Priority(priority(l)), nil) }
	case "syslog":
		w, err := syslog.New(syslog.LOG_DAEMON|syslog.LOG_INFO, "hastd")
		if err != nil {
			return nil, fmt.Errorf("cannot log to syslog (set log = \"stderr\" or run with -F): %w", err)
		}
		out = toSyslog(w)
	default:
		return nil, fmt.Errorf("unknown log destination %q: use auto, stderr, journal or syslog", where)
	}
	return slog.New(&logHandler{level: level, out: out}), nil
}

// priority maps levels to syslog's.
func priority(l slog.Level) int {
	switch {
	case l >= slog.LevelError:
		return 3
	case l >= slog.LevelWarn:
		return 4
	case l >= slog.LevelInfo:
		return 6
	}
	return 7
}

func toSyslog(w *syslog.Writer) func(slog.Level, string) {
	return func(l slog.Level, line string) {
		switch priority(l) {
		case 3:
			w.Err(line)
		case 4:
			w.Warning(line)
		case 6:
			w.Info(line)
		default:
			w.Debug(line)
		}
	}
}

// writeTo prefixes lines with their level, as HAST does in the foreground.
func writeTo(w io.Writer) func(slog.Level, string) {
	var mu sync.Mutex
	return func(l slog.Level, line string) {
		prefix := "[INFO]"
		switch {
		case l >= slog.LevelError:
			prefix = "[ERROR]"
		case l >= slog.LevelWarn:
			prefix = "[WARNING]"
		case l <= LevelRequests:
			prefix = "[DEBUG][2]"
		case l <= slog.LevelDebug:
			prefix = "[DEBUG][1]"
		}
		mu.Lock()
		fmt.Fprintln(w, prefix, line)
		mu.Unlock()
	}
}

// logHandler writes HAST's form: [resource] (role) message, then what else is known.
type logHandler struct {
	level    slog.Level
	out      func(slog.Level, string)
	resource string
	role     string
	rest     string
}

func (h *logHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	if h.resource != "" {
		fmt.Fprintf(&b, "[%s] ", h.resource)
	}
	if h.role != "" {
		fmt.Fprintf(&b, "(%s) ", h.role)
	}
	b.WriteString(r.Message)
	b.WriteString(h.rest)
	r.Attrs(func(a slog.Attr) bool { appendAttr(&b, a); return true })
	// One event is one line, whatever a peer's or a hook's text contains.
	h.out(r.Level, strings.ReplaceAll(b.String(), "\n", " | "))
	return nil
}

func appendAttr(b *strings.Builder, a slog.Attr) {
	v := a.Value.Resolve().String()
	if v == "" || strings.ContainsAny(v, " \t\"=") {
		fmt.Fprintf(b, " %s=%q", a.Key, v)
		return
	}
	fmt.Fprintf(b, " %s=%s", a.Key, v)
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	var b strings.Builder
	for _, a := range attrs {
		switch a.Key {
		case "resource":
			c.resource = a.Value.String()
		case "role":
			c.role = a.Value.String()
		default:
			appendAttr(&b, a)
		}
	}
	c.rest += b.String()
	return &c
}

// WithGroup is not used by this program; groups are flattened.
func (h *logHandler) WithGroup(string) slog.Handler { return h }
