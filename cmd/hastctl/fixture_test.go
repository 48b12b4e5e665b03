package main

import (
	"os"
	"testing"
	"time"

	"hast/proto"
	"hast/proto/ctl"
)

func init() { time.Local = time.UTC } // golden files hold local times

const begun = 1_795_000_000 // unix seconds; "now" in the golden files is an hour later

func at() time.Time { return time.Unix(begun+3600, 0) }

// normal is a primary without trouble.
func normal() ctl.ResourceStatus {
	return ctl.ResourceStatus{
		Name: "data", Role: proto.RolePrimary, State: ctl.StateConnected, Node: "hb1", Peer: "hb2",
		Data: "uptodate", PeerData: "uptodate", Mode: proto.ModeFullsync, Checksum: "crc32c", Compression: "hole",
		Encrypted: true, OnPeerLoss: "continue", FrontEnd: "fuse", Device: "/dev/hast/data", Local: "/dev/sdb1", Remote: "10.0.0.2:8457",
		DataSizeBytes: 64 << 30, ExtentSizeBytes: 2 << 20, BlockSizeBytes: 4096, HotExtents: 512, HotExtentsUsed: 17,
		Resource: proto.IDFromWords(1, 2), Current: proto.IDFromWords(3, 4), Epoch: proto.Epoch{Number: 7, Node: proto.MakeNode("hb1")},
		Link: "connected", LinkSinceUnix: begun, DirtyBytes: 8192, WorkerPID: 4711,
		Queues: &ctl.Queues{InFlight: 3, Waiting: 1},
		Counters: &ctl.Counters{Reads: 10, Writes: 20, Zeroes: 1, Flushes: 5, ReadBytes: 40960, WriteBytes: 5 << 20, ZeroBytes: 1 << 20,
			MapUpdates: 9, MetaWrites: 12, SyncBytes: 3 << 30, SyncEqualBytes: 1 << 30, SyncZeroBytes: 4096},
		Latency:   []ctl.Latency{{Stage: "local", Count: 20, P50: 41_000, P99: 180_500, Max: 2_000_000}, {Stage: "remote", Count: 20, P50: 95_000, P99: 300_000, Max: 9_000_000}},
		SentBytes: 6 << 20, ReceivedBytes: 900,
	}
}

// cases are the states that status has to tell apart.
var cases = map[string]func(*ctl.ResourceStatus){
	"connected": func(*ctl.ResourceStatus) {},
	"init": func(s *ctl.ResourceStatus) {
		*s = ctl.ResourceStatus{Name: s.Name, Role: proto.RoleInit, State: ctl.StateInit, Node: "hb1", Mode: proto.ModeAsync, Local: s.Local, Remote: "none"}
	},
	"waiting": func(s *ctl.ResourceStatus) {
		s.Role, s.State, s.Link, s.Data, s.PeerData, s.Device = proto.RoleSecondary, ctl.StateWaiting, "waiting", "consistent", "", ""
	},
	"promoting": func(s *ctl.ResourceStatus) {
		s.State, s.Pending, s.Link, s.PeerData, s.Device = ctl.StateConnecting, "asking the peer", "connecting", "", ""
		s.Why = "10.0.0.2:8457: connection refused"
	},
	"handshake": func(s *ctl.ResourceStatus) { s.State, s.Link = ctl.StateHandshake, "handshake" },
	"syncing": func(s *ctl.ResourceStatus) {
		s.State, s.PeerData = ctl.StateSyncing, "inconsistent"
		s.Sync = ctl.NewSync(true, 32<<30, 12<<30, 11<<30, 110, begun)
	},
	"syncing-target": func(s *ctl.ResourceStatus) {
		s.Role, s.State, s.Data, s.Peer, s.Device = proto.RoleSecondary, ctl.StateSyncing, "inconsistent", "", ""
		s.Sync = ctl.NewSync(false, 1<<20, 0, 0, 0, begun)
	},
	"degraded": func(s *ctl.ResourceStatus) {
		s.State, s.Link, s.DirtyBytes, s.DegradedSinceUnix, s.PeerData = ctl.StateDegraded, "connecting", 1288490188, begun+240, "outdated"
		s.Why, s.Forced = "10.0.0.2:8457: no route to host", true
	},
	"alone": func(s *ctl.ResourceStatus) {
		s.State, s.Link, s.Remote, s.PeerData = ctl.StateDegraded, "none", "none", ""
	},
	"frozen": func(s *ctl.ResourceStatus) {
		s.State, s.Why, s.Queues.Frozen, s.PeerData = ctl.StateFrozen, "the peer is lost and on_peer_loss is freeze", 12, ""
	},
	"frozen-unreachable": func(s *ctl.ResourceStatus) {
		s.State, s.Why, s.Queues.Frozen, s.PeerData = ctl.StateFrozen, "the peer is lost and on_peer_loss is freeze. 10.0.0.2:8457: connection refused", 1, ""
	},
	"writes-refused": func(s *ctl.ResourceStatus) {
		s.State, s.Link, s.DegradedSinceUnix, s.LocalError, s.LocalErrorUnix = ctl.StateDegraded, "connecting", begun+240, "a flush failed: input/output error", begun+300
		s.Why = "writes are refused: a flush of the local disk failed. Stop the users of this device. 10.0.0.2:8457: no route to host"
	},
	"stalled": func(s *ctl.ResourceStatus) {
		s.Why, s.PeerWaitSeconds = "hb2 is connected, but has not answered a request for more than 10s, and the application waits for it: see hastctl status there, its disk may be slow or hang", 31
	},
	"split-brain": func(s *ctl.ResourceStatus) {
		s.State, s.Link = ctl.StateSplitBrain, "split-brain"
		s.Why = "split brain (both copies went on): hb1 wrote since 2026-11-18T12:00:00Z (8192 bytes marked); hb2 wrote since 2026-11-18T12:01:00Z (4096 bytes marked). " +
			"Choose the node whose writes are to be discarded and run there: hastctl role init data && hastctl create --force data && hastctl role secondary data"
	},
	"split-brain-unexplained": func(s *ctl.ResourceStatus) { s.State = ctl.StateSplitBrain },
	"refused": func(s *ctl.ResourceStatus) {
		s.State, s.Link, s.Why = ctl.StateRefused, "refused", "the sizes differ: hb1 has 64 bytes, hb2 has 32"
	},
	"stopped": func(s *ctl.ResourceStatus) {
		s.Role, s.State, s.Why = proto.RoleInit, ctl.StateStopped, "/dev/sdb1: no HAST metadata: run hastctl create"
	},
	"stale": func(s *ctl.ResourceStatus) { s.Stale, s.StaleSeconds = true, 12.4 },
	"never": func(s *ctl.ResourceStatus) { s.Stale = true },
	"disk-errors": func(s *ctl.ResourceStatus) {
		s.State, s.LocalLost, s.Data, s.LocalError, s.PeerError = ctl.StateDegraded, true, "inconsistent", "write of 4096 bytes at 81920: input/output error", "flush failed"
		s.LocalErrorUnix, s.PeerErrorUnix, s.DiskWaitSeconds, s.PeerWaitSeconds = begun+3000, begun+3400, 12.5, 11
		s.Counters.LocalReadErrors, s.Counters.LocalWriteErrors, s.Counters.RemoteFlushErrors = 3, 1, 1
		s.Hook = &ctl.HookStatus{Event: "disconnect", Program: "/etc/hast/hook", StartedUnix: begun + 3530}
	},
}

// reply makes an answer of one case.
func reply(name string) *ctl.StatusReply {
	s := normal()
	cases[name](&s)
	s.Status = s.State.HAST()
	return &ctl.StatusReply{Node: "hb1", Resources: []ctl.ResourceStatus{s}}
}

// golden compares with a file of testdata, and writes it if UPDATE_GOLDEN is set.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := "testdata/" + name
	if os.Getenv("UPDATE_GOLDEN") != "" {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}
