package worker

import (
	"fmt"
	"os"
	"time"

	"hast/hastd/engine"
	"hast/hastd/replica"
	"hast/hastd/worker/ipc"
	"hast/proto"
)

// diskStalled is from when on a disk operation is worth telling people: longer than a busy disk takes, and shorter than
// the half minute after which the kernel begins to reset things.
const diskStalled = 10 * time.Second

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
		HotExtents: r.HotExtents, InFlight: r.InFlight, Waiting: r.Waiting, FrozenCount: r.FrozenCount,
		Counters: ipc.Counters(r.Counters),
		DataSize: w.super.DataSize, ExtentSize: w.super.ExtentSize, Logical: w.super.Logical, HotExtentsMax: w.super.HotExtents,
		UID: os.Getuid(),
	}
	if r.PeerData.Valid() {
		s.PeerData = r.PeerData.String()
	}
	if !w.eng.Leased() {
		s.Frozen, s.Why = true, "the parent process does not renew the role lease: is hastd stopped or stuck?"
	}
	age := w.eng.Oldest()
	s.DiskAge = int64(age)
	if s.Why == "" && age > diskStalled {
		s.Why = fmt.Sprintf("the local disk has had a request for more than %s without an end", diskStalled)
	}
	w.mu.Lock()
	if r.Link == replica.LinkConnecting || r.Link == replica.LinkWaiting {
		s.Handshake = w.failed.current(time.Now())
	}
	s.Serving = w.front != nil
	w.mu.Unlock()
	s.Why = whyWithout(&s)
	s.SentBytes, s.ReceivedBytes = w.eng.LinkBytes()
	local, remote, total := w.eng.Latency()
	s.Latency = map[string]ipc.Latency{"1.local": latency(local), "2.remote": latency(remote), "3.total": latency(total)}
	return s
}

// whyWithout adds why there is no peer, which is later news than how the last one was lost.
func whyWithout(s *ipc.State) string {
	switch {
	case s.Handshake == "":
		return s.Why
	case s.Frozen && s.Why != "":
		return s.Why + ". " + s.Handshake
	}
	return s.Handshake
}

func latency(h *engine.Histogram) ipc.Latency {
	n, p50, p99, longest := h.Summary()
	return ipc.Latency{Count: n, P50: int64(p50), P99: int64(p99), Max: int64(longest)}
}

// tellChange sends the state if something that the parent decides on, or people look for, has changed.
func (w *worker) tellChange() {
	s := w.state()
	t := &w.told
	if s.Promoted == t.Promoted && s.Link == t.Link && s.Why == t.Why && s.Frozen == t.Frozen && s.Serving == t.Serving && s.Data == t.Data && s.Handshake == t.Handshake {
		return
	}
	*t = s
	w.out.put(&ipc.Message{Kind: ipc.KindState, State: &s})
}

// report passes a transition on. The engine calls it from any goroutine.
func (w *worker) report(r replica.Report) {
	w.out.put(&ipc.Message{Kind: ipc.KindReport, Report: &ipc.Report{Event: r.Kind.String(), Text: r.Text, Bytes: r.Bytes}})
}

// wantPeer asks for a connection.
func (w *worker) wantPeer(why string) {
	w.out.put(&ipc.Message{Kind: ipc.KindConnect, Text: why})
}
