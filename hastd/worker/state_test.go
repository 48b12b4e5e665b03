package worker

import (
	"strings"
	"testing"
	"time"

	"hast/hastd/worker/ipc"
)

func TestTrouble(t *testing.T) {
	long := int64(stalled + time.Millisecond)
	for _, c := range []struct {
		name    string
		s       ipc.State
		machine string
		leased  bool
		want    []string // one for each sentence
	}{
		{"none", ipc.State{}, "", true, nil},
		{"short waits", ipc.State{DiskAge: int64(stalled), PeerWait: int64(stalled)}, "", true, nil},
		{"the machine's", ipc.State{}, "writes are refused", true, []string{"writes are refused"}},
		{"a disk", ipc.State{DiskAge: long}, "", true, []string{"the local disk has had a request for more than 10s"}},
		{"a peer", ipc.State{PeerWait: long, PeerNode: "hb2"}, "", true, []string{"hb2 is connected, but has not answered"}},
		{"all", ipc.State{DiskAge: long, PeerWait: long}, "frozen", false, []string{"role lease", "frozen", "local disk", "has not answered"}},
	} {
		got := trouble(&c.s, c.machine, c.leased)
		parts := strings.Split(got, ". ")
		if got == "" {
			parts = nil
		}
		if len(parts) != len(c.want) {
			t.Errorf("%s: %q", c.name, got)
			continue
		}
		for i, want := range c.want {
			if !strings.Contains(parts[i], want) {
				t.Errorf("%s: %q, want %q", c.name, parts[i], want)
			}
		}
	}
}
