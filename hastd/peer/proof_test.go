package peer

import (
	"bytes"
	"net"
	"testing"
	"time"
)

// TestReplyProof: a reply proves nothing to anybody but who has the secret and sent this very preamble, and only as it was sent.
func TestReplyProof(t *testing.T) {
	secret, other := bytes.Repeat([]byte{1}, KeySize), bytes.Repeat([]byte{2}, KeySize)
	preamble, again := bytes.Repeat([]byte{3}, PreambleSize), bytes.Repeat([]byte{4}, PreambleSize)
	answer := func(secret []byte) []byte {
		t.Helper()
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		go WriteReply(b, &Reply{Version: Version, Code: CodeInit, Text: "role init on node hb1"}, secret, preamble, time.Time{})
		r, raw, err := ReadReply(a, time.Now().Add(5*time.Second))
		if err != nil || r.Code != CodeInit || r.Text != "role init on node hb1" {
			t.Fatal(r, err)
		}
		return raw
	}
	good := answer(secret)
	if !Proven(secret, preamble, good) {
		t.Error("a right proof is refused")
	}
	for what, ok := range map[string]bool{
		"another secret":   Proven(other, preamble, good),
		"another preamble": Proven(secret, again, good),
		"no secret here":   Proven(nil, preamble, good),
		"no secret there":  Proven(secret, preamble, answer(nil)),
		"a stranger":       Proven(secret, preamble, answer(other)),
	} {
		if ok {
			t.Errorf("%s: the reply counts as proven", what)
		}
	}
	for i := range replyProofEnd {
		bad := bytes.Clone(good)
		if bad[i]++; Proven(secret, preamble, bad) {
			t.Errorf("byte %d can be changed", i)
		}
	}
}
