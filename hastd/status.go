package hastd

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"hast/hastd/worker/ipc"
	"hast/hastd/worker/lease"
	"hast/proto"
	"hast/proto/ctl"
)

// status asks the worker, for at most askTimeout, and says what is known.
func (r *resource) status(ctx context.Context) ctl.ResourceStatus {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	asked := time.Now()
	if w := r.proc(); w != nil {
		w.refresh(ctx)
	}
	return r.describe(asked)
}

// describe tells what is known without asking anybody; state older than asked is marked stale.
func (r *resource) describe(asked time.Time) ctl.ResourceStatus {
	r.mu.Lock()
	s, w := r.spec, r.worker
	out := ctl.ResourceStatus{
		Name: s.name, Role: r.role, Why: r.why, Pending: r.phase, Device: r.device,
		Node: r.d.node, Peer: s.peer, Mode: s.settings.Mode, Checksum: s.settings.Checksum, Compression: s.settings.Compression,
		Encrypted: s.settings.Encrypt, OnPeerLoss: "continue", FrontEnd: s.front, Local: s.local, Metadata: s.meta,
		Remote: s.remote, Source: s.source,
	}
	failed := r.why != "" && w == nil
	r.mu.Unlock()
	if s.settings.Freeze {
		out.OnPeerLoss = "freeze"
	}
	if s.alone() {
		out.Remote = "none"
	}
	facts := ctl.Facts{Role: out.Role, Failed: failed}
	if w != nil {
		r.addWorker(&out, &facts, w, asked)
	}
	out.State = ctl.StateOf(facts)
	out.Status = out.State.HAST()
	if out.Why == "" && out.State == ctl.StateConnecting {
		out.Why = r.dials.outcome().text
	}
	out.Hook = r.d.hooks.running(s)
	return out
}

// addWorker adds what w told.
func (r *resource) addWorker(out *ctl.ResourceStatus, facts *ctl.Facts, w *workerProc, asked time.Time) {
	st, heard := w.snapshot()
	out.WorkerPID = w.pid
	if heard.Before(asked) {
		out.Stale = true
		if !heard.IsZero() {
			out.StaleSeconds = time.Since(heard).Seconds()
		}
	}
	if heard.IsZero() {
		return
	}
	fillState(out, &st)
	facts.Link, facts.Promoted, facts.Frozen, facts.Syncing = st.Link, st.Promoted, st.Frozen, st.Syncing
	facts.OneCopy = st.LocalLost || st.PeerFailed != "" || st.PeerData == proto.DataInconsistent.String() && !st.Syncing
	if text := whyOf(&st, r.dials.outcome().text); text != "" {
		out.Why = text
	}
	if ctl.StateOf(*facts) == ctl.StateDegraded && st.Since != 0 {
		out.DegradedSinceUnix = wallOf(st.Since)
	}
}

// whyOf puts together what keeps the service from working, and why there is no peer. dial is what the latest
// attempt to reach it brought: later news than how the connection was lost, or than a handshake before it.
func whyOf(st *ipc.State, dial string) string {
	link := st.Why
	if st.Handshake != "" {
		link = st.Handshake
	}
	if dial != "" && (st.Link == "connecting" || st.Link == "refused" && link == "") {
		link = dial
	}
	if st.Trouble == "" || link == "" {
		return st.Trouble + link
	}
	return st.Trouble + ". " + link
}

// wallOf turns a CLOCK_BOOTTIME instant into unix seconds.
func wallOf(boot int64) int64 {
	return time.Now().Add(-time.Duration(lease.Now() - boot)).Unix()
}

// fillState copies a worker's state into the form of the control protocol.
func fillState(out *ctl.ResourceStatus, st *ipc.State) {
	out.Data, out.PeerData = st.Data, st.PeerData
	out.DataSizeBytes, out.ExtentSizeBytes, out.BlockSizeBytes = uint64(st.DataSize), uint64(st.ExtentSize), st.Logical
	out.HotExtents, out.HotExtentsUsed = st.HotExtentsMax, st.HotExtents
	out.Resource, out.Current, out.Base, out.Epoch, out.Forced = st.Resource, st.Current, st.Base, st.Epoch, st.Forced
	out.Link, out.DirtyBytes, out.LocalLost, out.PeerError = st.Link, st.DirtyBytes, st.LocalLost, st.PeerFailed
	if st.Since != 0 {
		out.LinkSinceUnix = wallOf(st.Since)
	}
	if out.LocalError = st.LocalError; st.LocalErrorAt != 0 {
		out.LocalErrorUnix = wallOf(st.LocalErrorAt)
	}
	if st.PeerFailedAt != 0 {
		out.PeerErrorUnix = wallOf(st.PeerFailedAt)
	}
	out.DiskWaitSeconds, out.PeerWaitSeconds = time.Duration(st.DiskAge).Seconds(), time.Duration(st.PeerWait).Seconds()
	if st.Syncing {
		elapsed := time.Duration(lease.Now() - st.SyncStarted).Seconds()
		out.Sync = ctl.NewSync(st.SyncSource, st.SyncTotal, st.SyncDone, st.SyncMoved, elapsed, wallOf(st.SyncStarted))
	}
	out.Queues = &ctl.Queues{InFlight: st.InFlight, Waiting: st.Waiting, Frozen: st.FrozenCount}
	c := ctl.Counters(st.Counters)
	out.Counters = &c
	out.SentBytes, out.ReceivedBytes = st.SentBytes, st.ReceivedBytes
	for _, stage := range slices.Sorted(maps.Keys(st.Latency)) {
		l := st.Latency[stage]
		_, name, _ := strings.Cut(stage, ".") // "1.local": the number is the order
		if name == "" {
			name = stage
		}
		out.Latency = append(out.Latency, ctl.Latency{Stage: name, Count: l.Count, P50: l.P50, P99: l.P99, Max: l.Max})
	}
}
