package ctl

import (
	"slices"
	"testing"

	"hast/proto"
)

func TestStateOf(t *testing.T) {
	const p, s, i = proto.RolePrimary, proto.RoleSecondary, proto.RoleInit
	for _, tc := range []struct {
		f    Facts
		want State
		hast string
	}{
		{Facts{}, StateInit, "-"},
		{Facts{Role: i, Link: "connected"}, StateInit, "-"},
		{Facts{Role: i, Failed: true}, StateStopped, "-"},
		{Facts{Role: p, Failed: true, Link: "connected"}, StateStopped, "-"},
		{Facts{Role: s}, StateWaiting, "-"},
		{Facts{Role: s, Link: "waiting"}, StateWaiting, "-"},
		{Facts{Role: s, Link: "handshake"}, StateHandshake, "degraded"},
		{Facts{Role: s, Link: "connected"}, StateConnected, "complete"},
		{Facts{Role: s, Link: "connected", Syncing: true}, StateSyncing, "degraded"},
		{Facts{Role: p}, StateConnecting, "degraded"},
		{Facts{Role: p, Link: "handshake"}, StateHandshake, "degraded"},
		{Facts{Role: p, Link: "connecting", Promoted: true}, StateDegraded, "degraded"},
		{Facts{Role: p, Link: "handshake", Promoted: true}, StateDegraded, "degraded"},
		{Facts{Role: p, Link: "none", Promoted: true}, StateDegraded, "degraded"},
		{Facts{Role: p, Link: "connected", Promoted: true}, StateConnected, "complete"},
		{Facts{Role: p, Link: "connected", Promoted: true, OneCopy: true}, StateDegraded, "degraded"},
		{Facts{Role: p, Link: "connected", Promoted: true, OneCopy: true, Syncing: true}, StateSyncing, "degraded"},
		{Facts{Role: p, Link: "connected", Frozen: true}, StateFrozen, "degraded"},
		{Facts{Role: p, Link: "refused", Promoted: true}, StateRefused, "degraded"},
		{Facts{Role: p, Link: "refused", Frozen: true}, StateFrozen, "degraded"},
		{Facts{Role: p, Link: "split-brain", Frozen: true, Promoted: true}, StateSplitBrain, "degraded"},
	} {
		if got := StateOf(tc.f); got != tc.want || got.HAST() != tc.hast {
			t.Errorf("%+v: %s (%s), want %s (%s)", tc.f, got, got.HAST(), tc.want, tc.hast)
		}
	}
}

// Only two equal, connected copies of a worker that runs are ever called complete.
func TestComplete(t *testing.T) {
	for _, role := range []proto.Role{0, proto.RoleInit, proto.RolePrimary, proto.RoleSecondary} {
		for _, link := range []string{"", "waiting", "connecting", "handshake", "connected", "split-brain", "refused", "none", "bogus"} {
			for bits := range 32 {
				f := Facts{Role: role, Link: link, Failed: bits&1 != 0, Promoted: bits&2 != 0, Frozen: bits&4 != 0, Syncing: bits&8 != 0, OneCopy: bits&16 != 0}
				s := StateOf(f)
				if !slices.Contains(States, s) {
					t.Errorf("%+v: %q", f, s)
				}
				good := (role == proto.RolePrimary || role == proto.RoleSecondary) && link == "connected" && !f.Failed && !f.Frozen && !f.Syncing && !f.OneCopy
				if (s.HAST() == "complete") != good {
					t.Errorf("%+v: %s", f, s)
				}
			}
		}
	}
}
