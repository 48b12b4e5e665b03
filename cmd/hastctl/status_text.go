package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"hast/proto"
	"hast/proto/ctl"
)

// statusText prints a table in HAST's manner: Name, Status, Role and Components as there, and between them State, the
// word that tells apart what HAST calls degraded. Below a line is what is not normal with its resource.
func statusText(w io.Writer, r *ctl.StatusReply, now time.Time) {
	if len(r.Resources) == 0 {
		return
	}
	// The details must not widen the columns, so the table is laid out as a whole first.
	rows := table(r.Resources)
	fmt.Fprintln(w, rows[0])
	for i := range r.Resources {
		fmt.Fprintln(w, rows[i+1])
		for _, d := range details(&r.Resources[i], now) {
			fmt.Fprintln(w, "  "+d)
		}
	}
}

// table returns the header and one line for each resource.
func table(list []ctl.ResourceStatus) []string {
	var b lineBuffer
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "Name\tStatus\tRole\tState\tComponents")
	for i := range list {
		s := &list[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s  %s\n", s.Name, s.Status, s.Role, s.State, s.Local, dash(s.Remote))
	}
	t.Flush()
	return b.lines()
}

// details says what is not normal, the most urgent first.
func details(s *ctl.ResourceStatus, now time.Time) (out []string) {
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if s.Stale && s.StaleSeconds > 0 {
		say("the worker does not answer; this is how it was %s ago", span(seconds(s.StaleSeconds)))
	} else if s.Stale {
		say("the worker does not answer")
	}
	if s.Pending != "" {
		say("changing role: %s", s.Pending)
	}
	stateDetails(s, now, say)
	dataDetails(s, now, say)
	if c := s.Counters; c != nil {
		errorDetails("this node", c.LocalReadErrors, c.LocalWriteErrors, c.LocalFlushErrors, say)
		errorDetails("the peer", c.RemoteReadErrors, c.RemoteWriteErrors, c.RemoteFlushErrors, say)
	}
	if h := s.Hook; h != nil {
		say("hook %s (%s) has been running for %s", h.Event, h.Program, span(now.Sub(time.Unix(h.StartedUnix, 0))))
	}
	return out
}

// stateDetails explains the word in the State column.
func stateDetails(s *ctl.ResourceStatus, now time.Time, say func(string, ...any)) {
	switch s.State {
	case ctl.StateSplitBrain:
		splitBrain(s, say)
		return
	case ctl.StateSyncing:
		syncDetails(s, say)
	case ctl.StateFrozen:
		waiting := 0
		if s.Queues != nil {
			waiting = s.Queues.Frozen
		}
		why, more, _ := strings.Cut(dash(s.Why), ". ")
		verb := "wait"
		if waiting == 1 {
			verb = "waits"
		}
		say("I/O is frozen, %s %s: %s", plural(waiting, "request"), verb, why)
		sayLines(more, say)
		return
	case ctl.StateDegraded:
		if s.Remote == "none" {
			say("no peer is configured: this node runs alone; %s are marked for one", size(s.DirtyBytes))
			break
		}
		since := ""
		if s.DegradedSinceUnix != 0 {
			since = " since " + ago(s.DegradedSinceUnix, now)
		}
		say("one copy only%s; %s differ", since, size(s.DirtyBytes))
	}
	sayLines(s.Why, say)
	if s.State == ctl.StateStopped {
		say("when that is put right: hastctl role primary|secondary %s", s.Name)
	}
}

// sayLines gives each sentence a line.
func sayLines(text string, say func(string, ...any)) {
	for rest := text; rest != ""; {
		var line string
		line, rest, _ = strings.Cut(rest, ". ")
		say("%s", line)
	}
}

// sentences breaks a long explanation into lines.
var sentences = strings.NewReplacer("; ", "\n", ". ", "\n")

// splitBrain tells who wrote and how to go on. The daemon's sentence has both nodes' sides
// if the handshake got so far, and the commands; where it is missing they are said here.
func splitBrain(s *ctl.ResourceStatus, say func(string, ...any)) {
	if s.Why != "" {
		for line := range strings.Lines(sentences.Replace(s.Why)) {
			say("%s", strings.TrimSpace(line))
		}
		return
	}
	say("both nodes have written apart (%s marked here); nothing is overwritten", size(s.DirtyBytes))
	say("on the node whose writes are to be discarded: hastctl role init %[1]s && hastctl create --force %[1]s && hastctl role secondary %[1]s", s.Name)
}

func syncDetails(s *ctl.ResourceStatus, say func(string, ...any)) {
	y := s.Sync
	if y == nil {
		return
	}
	way := "from"
	if y.Source {
		way = "to"
	}
	left := "time left unknown"
	if y.SecondsLeft != nil {
		left = span(time.Duration(*y.SecondsLeft)*time.Second) + " left"
	}
	peer := s.Peer
	if peer == "" {
		peer = "the peer"
	}
	say("sync %s %s: %.1f %%, %s of %s, %s/s, %s", way, peer, y.Percent, size(y.DoneBytes), size(y.TotalBytes), size(y.RateBytes), left)
}

// dataDetails tells of copies that are not up to date, and what has been done to them.
func dataDetails(s *ctl.ResourceStatus, now time.Time, say func(string, ...any)) {
	best := proto.DataUpToDate.String()
	if s.Data != "" && s.Data != best || s.PeerData != "" && s.PeerData != best {
		say("data: %s here, %s on the peer", known(s.Data), known(s.PeerData))
	}
	if s.LocalLost {
		say("the local copy is out; I/O goes to the peer alone. Move the users to the peer, then run here:")
		say("hastctl role init %[1]s, replace %[2]s, hastctl create %[1]s, hastctl role secondary %[1]s", s.Name, s.Local)
	}
	if s.LocalError != "" {
		say("local disk: %s%s", s.LocalError, when(s.LocalErrorUnix, now))
	}
	if s.PeerError != "" {
		say("peer's disk: %s%s", s.PeerError, when(s.PeerErrorUnix, now))
	}
	if s.Forced {
		say("promoted with --force in this generation: the peer may have writes that this copy lacks")
	}
}

// when says when something happened, if that is known.
func when(unix int64, now time.Time) string {
	if unix == 0 {
		return ""
	}
	return ", " + ago(unix, now)
}

func known(data string) string {
	if data == "" {
		return "unknown"
	}
	return data
}

func errorDetails(where string, read, write, flush uint64, say func(string, ...any)) {
	if read+write+flush > 0 {
		say("disk errors on %s: %s, %s, %s", where, plural(read, "read"), plural(write, "write"), plurals(flush, "flush", "flushes"))
	}
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// lineBuffer collects text and gives it back by lines.
type lineBuffer struct{ text []byte }

func (b *lineBuffer) Write(p []byte) (int, error) { b.text = append(b.text, p...); return len(p), nil }

func (b *lineBuffer) lines() (out []string) {
	start := 0
	for i, c := range b.text {
		if c == '\n' {
			out = append(out, string(b.text[start:i]))
			start = i + 1
		}
	}
	return out
}
