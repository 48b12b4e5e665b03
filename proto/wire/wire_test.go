package wire

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"hast/proto"

	"pgregory.net/rapid"
)

// goldens are the bytes of docs/protocol/wire.md; a change here is a new protocol version.
var goldens = []struct {
	name string
	h    Header
	hex  string
}{
	{"write", Header{Type: TypeWrite, Flags: FlagFUA, Checksum: ChecksumCRC32C, Seq: 0x0102030405060708, Offset: 0x10000,
		Length: 4096, Payload: 4096, Aux: 7, Sum: 0xdeadbeef},
		"25eecd5c0101000108070605040302010000010000000000" +
			"00100000001000000700000000000000efbeadde00000000"},
	{"hole", Header{Type: TypeWrite, Flags: FlagSync, Compression: CompressionHole, Seq: 1, Offset: 4096, Length: 8192},
		"3dc382b90108010001000000000000000010000000000000" +
			"002000000000000000000000000000000000000000000000"},
	{"ack", Header{Type: TypeAck, Flags: FlagReceived, Seq: 9, Offset: 512, Length: 512, Aux: 5},
		"7c9f21192004000009000000000000000002000000000000" +
			"000200000000000005000000000000000000000000000000"},
}

func TestGolden(t *testing.T) {
	for _, g := range goldens {
		var b [HeaderSize]byte
		Encode(&g.h, b[:])
		if got := hex.EncodeToString(b[:]); got != g.hex {
			t.Errorf("%s: %s, want %s", g.name, got, g.hex)
		}
		var h Header
		if err := Decode(b[:], &h); err != nil || h != g.h {
			t.Errorf("%s: decoded %+v, %v", g.name, h, err)
		}
	}
}

func TestEveryFlippedBitIsNoticed(t *testing.T) {
	var b [HeaderSize]byte
	Encode(&goldens[0].h, b[:])
	var h Header
	for i := range 8 * HeaderSize {
		b[i/8] ^= 1 << (i % 8)
		if Decode(b[:], &h) == nil {
			t.Errorf("bit %d", i)
		}
		b[i/8] ^= 1 << (i % 8)
	}
}

func TestLimits(t *testing.T) {
	const whole = 256 << 10
	for _, c := range []struct {
		h    Header
		want string // part of the error; "" = valid
	}{
		{Header{}, "unknown frame"},
		{Header{Type: 7}, "unknown frame"},
		{Header{Type: 31}, "unknown frame"},
		{Header{Type: TypeBye + 1}, "unknown frame"},
		{Header{Type: TypeFlush}, ""},
		{Header{Type: TypeFlush, Length: 1}, "a length"},
		{Header{Type: TypeFlush, Flags: 0x40}, "unknown flags"},
		{Header{Type: TypeFlush, Compression: 3}, "unknown compression"},
		{Header{Type: TypeFlush, Compression: CompressionHole}, "where none belongs"},
		{Header{Type: TypeFlush, Checksum: 4}, "unknown checksum"},
		{Header{Type: TypeFlush, Checksum: ChecksumCRC32C}, "without payload"},
		{Header{Type: TypeFlush, Sum: 1}, "does not have"},
		{Header{Type: TypeFlush, Payload: 1}, "where none belongs"},
		{Header{Type: TypeWrite}, "a length of 0"},
		{Header{Type: TypeWrite, Length: 4096, Payload: 4096}, ""},
		{Header{Type: TypeWrite, Length: 512, Payload: 512}, ""},
		{Header{Type: TypeWrite, Length: 4096, Payload: 4095}, "4095 bytes for 4096"},
		{Header{Type: TypeWrite, Length: 4096, Payload: 1 << 31}, "for 4096"},
		{Header{Type: TypeWrite, Length: 4096, Payload: 4096 + 32, Checksum: ChecksumSHA256}, ""},
		{Header{Type: TypeWrite, Length: 4096, Payload: 32, Checksum: ChecksumSHA256}, "less than its checksum"},
		{Header{Type: TypeWrite, Length: proto.MaxRequest, Payload: uint32(proto.MaxRequest)}, ""},
		{Header{Type: TypeWrite, Length: proto.MaxRequest + 1, Payload: uint32(proto.MaxRequest) + 1}, "allowed are"},
		{Header{Type: TypeWrite, Length: 4096, Compression: CompressionHole}, ""},
		{Header{Type: TypeWrite, Length: 4096, Compression: CompressionHole, Payload: 1}, "where none belongs"},
		{Header{Type: TypeWrite, Length: 4096, Compression: CompressionLZ4, Payload: 4096}, "compressed to 4096"},
		{Header{Type: TypeWrite, Length: 4096, Compression: CompressionLZ4, Payload: 0}, "compressed to 0"},
		{Header{Type: TypeWrite, Length: 4096, Compression: CompressionLZ4, Payload: 100}, ""},
		{Header{Type: TypeWrite, Offset: 1<<63 - 4096, Length: 4096, Payload: 4096}, "beyond any device"},
		{Header{Type: TypeWrite, Offset: 1<<64 - 4096, Length: 4096, Payload: 4096}, "beyond any device"},
		{Header{Type: TypeRead, Length: proto.MaxRequest}, ""},
		{Header{Type: TypeRead, Length: proto.MaxRequest + 1}, "allowed are"},
		{Header{Type: TypeRead, Length: 4096, Payload: 4096}, "where none belongs"},
		{Header{Type: TypeZero, Length: MaxZero}, ""},
		{Header{Type: TypeZero, Length: MaxZero + 1}, "allowed are"},
		{Header{Type: TypeZero}, "a length of 0"},
		{Header{Type: TypeData, Length: 4096, Aux: 5}, ""},
		{Header{Type: TypeData, Length: 4096, Aux: 5, Payload: 4096}, "where none belongs"},
		{Header{Type: TypeData, Length: 4096}, "0 bytes for 4096"},
		{Header{Type: TypeDigest, Length: whole, Payload: 1024}, ""},
		{Header{Type: TypeDigest, Length: whole + 4096, Payload: 1040}, "allowed are"},
		{Header{Type: TypeDigest, Length: 4097, Payload: 16}, "not whole blocks"},
		{Header{Type: TypeDigest, Length: 4096, Offset: 512, Payload: 16}, "not whole blocks"},
		{Header{Type: TypeDigest, Length: 4096, Payload: 32}, "32 bytes for 16"},
		{Header{Type: TypeDigest, Length: 4096, Compression: CompressionHole}, "of digests"},
		{Header{Type: TypeDigest, Length: 4096, Compression: CompressionLZ4, Payload: 8}, "compressed to 8"},
		{Header{Type: TypeAck, Length: MaxZero, Offset: 1 << 62}, ""},
		{Header{Type: TypeAck, Payload: 1}, "at most 0"},
		{Header{Type: TypeBitmap, Payload: MaxBody}, ""},
		{Header{Type: TypeBitmap, Payload: MaxBody + 32, Checksum: ChecksumSHA256}, ""},
		{Header{Type: TypeBitmap, Payload: MaxBody + 1}, "at most 65536"},
		{Header{Type: TypeBitmap, Payload: 100, Compression: CompressionLZ4}, "in a control frame"},
		{Header{Type: TypeBye, Payload: MaxByeText + 1}, "at most 512"},
		{Header{Type: TypeHello, Payload: 1<<32 - 1}, "at most 65536"},
	} {
		var b [HeaderSize]byte
		Encode(&c.h, b[:])
		var h Header
		err := Decode(b[:], &h)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", c.h, err, c.want)
		}
	}
}

func TestWords(t *testing.T) {
	for c := CompressionNone; c.Valid(); c++ {
		if got, err := ParseCompression(c.String()); got != c || err != nil {
			t.Errorf("%v: %v %v", c, got, err)
		}
	}
	for s := ChecksumNone; s.Valid(); s++ {
		if got, err := ParseChecksum(s.String()); got != s || err != nil {
			t.Errorf("%v: %v %v", s, got, err)
		}
	}
	if _, err := ParseCompression("lzf"); err == nil {
		t.Error("lzf")
	}
	if _, err := ParseChecksum(""); err == nil {
		t.Error("empty checksum")
	}
	if TypeBye.String() != "bye" || TypeDigest.String() != "digest" {
		t.Error("names of types")
	}
}

func TestAllZero(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := make([]byte, rapid.IntRange(0, 300).Draw(t, "n"))
		if !AllZero(b) {
			t.Fatal("zeroes are not zero")
		}
		if len(b) > 0 {
			b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = rapid.ByteRange(1, 255).Draw(t, "v")
			if AllZero(b) {
				t.Fatal("missed")
			}
		}
	})
}

// sample makes data of a kind: zeroes, text-like, random, or a mixture.
func sample(kind, n int, r *rand.Rand) []byte {
	b := make([]byte, n)
	for i := range b {
		switch {
		case kind == 1 || kind == 3 && i < n/2:
			b[i] = "the quick brown fox "[i%20] + byte(r.IntN(50)/49)
		case kind >= 2:
			b[i] = byte(r.Uint32())
		}
	}
	return b
}

func TestPayloadRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for c := CompressionNone; c.Valid(); c++ {
		for s := ChecksumNone; s.Valid(); s++ {
			e := NewEncoder(c, s)
			for kind := range 4 {
				for _, n := range []int{512, 1024, 4096, 100 << 9, 1 << 20} {
					src := sample(kind, n, r)
					h := Header{Type: TypeWrite, Length: proto.Length(n)}
					var prefix [PrefixSize]byte
					body := e.Payload(&h, src, make([]byte, ScratchSize(n)), &prefix)
					roundTrip(t, &h, append([]byte(nil), body...), prefix[:h.Prefix()], src)
					if c >= CompressionHole && kind == 0 && h.Payload != 0 {
						t.Errorf("%v: zeroes are sent", c)
					}
					if c == CompressionLZ4 && kind == 1 && n >= MinCompress && h.Compression != CompressionLZ4 {
						t.Errorf("%d bytes of text are not compressed", n)
					}
				}
			}
		}
	}
}

func roundTrip(t *testing.T, h *Header, body, prefix, src []byte) {
	t.Helper()
	var b [HeaderSize]byte
	var got Header
	Encode(h, b[:])
	if err := Decode(b[:], &got); err != nil || got.Body() != len(body) || got.Prefix() != len(prefix) || got.DataSize() != len(src) {
		t.Fatalf("%+v: %v", h, err)
	}
	if err := Verify(&got, prefix, body); err != nil {
		t.Fatalf("%+v: %v", h, err)
	}
	dst := body
	if got.Compression != CompressionNone {
		dst = bytes.Repeat([]byte{0xa5}, len(src))
		if err := Expand(&got, body, dst); err != nil {
			t.Fatalf("%+v: %v", h, err)
		}
	}
	if !bytes.Equal(dst, src) {
		t.Fatalf("%+v: data differ", h)
	}
	if len(body) > 0 && h.Checksum != ChecksumNone {
		body[len(body)/2] ^= 4
		if Verify(&got, prefix, body) == nil {
			t.Errorf("%+v: a flipped bit is not noticed", h)
		}
		body[len(body)/2] ^= 4
	}
}

func TestBodiesAlwaysHaveASum(t *testing.T) {
	e := NewEncoder(CompressionLZ4, ChecksumNone)
	h := Header{Type: TypeBitmap}
	var prefix [PrefixSize]byte
	e.Body(&h, []byte("bitmap"), &prefix)
	if h.Checksum != ChecksumCRC32C || h.Payload != 6 {
		t.Errorf("%+v", h)
	}
	e.Body(&h, nil, &prefix)
	if h.Checksum != ChecksumNone || h.Payload != 0 || h.Sum != 0 {
		t.Errorf("%+v", h)
	}
}

// TestAdaptive: random data are tried ever less often; data that compress are found again.
func TestAdaptive(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	e := NewEncoder(CompressionLZ4, ChecksumNone)
	noise, text := sample(2, 4096, r), sample(1, 4096, r)
	scratch := make([]byte, ScratchSize(4096))
	var prefix [PrefixSize]byte
	tries := 0
	for range 2000 {
		if e.Wants(4096) {
			tries++
		}
		e.Payload(&Header{Type: TypeWrite, Length: 4096}, noise, scratch, &prefix)
	}
	if tries < adaptAfter || tries > 30 {
		t.Errorf("%d tries", tries)
	}
	for i := 0; ; i++ {
		h := Header{Type: TypeWrite, Length: 4096}
		if e.Payload(&h, text, scratch, &prefix); h.Compression == CompressionLZ4 {
			break
		}
		if i > maxSkip {
			t.Fatal("compression never comes back")
		}
	}
	if !e.Wants(4096) || e.Wants(512) {
		t.Error("Wants")
	}
}

func TestExpandRefusesOtherSizes(t *testing.T) {
	e := NewEncoder(CompressionLZ4, ChecksumNone)
	h := Header{Type: TypeWrite, Length: 8192}
	src := sample(1, 8192, rand.New(rand.NewPCG(5, 6)))
	body := e.Payload(&h, src, make([]byte, ScratchSize(8192)), nil)
	for _, n := range []int{4096, 8191, 8193, 16384} {
		if Expand(&h, body, make([]byte, n)) == nil {
			t.Errorf("decompressed to %d bytes", n)
		}
	}
	if Expand(&h, body[:len(body)/2], make([]byte, 8192)) == nil {
		t.Error("half of it decompressed")
	}
}

func FuzzDecode(f *testing.F) {
	for _, g := range goldens {
		var b [HeaderSize]byte
		Encode(&g.h, b[:])
		f.Add(b[:], true)
	}
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if len(b) < HeaderSize {
			return
		}
		if mend { // otherwise the sum keeps the fuzzer out
			var h Header
			copyHeader(b, &h)
			Encode(&h, b)
		}
		var h Header
		if Decode(b, &h) != nil {
			return
		}
		if int(h.Payload) > MaxPayload || h.Body() < 0 || h.DataSize() > int(proto.MaxRequest) || h.Length > MaxZero && h.Type.OnData() {
			t.Fatalf("accepted %+v", h)
		}
		var again [HeaderSize]byte
		if Encode(&h, again[:]); !bytes.Equal(again[:], b[:HeaderSize]) {
			t.Fatalf("%x encodes as %x", b[:HeaderSize], again)
		}
	})
}

// copyHeader reads the fields without any check.
func copyHeader(b []byte, h *Header) {
	le := func(at, n int) (v uint64) {
		for i := n - 1; i >= 0; i-- {
			v = v<<8 | uint64(b[at+i])
		}
		return v
	}
	*h = Header{Type: Type(b[4]), Flags: b[5], Compression: Compression(b[6]), Checksum: Checksum(b[7]), Seq: le(8, 8),
		Offset: proto.Offset(le(16, 8)), Length: proto.Length(le(24, 4)), Payload: uint32(le(28, 4)), Aux: le(32, 8), Sum: le(40, 8)}
}

func FuzzExpand(f *testing.F) {
	e := NewEncoder(CompressionLZ4, ChecksumNone)
	src := sample(1, 4096, rand.New(rand.NewPCG(7, 8)))
	f.Add(e.Payload(&Header{Type: TypeWrite, Length: 4096}, src, make([]byte, ScratchSize(4096)), nil), uint16(4096))
	f.Fuzz(func(t *testing.T, body []byte, n uint16) {
		// Canaries around the destination show a decompressor that leaves it.
		mem := bytes.Repeat([]byte{0x5a}, int(n)+128)
		h := Header{Type: TypeWrite, Compression: CompressionLZ4, Length: proto.Length(n)}
		_ = Expand(&h, body, mem[64:64+int(n):64+int(n)])
		for i := range 64 {
			if mem[i] != 0x5a || mem[len(mem)-1-i] != 0x5a {
				t.Fatal("wrote outside the destination")
			}
		}
	})
}

func TestNothingAllocates(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	scratch := make([]byte, ScratchSize(65536))
	dst := make([]byte, 65536)
	var b [HeaderSize]byte
	for c := CompressionNone; c.Valid(); c++ {
		for s := ChecksumNone; s.Valid(); s++ {
			e := NewEncoder(c, s)
			src := sample(1, 65536, r)
			if n := testing.AllocsPerRun(20, func() {
				h := Header{Type: TypeWrite, Length: 65536}
				var prefix [PrefixSize]byte
				body := e.Payload(&h, src, scratch, &prefix)
				Encode(&h, b[:])
				if Decode(b[:], &h) != nil || Verify(&h, prefix[:h.Prefix()], body) != nil {
					t.Fatal("does not verify")
				}
				if h.Compression != CompressionNone {
					_ = Expand(&h, body, dst)
				}
			}); n != 0 {
				t.Errorf("%v/%v: %v allocations", c, s, n)
			}
		}
	}
}

func BenchmarkAllZero4K(b *testing.B) {
	p := make([]byte, 4096)
	b.SetBytes(4096)
	for b.Loop() {
		AllZero(p)
	}
}

func BenchmarkHeader(b *testing.B) {
	var buf [HeaderSize]byte
	b.ReportAllocs()
	for b.Loop() {
		h := goldens[0].h
		Encode(&h, buf[:])
		_ = Decode(buf[:], &h)
	}
}

func BenchmarkPayload(b *testing.B) {
	r := rand.New(rand.NewPCG(11, 12))
	for _, n := range []int{4096, 131072} {
		for c := CompressionNone; c.Valid(); c++ {
			for s := ChecksumNone; s.Valid(); s++ {
				b.Run(fmt.Sprintf("%d/%v/%v", n, c, s), func(b *testing.B) {
					e := NewEncoder(c, s)
					src, scratch := sample(3, n, r), make([]byte, ScratchSize(n))
					var prefix [PrefixSize]byte
					b.SetBytes(int64(n))
					b.ReportAllocs()
					for b.Loop() {
						e.Payload(&Header{Type: TypeWrite, Length: proto.Length(n)}, src, scratch, &prefix)
					}
				})
			}
		}
	}
}
