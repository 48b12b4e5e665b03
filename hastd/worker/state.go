package worker

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"hast/hastd/engine"
	"hast/hastd/replica"
	"hast/hastd/worker/ipc"
	"hast/proto"
)

// stalled is from when on a request to a disk, or to the peer, is worth telling people: longer than a busy disk takes, and shorter than
// the half minute after which the kernel begins to reset things.
const stalled = 10 * time.Second

// state describes the worker as of now.
func (w *worker) state() ipc.State {
	r := w.eng.Status()
	s := ipc.State{
		Promoted: r.Promoted, Link: r.Link.String(), Why: r.Why, Frozen: r.Frozen,
		Data: r.Data.String(), PeerNode: r.PeerNode.String(), Mode: r.Mode.String(),
		Epoch: r.Epoch, Resource: r.Resource, Current: r.Current, Base: r.Base,
		DirtyBytes: r.DirtyBytes, Since: w.machineTime(int64(r.Since)),
		Syncing: r.Syncing, SyncSource: r.SyncSource, SyncTotal: r.SyncTotal, SyncDone: r.SyncDone, SyncMoved: r.SyncMoved,
		SyncStarted: w.machineTime(int64(r.SyncStarted)),
		PeerPrimary: r.PeerRole == proto.RolePrimary,
		LocalLost:   r.LocalLost, Forced: r.Forced, PeerFailed: r.PeerFailed,
		PeerFailedAt: w.machineTime(int64(r.PeerFailAt)), LocalError: r.LocalError, LocalErrorAt: w.machineTime(int64(r.LocalErrAt)),
		HotExtents: r.HotExtents, InFlight: r.InFlight, Waiting: r.Waiting, FrozenCount: r.FrozenCount,
		Counters: ipc.Counters(r.Counters),
		DataSize: w.super.DataSize, ExtentSize: w.super.ExtentSize, Logical: w.super.Logical, HotExtentsMax: w.super.HotExtents,
		UID: os.Getuid(),
	}
	if r.PeerData.Valid() {
		s.PeerData = r.PeerData.String()
	}
	s.DiskAge, s.PeerWait = int64(w.eng.Oldest()), int64(r.PeerWait)
	leased := w.eng.Leased()
	s.Frozen = s.Frozen || !leased
	s.Trouble = trouble(&s, r.Trouble, leased)
	w.mu.Lock()
	if r.Link == replica.LinkConnecting || r.Link == replica.LinkWaiting {
		s.Handshake = w.failed.current(time.Now())
	}
	s.Serving = w.front != nil
	w.mu.Unlock()
	s.SentBytes, s.ReceivedBytes = w.eng.LinkBytes()
	local, remote, total := w.eng.Latency()
	s.Latency = map[string]ipc.Latency{"1.local": latency(local), "2.remote": latency(remote), "3.total": latency(total)}
	return s
}

// trouble puts together what keeps application I/O waiting, or from being done: machine is what the machine says of it.
func trouble(s *ipc.State, machine string, leased bool) string {
	var all []string
	if !leased {
		all = append(all, "the parent process does not renew the role lease: is hastd stopped or stuck")
	}
	if machine != "" {
		all = append(all, machine)
	}
	if text := diskStall(s); text != "" {
		all = append(all, text)
	}
	if text := peerStall(s); text != "" {
		all = append(all, text)
	}
	return strings.Join(all, ". ")
}

func diskStall(s *ipc.State) string {
	if s.DiskAge <= int64(stalled) {
		return ""
	}
	return fmt.Sprintf("the local disk has had a request for more than %s without an end: what needs it waits", stalled)
}

func peerStall(s *ipc.State) string {
	if s.PeerWait <= int64(stalled) {
		return ""
	}
	return fmt.Sprintf("%s is connected, but has not answered a request for more than %s, and the application waits for it: see hastctl status there, its disk may be slow or hang", s.PeerNode, stalled)
}

func latency(h *engine.Histogram) ipc.Latency {
	n, p50, p99, longest := h.Summary()
	return ipc.Latency{Count: n, P50: int64(p50), P99: int64(p99), Max: int64(longest)}
}

// tellChange sends the state if something that the parent decides on, or people look for, has changed.
func (w *worker) tellChange() {
	s := w.state()
	t := &w.told
	w.noteStall(&w.diskStalled, diskStall(&s), s.DiskAge, ipc.DiskLocal, "the local disk answers again")
	w.noteStall(&w.peerStalled, peerStall(&s), s.PeerWait, ipc.DiskPeer, "nothing waits for the peer any more")
	if s.Promoted == t.Promoted && s.Link == t.Link && s.Why == t.Why && s.Trouble == t.Trouble && s.Frozen == t.Frozen && s.Serving == t.Serving && s.Data == t.Data && s.Handshake == t.Handshake &&
		s.LocalError == t.LocalError && s.PeerFailed == t.PeerFailed {
		return
	}
	*t = s
	w.out.put(&ipc.Message{Kind: ipc.KindState, State: &s})
}

// noteStall tells the beginning and the end of a stall, once each. age is how long the oldest request has waited, in ns.
func (w *worker) noteStall(since *time.Time, text string, age int64, disk, over string) {
	switch {
	case text != "" && since.IsZero():
		*since = time.Now().Add(-time.Duration(age))
		w.event(ipc.EventStall, text, map[string]string{ipc.FieldDisk: disk})
	case text == "" && !since.IsZero():
		waited := strconv.Itoa(int(time.Since(*since).Seconds()))
		*since = time.Time{}
		w.event(ipc.EventStallEnd, over, map[string]string{ipc.FieldDisk: disk, ipc.FieldSeconds: waited})
	}
}

// event tells what the worker itself has noticed: a line of the log, and an event.
func (w *worker) event(name, text string, fields map[string]string) {
	w.out.put(&ipc.Message{Kind: ipc.KindReport, Report: &ipc.Report{Event: name, Text: text, Fields: fields}})
}

// report passes a transition on. The engine calls it from any goroutine.
func (w *worker) report(r replica.Report) {
	w.out.put(&ipc.Message{Kind: ipc.KindReport, Report: &ipc.Report{Event: r.Kind.String(), Text: r.Text, Bytes: r.Bytes}})
}

// wantPeer asks for a connection.
func (w *worker) wantPeer(why string) {
	w.out.put(&ipc.Message{Kind: ipc.KindConnect, Text: why})
}
