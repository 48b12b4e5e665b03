package device

import (
	"testing"

	"hast/proto"
)

type putCounter struct {
	Sink
	puts int
}

func (p *putCounter) Put(*Request) { p.puts++ }

func TestJoinAnswersOnce(t *testing.T) {
	for _, tc := range []struct {
		name   string
		pieces []proto.Errno
		early  int // pieces answered before Close
		close  proto.Errno
		want   proto.Errno
	}{
		{"none", nil, 0, proto.OK, proto.OK},
		{"one", []proto.Errno{proto.OK}, 1, proto.OK, proto.OK},
		{"first error wins", []proto.Errno{proto.OK, proto.EIO, proto.ENOSPC}, 1, proto.OK, proto.EIO},
		{"cut short", []proto.Errno{proto.OK}, 0, proto.ESHUTDOWN, proto.ESHUTDOWN},
	} {
		t.Run(tc.name, func(t *testing.T) {
			answers, got := 0, proto.OK
			sink := &putCounter{}
			s := NewJoins(sink, func(h uint64, e proto.Errno) {
				if h != 77 {
					t.Errorf("handle %d", h)
				}
				answers, got = answers+1, e
			})
			j := s.New(77)
			for range tc.pieces {
				j.Add()
			}
			for i, e := range tc.pieces[:tc.early] {
				j.Complete([]*Request{{Errno: e, Handle: uint64(i)}})
			}
			if answers != 0 {
				t.Fatal("answered before it was closed")
			}
			j.Close(tc.close)
			for _, e := range tc.pieces[tc.early:] {
				j.Complete([]*Request{{Errno: e}})
			}
			if answers != 1 || got != tc.want || sink.puts != len(tc.pieces) {
				t.Fatalf("answered %d times with %v, %d put back", answers, got, sink.puts)
			}
		})
	}
}

func TestJoinAbandon(t *testing.T) {
	got := proto.OK
	s := NewJoins(&putCounter{}, func(_ uint64, e proto.Errno) { got = e })
	j := s.New(1)
	j.Add()
	j.Add() // never submitted
	j.Abandon(proto.EIO)
	if got != proto.OK {
		t.Fatal("answered while a piece is under way")
	}
	j.Complete([]*Request{{}})
	if got != proto.EIO {
		t.Fatalf("answered %v", got)
	}
}

func TestJoinsReuse(t *testing.T) {
	s := NewJoins(&putCounter{}, func(uint64, proto.Errno) {})
	s.New(1).Close(proto.EIO)
	if n := testing.AllocsPerRun(100, func() { s.New(2).Close(proto.OK) }); n != 0 {
		t.Fatalf("%v allocations for a join", n)
	}
}

func TestZeroPiece(t *testing.T) {
	for _, tc := range []struct {
		off  proto.Offset
		left uint64
		want proto.Length
	}{
		{0, 512, 512}, {0, 4 << 30, MaxZero}, {4096, 4 << 30, MaxZero - 4096}, {proto.Offset(MaxZero) - 512, 1 << 20, 512}, {proto.Offset(MaxZero), 64 << 20, MaxZero},
	} {
		if got := ZeroPiece(tc.off, tc.left); got != tc.want {
			t.Errorf("ZeroPiece(%d, %d) = %d, want %d", tc.off, tc.left, got, tc.want)
		}
	}
}
