package engine

import (
	"testing"

	"hast/hastd/replica"
	"hast/proto"
)

// TestInline: who does a request's work is a matter of what waits behind it, and nobody who has other work waits for a disk.
func TestInline(t *testing.T) {
	node := map[bool]*Engine{}
	for _, primary := range []bool{true, false} {
		node[primary], _ = solo(t, Config{Machine: &scripted{step: func(*replica.Event, *replica.Effects) {}}, Primary: primary})
	}
	for _, c := range []struct {
		what             string
		primary, memsync bool
		requests         int // in use, the first of which is asked about; 0: a flush of the machine's own
		op               proto.Op
		n                proto.Length
		want             bool
	}{
		{"the only write", true, false, 1, proto.OpWrite, 4096, true},
		{"a long write", true, false, 1, proto.OpWrite, 128 << 10, false},
		{"one write of two", true, false, 2, proto.OpWrite, 4096, false},
		{"the only flush", true, false, 1, proto.OpFlush, 0, true},
		{"a primary's flush beside a write", true, false, 2, proto.OpFlush, 0, false},
		{"a primary's own flush", true, false, 0, proto.OpFlush, 0, false},
		{"the only write of a secondary", false, false, 1, proto.OpWrite, 4096, true},
		{"one write of two of a secondary", false, false, 2, proto.OpWrite, 4096, false},
		{"a secondary's flush, with what waits behind it", false, false, 2, proto.OpFlush, 0, true},
		{"a secondary's own flush", false, false, 0, proto.OpFlush, 0, false},
		{"memsync: the only write", false, true, 1, proto.OpWrite, 4096, false},
		{"memsync: a flush, with what waits behind it", false, true, 2, proto.OpFlush, 0, false},
	} {
		e := node[c.primary]
		e.memsync.Store(c.memsync)
		j := job{kind: jobDisk, op: c.op, n: c.n, tag: AppTags + SyncTags}
		var used []uint32
		for i := range c.requests {
			en := e.table.get(4096, false)
			used = append(used, en.req.Tag)
			if i == 0 {
				j.tag = replica.Tag(en.req.Tag)
			}
		}
		if got := e.inline(&j); got != c.want {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
		for _, tag := range used {
			e.table.drop(tag)
		}
	}
}
