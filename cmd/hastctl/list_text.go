package main

import (
	"fmt"
	"io"
	"slices"
	"time"

	"hast/proto"
	"hast/proto/ctl"
)

// listText prints every field, indented "key: value" in HAST's manner and with HAST's
// keys where it has them. Fields that are unknown or don't apply are left out.
func listText(w io.Writer, r *ctl.StatusReply, now time.Time) {
	for i := range r.Resources {
		s := &r.Resources[i]
		fmt.Fprintf(w, "%s:\n", s.Name)
		l := lister{w: w, indent: "  "}
		l.general(s, now)
		l.config(s)
		l.copies(s, now)
		l.sync(s)
		l.statistics(s)
		l.queues(s)
		l.latency(s)
	}
}

// lister prints lines of one indentation.
type lister struct {
	w      io.Writer
	indent string
}

func (l *lister) line(key string, value any) { fmt.Fprintf(l.w, "%s%s: %v\n", l.indent, key, value) }

// some prints what is set.
func (l *lister) some(key, value string) {
	if value != "" {
		l.line(key, value)
	}
}

func (l *lister) id(key string, id proto.ID) {
	if !id.IsZero() {
		l.line(key, id)
	}
}

// in prints the lines of f below key.
func (l *lister) in(key string, f func(*lister)) {
	fmt.Fprintf(l.w, "%s%s:\n", l.indent, key)
	f(&lister{l.w, l.indent + "  "})
}

func (l *lister) general(s *ctl.ResourceStatus, now time.Time) {
	l.line("role", s.Role)
	l.line("state", s.State)
	l.line("status", s.Status)
	l.some("why", s.Why)
	l.some("pending", s.Pending)
	if s.Stale {
		l.line("stale", span(seconds(s.StaleSeconds)))
	}
	l.some("provname", s.Device)
	l.some("frontend", s.FrontEnd)
	l.line("node", s.Node)
	l.some("peer", s.Peer)
	if s.WorkerPID != 0 {
		l.line("workerpid", s.WorkerPID)
	}
	if h := s.Hook; h != nil {
		l.line("hook", fmt.Sprintf("%s %s, since %s", h.Event, h.Program, ago(h.StartedUnix, now)))
	}
}

func (l *lister) config(s *ctl.ResourceStatus) {
	l.line("localpath", s.Local)
	l.some("metadata", s.Metadata)
	if s.ExtentSizeBytes != 0 {
		l.line("datasize", exact(s.DataSizeBytes))
		l.line("extentsize", exact(s.ExtentSizeBytes))
		l.line("blocksize", s.BlockSizeBytes)
		l.line("keepdirty", s.HotExtents)
		l.line("hotextents", s.HotExtentsUsed)
	}
	l.line("remoteaddr", dash(s.Remote))
	l.some("sourceaddr", s.Source)
	l.line("replication", s.Mode)
	l.some("checksum", s.Checksum)
	l.some("compression", s.Compression)
	l.line("encrypted", s.Encrypted)
	l.some("onpeerloss", s.OnPeerLoss)
}

func (l *lister) copies(s *ctl.ResourceStatus, now time.Time) {
	l.some("link", s.Link)
	if s.LinkSinceUnix != 0 {
		l.line("linksince", ago(s.LinkSinceUnix, now))
	}
	if s.DegradedSinceUnix != 0 {
		l.line("degradedsince", ago(s.DegradedSinceUnix, now))
	}
	l.line("dirty", exact(s.DirtyBytes))
	l.some("data", s.Data)
	l.some("peerdata", s.PeerData)
	l.some("localerror", s.LocalError)
	if s.LocalErrorUnix != 0 {
		l.line("localerrorsince", ago(s.LocalErrorUnix, now))
	}
	if s.LocalLost {
		l.line("locallost", true)
	}
	l.some("peererror", s.PeerError)
	if s.PeerErrorUnix != 0 {
		l.line("peererrorsince", ago(s.PeerErrorUnix, now))
	}
	if s.DiskWaitSeconds >= 1 {
		l.line("diskwait", span(seconds(s.DiskWaitSeconds)))
	}
	if s.PeerWaitSeconds >= 1 {
		l.line("peerwait", span(seconds(s.PeerWaitSeconds)))
	}
	l.id("resuid", s.Resource)
	l.id("generation", s.Current)
	l.id("base", s.Base)
	if s.Epoch.Number != 0 {
		l.line("epoch", s.Epoch)
	}
	if s.Forced {
		l.line("forced", true)
	}
}

func (l *lister) sync(s *ctl.ResourceStatus) {
	y := s.Sync
	if y == nil {
		return
	}
	l.in("sync", func(l *lister) {
		way := "from peer"
		if y.Source {
			way = "to peer"
		}
		l.line("direction", way)
		l.line("percent", fmt.Sprintf("%.1f", y.Percent))
		l.line("total", exact(y.TotalBytes))
		l.line("done", exact(y.DoneBytes))
		l.line("moved", exact(y.MovedBytes))
		l.line("left", exact(y.LeftBytes))
		l.line("rate", size(y.RateBytes)+"/s")
		if y.SecondsLeft != nil {
			l.line("timeleft", span(time.Duration(*y.SecondsLeft)*time.Second))
		}
		if y.StartedUnix != 0 {
			l.line("started", stamp(y.StartedUnix))
		}
	})
}

func (l *lister) statistics(s *ctl.ResourceStatus) {
	c := s.Counters
	if c == nil {
		return
	}
	l.in("statistics", func(l *lister) {
		l.line("reads", fmt.Sprintf("%d, %s", c.Reads, size(c.ReadBytes)))
		l.line("writes", fmt.Sprintf("%d, %s", c.Writes, size(c.WriteBytes)))
		l.line("deletes", fmt.Sprintf("%d, %s", c.Zeroes, size(c.ZeroBytes)))
		l.line("flushes", c.Flushes)
		l.line("activemap updates", c.MapUpdates)
		l.line("metadata writes", c.MetaWrites)
		l.line("local errors", fmt.Sprintf("read: %d, write: %d, flush: %d", c.LocalReadErrors, c.LocalWriteErrors, c.LocalFlushErrors))
		l.line("remote errors", fmt.Sprintf("read: %d, write: %d, flush: %d", c.RemoteReadErrors, c.RemoteWriteErrors, c.RemoteFlushErrors))
		l.line("remote reads", c.RemoteReads)
		l.line("read repairs", c.ReadRepairs)
		l.line("synced", fmt.Sprintf("%s, equal: %s, zero: %s", size(c.SyncBytes), size(c.SyncEqualBytes), size(c.SyncZeroBytes)))
		l.line("sent", exact(s.SentBytes))
		l.line("received", exact(s.ReceivedBytes))
	})
}

func (l *lister) queues(s *ctl.ResourceStatus) {
	if q := s.Queues; q != nil {
		l.line("queues", fmt.Sprintf("inflight: %d, waiting: %d, frozen: %d", q.InFlight, q.Waiting, q.Frozen))
	}
}

func (l *lister) latency(s *ctl.ResourceStatus) {
	if !slices.ContainsFunc(s.Latency, func(t ctl.Latency) bool { return t.Count > 0 }) {
		return
	}
	l.in("latency", func(l *lister) {
		for _, t := range s.Latency {
			if t.Count == 0 {
				continue
			}
			l.line(t.Stage, fmt.Sprintf("%d times, half within %s, 99 %% within %s, longest %s", t.Count, micros(t.P50), micros(t.P99), micros(t.Max)))
		}
	})
}
