package replica

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"hast/extent"
	"hast/hastd/role"
	"hast/proto"
)

// The bodies of docs/protocol/wire.md, section 7, as bytes: what is here is what is on the wire.

// id16 is an id whose bytes count up from v.
func id16(v byte) (id proto.ID) {
	for i := range id {
		id[i] = v + byte(i)
	}
	return id
}

// idHex is id16(v) in hexadecimal.
func idHex(v byte) string { id := id16(v); return hex.EncodeToString(id[:]) }

// nodeHex is a short node name on the wire: text, padded with zeroes to 32 bytes.
func nodeHex(name string) string {
	return hex.EncodeToString([]byte(name)) + strings.Repeat("00", 32-len(name))
}

func historyHex() (s string) {
	for i := range extent.HistoryLen {
		s += idHex(byte(0x40 + i))
	}
	return s
}

func history() (h [extent.HistoryLen]proto.ID) {
	for i := range h {
		h[i] = id16(byte(0x40 + i))
	}
	return h
}

func sampleHello() hello {
	return hello{
		Side: role.Side{
			Node: proto.MakeNode("hb1"), Role: proto.RolePrimary, Resource: id16(0x10), Current: id16(0x20), Base: id16(0x30), History: history(),
			Data: proto.DataConsistent, Epoch: proto.Epoch{Number: 0x0102030405060708, Node: proto.MakeNode("hb2")}, SyncID: id16(0x50), SyncRole: 2,
			Marks: true, Crashed: true, Intact: true, Forced: true, Mode: proto.ModeMemsync,
			DataSize: 0x1122334455667000, ExtentSize: 2 << 20, Logical: 512,
		},
		GenSince: 0x6553f100, GenNode: proto.MakeNode("hb1"), Dirty: 0x0000000a0b0c0000, Boot: id16(0x60), Hot: 512,
	}
}

var helloGolden = "01000000" + // version
	"02" + "03" + "02" + "02" + // primary, consistent, memsync, target
	nodeHex("hb1") +
	idHex(0x10) + idHex(0x20) + idHex(0x30) + historyHex() +
	"0807060504030201" + nodeHex("hb2") + // epoch
	idHex(0x50) + // session
	"55000000" + // marks, crashed, intact, forced
	"0070665544332211" + "00002000" + "00020000" + // data size, extent size, logical block
	"00f1536500000000" + nodeHex("hb1") + // current generation since, by
	"00000c0b0a000000" + idHex(0x60) + "00020000" // dirty bytes, boot id, hot extents

func sampleStart() start {
	s := start{Action: role.TargetFull, Mode: proto.ModeAsync, Epoch: proto.Epoch{Number: 7, Node: proto.MakeNode("hb1")},
		Resource: id16(0x10), Current: id16(0x20), Session: id16(0x50), Whole: true}
	for i := range s.Key {
		s.Key[i] = byte(0xe0 - i)
	}
	return s
}

var startGolden = "01000000" + "05" + "03" + "0700000000000000" + nodeHex("hb1") + idHex(0x10) + idHex(0x20) + idHex(0x50) +
	"e0dfdedddcdbdad9d8d7d6d5d4d3d2d1d0cfcecdcccbcac9c8c7c6c5c4c3c2c1" + "01"

func sampleLineage() lineage {
	return lineage{Current: id16(0x20), History: history(), GenSince: -2, GenNode: proto.MakeNode("hb2")}
}

var lineageGolden = idHex(0x20) + historyHex() + "feffffffffffffff" + nodeHex("hb2")

const verdictGolden = "01000000" + "03000000"

// A parser decodes a body and encodes what it understood again.
type parser func(b []byte) (again []byte, err error)

func parseHello(b []byte) ([]byte, error) {
	h, err := decodeHello(b)
	return h.encode(nil), err
}

func parseStart(b []byte) ([]byte, error) {
	s, err := decodeStart(b)
	return s.encode(nil), err
}

func parseLineage(b []byte) ([]byte, error) {
	l, err := decodeLineage(b)
	return l.encode(nil), err
}

func parseVerdict(b []byte) ([]byte, error) {
	a, err := decodeVerdict(b)
	return encodeVerdict(nil, a), err
}

var helloBodies = []struct {
	name    string
	parse   parser
	golden  string
	encoded func() []byte
}{
	{"HELLO", parseHello, helloGolden, func() []byte { h := sampleHello(); return h.encode(nil) }},
	{"START", parseStart, startGolden, func() []byte { s := sampleStart(); return s.encode(nil) }},
	{"NEWGEN and SYNC_DONE", parseLineage, lineageGolden, func() []byte { l := sampleLineage(); return l.encode(nil) }},
	{"VERDICT", parseVerdict, verdictGolden, func() []byte { return encodeVerdict(nil, role.SourceFull) }},
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestHelloGolden(t *testing.T) {
	for _, c := range helloBodies {
		want, got := unhex(t, c.golden), c.encoded()
		if !bytes.Equal(got, want) {
			t.Errorf("%s encodes as\n%x, the document says\n%x", c.name, got, want)
		}
		if again, err := c.parse(want); err != nil || !bytes.Equal(again, want) {
			t.Errorf("%s decodes to\n%x, %v, want\n%x", c.name, again, err, want)
		}
	}
	if h, err := decodeHello(unhex(t, helloGolden)); err != nil || h != sampleHello() {
		t.Errorf("HELLO decodes to %+v, %v", h, err)
	}
	if s, err := decodeStart(unhex(t, startGolden)); err != nil || s != sampleStart() {
		t.Errorf("START decodes to %+v, %v", s, err)
	}
	if l, err := decodeLineage(unhex(t, lineageGolden)); err != nil || l != sampleLineage() {
		t.Errorf("a lineage decodes to %+v, %v", l, err)
	}
	if a, err := decodeVerdict(unhex(t, verdictGolden)); err != nil || a != role.SourceFull {
		t.Errorf("VERDICT decodes to %v, %v", a, err)
	}
	if len(helloGolden) != 2*helloSize || len(verdictGolden) != 2*verdictSize {
		t.Errorf("HELLO has %d bytes and VERDICT %d; the constants say %d and %d", len(helloGolden)/2, len(verdictGolden)/2, helloSize, verdictSize)
	}
}

// TestHelloAppends: encoders append to what they are given.
func TestHelloAppends(t *testing.T) {
	h, s, l := sampleHello(), sampleStart(), sampleLineage()
	for i, b := range [][]byte{h.encode([]byte("x")), s.encode([]byte("x")), l.encode([]byte("x")), encodeVerdict([]byte("x"), role.SourceFull)} {
		if want := append([]byte("x"), unhex(t, helloBodies[i].golden)...); !bytes.Equal(b, want) {
			t.Errorf("%s: %x", helloBodies[i].name, b)
		}
	}
}

// TestHelloFlags: each flag has its bit, and only that.
func TestHelloFlags(t *testing.T) {
	const at = 272 // of the flags in the body
	for i, set := range []func(h *hello){
		func(h *hello) { h.Marks = true },
		func(h *hello) { h.Blank = true },
		func(h *hello) { h.Crashed = true },
		func(h *hello) { h.Rebooted = true },
		func(h *hello) { h.Intact = true },
		func(h *hello) { h.Served = true },
		func(h *hello) { h.Forced = true },
		func(h *hello) { h.FlushFailed = true },
		func(h *hello) { h.Merged = true },
	} {
		h := sampleHello()
		h.Marks, h.Crashed, h.Intact, h.Forced = false, false, false, false
		set(&h)
		b := h.encode(nil)
		if want := binary.LittleEndian.AppendUint32(nil, 1<<i); !bytes.Equal(b[at:at+4], want) {
			t.Errorf("flag %d is encoded as %x", i, b[at:at+4])
		}
		if got, err := decodeHello(b); err != nil || got != h {
			t.Errorf("flag %d: %+v, %v", i, got, err)
		}
	}
}

func TestHelloCutAndOversized(t *testing.T) {
	for _, c := range helloBodies {
		b := unhex(t, c.golden)
		for n := range b {
			if _, err := c.parse(b[:n:n]); err == nil {
				t.Errorf("%s cut to %d of %d bytes is accepted", c.name, n, len(b))
			}
		}
		for _, n := range []int{1, 4, len(b), 64<<10 - len(b)} {
			for _, fill := range []byte{0, 1, 0xff} {
				if _, err := c.parse(append(bytes.Clone(b), bytes.Repeat([]byte{fill}, n)...)); err == nil {
					t.Errorf("%s with %d bytes of %#x behind it is accepted", c.name, n, fill)
				}
			}
		}
		if _, err := c.parse(nil); err == nil {
			t.Errorf("%s without a byte is accepted", c.name)
		}
	}
}

// TestHelloEnums: every value of every enumerated byte. What a decoder lets through the machines refuse by comparison: no
// verdict of role.Decide is the mirror of an unknown action, and START's action has to be the verdict's.
func TestHelloEnums(t *testing.T) {
	for _, c := range []struct {
		name   string
		parse  parser
		golden string
		at     int
		ok     func(v byte) bool
	}{
		{"HELLO version", parseHello, helloGolden, 0, func(v byte) bool { return v == 1 }},
		{"HELLO version, high byte", parseHello, helloGolden, 3, func(v byte) bool { return v == 0 }},
		{"HELLO role", parseHello, helloGolden, 4, func(v byte) bool { return v == 2 || v == 3 }},
		{"HELLO data state", parseHello, helloGolden, 5, func(v byte) bool { return v >= 1 && v <= 4 }},
		{"HELLO mode", parseHello, helloGolden, 6, func(v byte) bool { return v >= 1 && v <= 3 }},
		{"HELLO part in the sync", parseHello, helloGolden, 7, func(v byte) bool { return v <= 2 }},
		{"START version", parseStart, startGolden, 0, func(v byte) bool { return v == 1 }},
		{"START version, high byte", parseStart, startGolden, 3, func(v byte) bool { return v == 0 }},
		{"START mode", parseStart, startGolden, 5, func(v byte) bool { return v >= 1 && v <= 3 }},
		{"START whole", parseStart, startGolden, len(startGolden)/2 - 1, func(v byte) bool { return v <= 1 }},
		{"VERDICT version", parseVerdict, verdictGolden, 0, func(v byte) bool { return v == 1 }},
		{"VERDICT version, high byte", parseVerdict, verdictGolden, 3, func(v byte) bool { return v == 0 }},
	} {
		b := unhex(t, c.golden)
		for v := range 256 {
			b[c.at] = byte(v)
			again, err := c.parse(b)
			if (err == nil) != c.ok(byte(v)) {
				t.Errorf("%s %d: %v", c.name, v, err)
			}
			if err == nil && !bytes.Equal(again, b) {
				t.Errorf("%s %d: encodes as %x", c.name, v, again)
			}
		}
	}
	for v := range 256 {
		a := role.Action(v)
		known := a >= role.NoSync && a <= role.Impossible
		if got, err := decodeVerdict(encodeVerdict(nil, a)); err == nil && got != a {
			t.Errorf("the verdict %d decodes to %d", v, got)
		}
		for mine := role.NoSync; mine <= role.Impossible; mine++ {
			if !known && a.Mirror() == mine {
				t.Errorf("the unknown verdict %d mirrors %s", v, mine)
			}
		}
	}
}

// TestHelloRefusalsSayWhatToDo: an older or newer node is the one malformed HELLO that an operator can do something about.
func TestHelloRefusalsSayWhatToDo(t *testing.T) {
	b := unhex(t, helloGolden)
	b[0] = 2
	if _, err := decodeHello(b); err == nil || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("another version: %v", err)
	}
	if _, err := decodeHello(b[:2]); err == nil {
		t.Error("half a version is accepted")
	}
	b[0] = 1
	if _, err := decodeHello(b[:100]); !errors.Is(err, errBody) {
		t.Errorf("a short body: %v", err)
	}
}

// TestHelloAllocates: what a peer claims costs a decoder nothing that grows with the claim (rule 15).
func TestHelloAllocates(t *testing.T) {
	const rounds, most = 2000, 1 << 10
	for _, c := range helloBodies {
		golden := unhex(t, c.golden)
		claims := bytes.Repeat([]byte{0xff}, len(golden))
		copy(claims, golden[:8]) // the enums; every number and id is as large as it can be
		for _, b := range [][]byte{golden, claims, claims[:len(claims)-1], bytes.Repeat([]byte{0xff}, 64<<10)} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			for range rounds {
				if c.name == "HELLO" {
					_, _ = decodeHello(b)
				} else if c.name == "START" {
					_, _ = decodeStart(b)
				} else if c.name == "VERDICT" {
					_, _ = decodeVerdict(b)
				} else {
					_, _ = decodeLineage(b)
				}
			}
			runtime.ReadMemStats(&after)
			if per := (after.TotalAlloc - before.TotalAlloc) / rounds; per > most {
				t.Errorf("%s of %d bytes: decoding allocates %d bytes", c.name, len(b), per)
			}
		}
	}
}

// Round trips of random values.

func drawID(t *rapid.T, label string) (id proto.ID) {
	copy(id[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, label))
	return id
}

func drawNode(t *rapid.T, label string) proto.Node {
	return proto.MakeNode(rapid.StringMatching(`[a-z0-9._-]{1,32}`).Draw(t, label))
}

func drawHistory(t *rapid.T) (h [extent.HistoryLen]proto.ID) {
	for i := range rapid.IntRange(0, extent.HistoryLen).Draw(t, "generations") {
		h[i] = drawID(t, fmt.Sprintf("history %d", i))
	}
	return h
}

func drawEpoch(t *rapid.T) proto.Epoch {
	return proto.Epoch{Number: rapid.Uint64().Draw(t, "epoch"), Node: drawNode(t, "epoch's node")}
}

func drawMode(t *rapid.T) proto.Mode {
	return rapid.SampledFrom([]proto.Mode{proto.ModeFullsync, proto.ModeMemsync, proto.ModeAsync}).Draw(t, "mode")
}

func TestHelloRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		yes := func(label string) bool { return rapid.Bool().Draw(t, label) }
		h := hello{
			Side: role.Side{
				Node: drawNode(t, "node"), Role: rapid.SampledFrom([]proto.Role{proto.RolePrimary, proto.RoleSecondary}).Draw(t, "role"),
				Resource: drawID(t, "resource"), Current: drawID(t, "current"), Base: drawID(t, "base"), History: drawHistory(t),
				Data:  proto.DataState(rapid.ByteRange(1, 4).Draw(t, "data")),
				Epoch: drawEpoch(t), SyncID: drawID(t, "session"), SyncRole: rapid.ByteRange(0, 2).Draw(t, "part"),
				Marks: yes("marks"), Blank: yes("blank"), Crashed: yes("crashed"), Rebooted: yes("rebooted"), Intact: yes("intact"),
				Served: yes("served"), Forced: yes("forced"), FlushFailed: yes("flush failed"), Merged: yes("merged"), Mode: drawMode(t),
				DataSize: proto.Offset(rapid.Uint64().Draw(t, "size")), ExtentSize: rapid.Uint32().Draw(t, "extent"), Logical: rapid.Uint32().Draw(t, "logical"),
			},
			GenSince: rapid.Int64().Draw(t, "since"), GenNode: drawNode(t, "by"), Dirty: rapid.Uint64().Draw(t, "dirty"),
			Boot: drawID(t, "boot"), Hot: rapid.Uint32().Draw(t, "hot"),
		}
		if got, err := decodeHello(h.encode(nil)); err != nil || got != h {
			t.Fatalf("%+v, %v", got, err)
		}
		s := start{Action: role.Action(rapid.ByteRange(1, 5).Draw(t, "action")), Epoch: drawEpoch(t), Resource: drawID(t, "resource"),
			Current: drawID(t, "current"), Session: drawID(t, "session"), Mode: drawMode(t), Whole: yes("whole")}
		copy(s.Key[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "key"))
		if got, err := decodeStart(s.encode(nil)); err != nil || got != s {
			t.Fatalf("%+v, %v", got, err)
		}
		l := lineage{Current: drawID(t, "current"), History: drawHistory(t), GenSince: rapid.Int64().Draw(t, "since"), GenNode: drawNode(t, "by")}
		if got, err := decodeLineage(l.encode(nil)); err != nil || got != l {
			t.Fatalf("%+v, %v", got, err)
		}
		a := role.Action(rapid.ByteRange(1, 10).Draw(t, "verdict"))
		if got, err := decodeVerdict(encodeVerdict(nil, a)); err != nil || got != a {
			t.Fatalf("%v, %v", got, err)
		}
	})
}

// TestActionsOutOfRange: no number that is not an action becomes one by being cut.
func TestActionsOutOfRange(t *testing.T) {
	for _, a := range []uint32{0, 11, 255, 256, 256 + uint32(role.Source), 1 << 16, 1<<31 | uint32(role.NoSync), 1<<32 - 1} {
		b := encodeVerdict(nil, 0)
		binary.LittleEndian.PutUint32(b[4:], a)
		if got, err := decodeVerdict(b); err == nil {
			t.Errorf("VERDICT %d is taken for %v", a, got)
		}
	}
	for _, a := range []role.Action{0, role.SplitBrain, role.Unrelated, role.PeerPrimary, role.Refused, role.Impossible, 11, 255} {
		s := start{Action: a, Mode: proto.ModeFullsync}
		if got, err := decodeStart(s.encode(nil)); err == nil {
			t.Errorf("START with action %d is taken for %v", a, got.Action)
		}
	}
}

// Fuzz targets: a decoder never panics, and what it accepts encodes and decodes to the same again.

func fuzzBody(f *testing.F, parse parser, golden string) {
	b := unhex(f, golden)
	f.Add(b)
	f.Add(b[:len(b)-1])
	f.Add(append(bytes.Clone(b), 0))
	f.Add(make([]byte, len(b)))
	f.Add(append([]byte{1, 0, 0, 0}, bytes.Repeat([]byte{0xff}, len(b)-4)...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		once, err := parse(b)
		if err != nil {
			return
		}
		if len(once) != len(b) {
			t.Fatalf("%d bytes are accepted, %d encoded", len(b), len(once))
		}
		if twice, err := parse(once); err != nil || !bytes.Equal(twice, once) {
			t.Fatalf("%x\ndecodes to\n%x, which decodes to\n%x, %v", b, once, twice, err)
		}
	})
}

func FuzzHello(f *testing.F)        { fuzzBody(f, parseHello, helloGolden) }
func FuzzHelloStart(f *testing.F)   { fuzzBody(f, parseStart, startGolden) }
func FuzzHelloLineage(f *testing.F) { fuzzBody(f, parseLineage, lineageGolden) }
func FuzzHelloVerdict(f *testing.F) { fuzzBody(f, parseVerdict, verdictGolden) }
