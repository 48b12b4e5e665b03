package replica

import (
	"testing"

	"hast/proto"
	"hast/proto/wire"
)

// steady brings a primary to the point where a write touches nothing but hot extents and returns a function that does one.
func steady(t testing.TB) func() {
	p := newPair(t.(*testing.T))
	p.up()
	for i := 0; i < testBlocks; i += 16 {
		p.a.write(Tag(i/16), i, 16, 5)
		p.run(0)
		p.a.answered(Tag(i/16), 0)
	}
	m := p.a.m.(*Primary)
	var out Effects
	ev := Event{}
	i := 0
	return func() {
		i++
		tag := Tag(i % testApp)
		out.Reset()
		ev = Event{Kind: EvIO, Tag: tag, Op: proto.OpWrite, Off: proto.Offset(i%testBlocks) * 4096, Len: 4096}
		m.Step(p.now, &ev, &out)
		var seq uint64
		for k := range out.List {
			if out.List[k].Kind == EfSend {
				seq = out.List[k].Head.Seq
			}
		}
		out.Reset()
		ev = Event{Kind: EvDisk, Tag: tag}
		m.Step(p.now, &ev, &out)
		out.Reset()
		ev = Event{Kind: EvFrame, Conn: p.a.conn, Head: wire.Header{Type: wire.TypeAck, Seq: seq}}
		m.Step(p.now, &ev, &out)
		if n := len(out.List); n < 2 || out.List[n-1].Kind != EfRelease {
			t.Fatalf("write %d did not end: %+v", i, out.List)
		}
	}
}

func TestWriteAllocatesNothing(t *testing.T) {
	f := steady(t)
	for range 1000 {
		f()
	}
	if n := testing.AllocsPerRun(2000, f); n != 0 {
		t.Fatalf("a write allocates %v times in the machine", n)
	}
}
