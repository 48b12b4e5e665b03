package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hast/test/lab"
)

// metadata is what hastctl shows of the activity map's work.
type metadata struct {
	Used     int `json:"hot_extents_used"`
	Counters struct {
		MapUpdates uint64 `json:"map_updates"`
		MetaWrites uint64 `json:"meta_writes"`
	} `json:"counters"`
}

func metadataOf(t *testing.T, n *lab.Node) metadata {
	t.Helper()
	out, err := n.Run("sh", "-c", "hastctl status --json data 2>/dev/null")
	var s struct {
		Resources []metadata `json:"resources"`
	}
	if err != nil || json.Unmarshal([]byte(out), &s) != nil || len(s.Resources) != 1 {
		t.Fatalf("%v: %s", err, out)
	}
	return s.Resources[0]
}

// dumped is what the disk says, which is what a successor would find.
func dumped(t *testing.T, n *lab.Node) (active int, dirty uint64) {
	t.Helper()
	var d []struct {
		Active []uint32 `json:"active_extents"`
		Dirty  uint64   `json:"dirty_bytes"`
	}
	out := run(t, n, "hastctl", "dump", "--json", "data")
	if err := json.Unmarshal([]byte(out), &d); err != nil || len(d) != 1 || d[0].Active == nil {
		t.Fatalf("%v: %s", err, out)
	}
	return len(d[0].Active), d[0].Dirty
}

// TestHotExtentsCostNothing: a write to an extent that is marked writes no metadata, and the first one to another extent does, once.
func TestHotExtentsCostNothing(t *testing.T) {
	l := newLab(t, lab.Options{Resource: `idle_clean = "60s"`})
	up(t, l)
	a := open(t, l.A)
	a.fill(0, 8*mib, 1)
	until(t, 10*time.Second, "clean", is(l.A, connected))
	before := metadataOf(t, l.A)
	for i := range int64(200) {
		a.mustWrite(i%100*65536, 4096, uint64(i))
	}
	if after := metadataOf(t, l.A); after != before {
		t.Errorf("200 writes to hot extents: %+v before, %+v after", before, after)
	}
	a.mustWrite(20*mib, 4096, 2)
	after := metadataOf(t, l.A)
	if after.Used != before.Used+1 || after.Counters.MapUpdates != before.Counters.MapUpdates+1 {
		t.Errorf("a write to an extent that was not hot: %+v before, %+v after", before, after)
	}
	a.f.Close()
}

// TestIdleMapIsCleaned: some time after the last write nothing is marked any more, on disk, so that a crash then costs no comparison.
func TestIdleMapIsCleaned(t *testing.T) {
	l := newLab(t, lab.Options{Resource: `idle_clean = "2s"`})
	up(t, l)
	a := open(t, l.A)
	a.fill(0, 16*mib, 1)
	if m := metadataOf(t, l.A); m.Used < 8 {
		t.Fatalf("16 MiB were written, and %d extents are hot", m.Used)
	}
	until(t, 20*time.Second, "nothing hot", func() error {
		if m := metadataOf(t, l.A); m.Used != 0 {
			return fmt.Errorf("%d extents are hot", m.Used)
		}
		return nil
	})
	a.f.Close()
	l.A.Die()
	if active, dirty := dumped(t, l.A); active != 0 || dirty != 0 {
		t.Errorf("on disk %d extents are active and %d bytes dirty", active, dirty)
	}
}

// TestMetaFlush: the map's update is flushed before the write goes anywhere, and not where it was said that this is not needed.
func TestMetaFlush(t *testing.T) {
	for _, flush := range []bool{true, false} {
		t.Run(fmt.Sprint(flush), func(t *testing.T) {
			l, a := faultyUp(t, lab.Options{Resource: fmt.Sprintf("metaflush = %v\nidle_clean = \"60s\"", flush)})
			a.fill(0, 4*mib, 1)
			until(t, 10*time.Second, "clean", is(l.A, connected))
			time.Sleep(6 * time.Second) // the own flush of the last epoch
			before := stat(t, l.A)
			for i := range int64(4) {
				a.mustWrite((10+2*i)*mib, 4096, 2)
			}
			if got := stat(t, l.A).Flushes - before.Flushes; flush && got < 4 || !flush && got != 0 {
				t.Errorf("%d flushes for four updates of the map", got)
			}
			a.f.Close()
		})
	}
}

// TestMetaFlushFails: a write whose mark may not be on stable storage is not acknowledged by this disk alone.
func TestMetaFlushFails(t *testing.T) {
	l, a := faultyUp(t, lab.Options{Resource: `timeout = "2s"`})
	a.fill(0, 4*mib, 1)
	l.B.Kill(syscall.SIGKILL)
	a.mustWrite(0, 4096, 2)
	until(t, 20*time.Second, "the loss of the peer", is(l.A, func(r resource) bool { return r.State == "degraded" }))
	before := stat(t, l.A)
	fault(t, l.A, "fail flush")
	if err := a.write(20*mib, 4096, 3); !errors.Is(err, unix.EIO) {
		t.Errorf("a write to an extent whose mark could not be flushed: %v", err)
	}
	met(t, l.A, before)
	a.f.Close()
}
