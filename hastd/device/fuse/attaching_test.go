package fuse

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"hast/hastd/device/devicetest"
)

// TestFlushOfWhoAttaches: a flush that the parent's threads cause is answered and goes nowhere; everybody else's is carried out.
func TestFlushOfWhoAttaches(t *testing.T) {
	s := devicetest.New(t, devicetest.Options{Size: 1 << 20})
	k := fake(t, s, &Negotiated{}, nil)
	for i, c := range []struct {
		name string
		tid  int
		done bool
	}{
		{"the parent", os.Getppid(), false},
		{"this process", unix.Gettid(), true},
		{"the first process of the machine", 1, os.Getppid() != 1},
		{"nobody in sight", 0, true},
		{"no thread at all", 1<<31 - 1, true},
	} {
		before := s.Counts().Flushes
		b := message(opFsync, uint64(10+i), diskNode, make([]byte, 16))
		order.PutUint32(b[32:], uint32(c.tid))
		k.send(b)
		if got := k.receive(); order.Uint64(got[8:]) != uint64(10+i) || order.Uint32(got[4:]) != 0 {
			t.Errorf("%s: answer %x", c.name, got)
		}
		if done := s.Counts().Flushes > before; done != c.done {
			t.Errorf("%s: flushed %v", c.name, done)
		}
	}
}
