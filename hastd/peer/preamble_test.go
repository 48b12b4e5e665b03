package peer

import (
	"context"
	"encoding/hex"
	"net"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestPreambleGolden(t *testing.T) {
	p := &Preamble{Low: 1, High: 2, Kind: Control, Resource: "data", From: "hb1", To: "hb2"}
	for i := range p.Token {
		p.Token[i] = byte(i)
	}
	b, err := p.Encode()
	if err != nil {
		t.Fatal(err)
	}
	want := "48415354" + "0100" + "0200" + "02000000" + "000102030405060708090a0b0c0d0e0f" +
		"64617461" + strings.Repeat("00", 60) + "686231" + strings.Repeat("00", 29) + "686232" + strings.Repeat("00", 29) + "6b23109f"
	if got := hex.EncodeToString(b); got != want {
		t.Errorf("preamble\n%s\nwant\n%s", got, want)
	}
	r := (&Reply{Version: 1, Code: CodeInit, Text: "role init"}).Encode()
	want = "48415352" + "0100" + "04" + "00" + "726f6c6520696e6974" + strings.Repeat("00", 107) + "8a4937fa"
	if got := hex.EncodeToString(r); got != want {
		t.Errorf("reply\n%s\nwant\n%s", got, want)
	}
}

func TestPreambleRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &Preamble{Low: rapid.Uint16Max(5).Draw(t, "low"), Kind: rapid.SampledFrom([]Kind{Data, Control}).Draw(t, "kind"),
			Resource: rapid.StringMatching(`[a-z0-9_.-]{1,64}`).Draw(t, "resource"),
			From:     rapid.StringMatching(`[a-z0-9-]{1,32}`).Draw(t, "from"), To: rapid.StringMatching(`[a-z0-9-]{1,32}`).Draw(t, "to")}
		p.High = p.Low + rapid.Uint16Max(5).Draw(t, "more")
		copy(p.Token[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "token"))
		b, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		q, err := ParsePreamble(b)
		if err != nil || *q != *p {
			t.Fatalf("%+v: %+v, %v", p, q, err)
		}
		if want := p.Low <= 1 && p.High >= 1; (p.Pick() == 1) != want {
			t.Fatalf("%+v: picked %d", p, p.Pick())
		}
		at := rapid.IntRange(0, len(b)-1).Draw(t, "at")
		b[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if _, err := ParsePreamble(b); err == nil {
			t.Fatal("damage is not noticed")
		}
	})
}

func TestPreambleRefuses(t *testing.T) {
	for _, p := range []*Preamble{
		{Low: 1, High: 1, Kind: Data, Resource: strings.Repeat("x", 65), From: "a", To: "b"},
		{Low: 1, High: 1, Kind: Data, Resource: "x", From: strings.Repeat("x", 33), To: "b"},
	} {
		if _, err := p.Encode(); err == nil {
			t.Errorf("%+v", p)
		}
	}
	for _, p := range []*Preamble{
		{Low: 1, High: 1, Resource: "x", From: "a", To: "b"},
		{Low: 2, High: 1, Kind: Data, Resource: "x", From: "a", To: "b"},
		{Low: 1, High: 1, Kind: Data, From: "a", To: "b"},
		{Low: 1, High: 1, Kind: Data, Resource: "x\x00y", From: "a", To: "b"},
		{Low: 1, High: 1, Kind: Data, Resource: "x\n", From: "a", To: "b"},
	} {
		b, _ := p.Encode()
		if q, err := ParsePreamble(b); err == nil {
			t.Errorf("accepted %+v", q)
		}
	}
	for _, r := range []*Reply{{Version: 2, Code: CodeOK}, {Code: CodeOK}, {Version: 1}, {Version: 1, Code: CodeVersion + 1}} {
		if q, err := ParseReply(r.Encode()); err == nil {
			t.Errorf("accepted %+v", q)
		}
	}
	r, err := ParseReply((&Reply{Code: CodeVersion, Text: "a\nb" + strings.Repeat("c", 200)}).Encode())
	if err != nil || len(r.Text) != MaxReplyText || r.Text[:3] != "a?b" {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestPreambleOverTCP(t *testing.T) {
	a, b := tcpPair(t)
	soon := time.Now().Add(5 * time.Second)
	p := &Preamble{Low: 1, High: 1, Kind: Data, Resource: "data", From: "a", To: "b"}
	sent, err := WritePreamble(a, p, soon)
	if err != nil {
		t.Fatal(err)
	}
	a.Write([]byte("next")) // stays in the socket
	got, raw, err := ReadPreamble(b, soon)
	if err != nil || *got != *p || string(raw) != string(sent) {
		t.Fatalf("%+v, %v", got, err)
	}
	sent, err = WriteReply(b, &Reply{Version: 1, Code: CodeOK}, nil, nil, soon)
	if err != nil {
		t.Fatal(err)
	}
	r, raw, err := ReadReply(a, soon)
	if err != nil || r.Code != CodeOK || string(raw) != string(sent) {
		t.Fatalf("%+v, %v", r, err)
	}
	next := make([]byte, 4)
	if b.Read(next); string(next) != "next" {
		t.Errorf("the bytes after the preamble are %q", next)
	}
	begin := time.Now()
	if _, _, err := ReadPreamble(b, begin.Add(50*time.Millisecond)); err == nil || time.Since(begin) > 5*time.Second {
		t.Errorf("a silent stranger: %v", err)
	}
}

func TestDialNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if c, err := Dial(context.Background(), "tcp", l.Addr().String(), ""); err == nil {
		c.Close()
		t.Error("connected to nobody")
	}
	if _, err := Dial(context.Background(), "tcp", l.Addr().String(), "no such address"); err == nil {
		t.Error("bad source address")
	}
}

func FuzzPreamble(f *testing.F) {
	p := &Preamble{Low: 1, High: 1, Kind: Data, Resource: "data", From: "a", To: "b"}
	b, _ := p.Encode()
	f.Add(b, true)
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend && len(b) == PreambleSize {
			resum(b, 156)
		}
		p, err := ParsePreamble(b)
		if err != nil {
			return
		}
		again, err := p.Encode()
		if err != nil || string(again) != string(b) {
			t.Fatalf("%x encodes as %x, %v", b, again, err)
		}
	})
}

func FuzzReply(f *testing.F) {
	f.Add((&Reply{Version: 1, Code: CodeOK, Text: "welcome"}).Encode(), true)
	f.Fuzz(func(t *testing.T, b []byte, mend bool) {
		if mend && len(b) == ReplySize {
			resum(b, 124)
		}
		if r, err := ParseReply(b); err == nil {
			for _, c := range r.Text {
				if c < ' ' || c > '~' {
					t.Fatalf("%q reaches the log", r.Text)
				}
			}
		}
	})
}
