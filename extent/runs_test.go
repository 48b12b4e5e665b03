package extent

import (
	"bytes"
	"encoding/binary"
	"testing"

	"pgregory.net/rapid"
)

func TestRunsRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := Block(rapid.Uint64Range(1, 20000).Draw(t, "n"))
		b, twin := NewBitmap(n), make(naive, n)
		for range rapid.IntRange(0, 40).Draw(t, "runs") {
			first, count := drawRange(t, n)
			b.Set(first, min(count, 300))
			twin.set(first, min(count, 300), true)
		}
		room := rapid.IntRange(MaxRun, 100).Draw(t, "room")
		got, at := NewBitmap(n), Block(0)
		for done := false; !done; {
			var out []byte
			var next Block
			out, next, done = AppendRuns([]byte("head"), b, at, room)
			if len(out)-4 > room {
				t.Fatalf("%d bytes, asked for %d", len(out)-4, room)
			}
			if !done && next == at {
				t.Fatal("no progress")
			}
			applied, err := ApplyRuns(out[4:], at, got)
			if err != nil || applied != next {
				t.Fatalf("ApplyRuns = %d, %v, want %d", applied, err, next)
			}
			at = next
		}
		checkBitmap(t, got, twin)
	})
}

func runsOf(pairs ...uint64) (src []byte) {
	for _, v := range pairs {
		src = binary.AppendUvarint(src, v)
	}
	return src
}

func TestApplyRunsHostile(t *testing.T) {
	huge := ^uint64(0)
	for name, c := range map[string]struct {
		src  []byte
		from Block
	}{
		"behind the end":      {runsOf(99, 2), 0},
		"gap to the end":      {runsOf(100, 1), 0},
		"second behind":       {runsOf(0, 50, 0, 51), 0},
		"length overflows":    {runsOf(1, huge), 0},
		"gap overflows":       {runsOf(huge, 1), 5},
		"both overflow":       {runsOf(huge, huge), 1},
		"empty run":           {runsOf(3, 0), 0},
		"odd":                 {runsOf(3), 0},
		"cut number":          {[]byte{0x80}, 0},
		"number too long":     {bytes.Repeat([]byte{0xff}, 12), 0},
		"begins behind":       {nil, 101},
		"good, then bad":      {runsOf(1, 2, 3, 0), 0},
		"run at the very end": {runsOf(0, 1), 100},
	} {
		t.Run(name, func(t *testing.T) {
			b := NewBitmap(100)
			if next, err := ApplyRuns(c.src, c.from, b); err == nil || next != c.from {
				t.Fatalf("%d, %v", next, err)
			}
			if b.Count() != 0 {
				t.Fatal("bad runs left marks")
			}
		})
	}
	b := NewBitmap(100)
	if next, err := ApplyRuns(runsOf(1, 2, 96, 1), 0, b); err != nil || next != 100 || b.Count() != 3 {
		t.Fatal(next, err, b.Count())
	}
	if next, err := ApplyRuns(nil, 100, b); err != nil || next != 100 {
		t.Fatal(next, err)
	}
}

func FuzzApplyRuns(f *testing.F) {
	f.Add(runsOf(0, 1, 5, 7), uint16(0))
	f.Add(runsOf(3, ^uint64(0)), uint16(9))
	f.Fuzz(func(t *testing.T, src []byte, from uint16) {
		b := NewBitmap(10000)
		next, err := ApplyRuns(src, Block(from), b)
		if err != nil {
			if b.Count() != 0 {
				t.Fatal("bad runs left marks")
			}
			return
		}
		if next > b.Len() || next < Block(from) {
			t.Fatalf("next %d", next)
		}
		out, end, done := AppendRuns(nil, b, Block(from), 1<<20)
		if !done || end != next || len(out) > len(src) {
			t.Fatalf("%d bytes to %d, from %d to %d", len(out), end, len(src), next)
		}
	})
}
