package nbdserver

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"hast/hastd/device/devicetest"
)

// TestMixedSizes: whatever follows whatever in one stream, each payload arrives where it belongs. How far the server reads ahead
// depends on the size of the last payload, so both kinds follow each other here, in pieces that end anywhere.
func TestMixedSizes(t *testing.T) {
	const size = 64 << 20
	s := devicetest.New(t, devicetest.Options{Size: size, Workers: 2})
	path, _ := start(t, s)
	c := greeted(t, path, flagFixedNewstyle|flagNoZeroes)
	c.SetDeadline(time.Now().Add(30 * time.Second))
	c.Write(optionBytes(optExportName, nil))
	if _, err := io.ReadFull(c, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	want := make([]byte, size)
	var out []byte
	requests, off := 0, 0
	for _, n := range []int{128, 128, 4, 4, 128, 4, 32, 28, 32, 4, 1024, 1024, 4, 1028, 2052, 4, 64, 64, 64, 4, 4, 4} {
		n <<= 10
		for i := range want[off : off+n] {
			want[off+i] = byte(rng.Uint32())
		}
		out = append(out, requestBytes(0, cmdWrite, uint64(requests), uint64(off), uint32(n))...)
		out = append(out, want[off:off+n]...)
		requests, off = requests+1, off+n
		if rng.IntN(4) == 0 {
			out = append(out, requestBytes(0, cmdFlush, uint64(requests), 0, 0)...)
			requests++
		}
	}
	go func() {
		for rest := out; len(rest) > 0; {
			n := min(len(rest), 1+rng.IntN(300<<10))
			if _, err := c.Write(rest[:n]); err != nil {
				return
			}
			rest = rest[n:]
		}
	}()
	if _, err := io.ReadFull(c, make([]byte, requests*replySize)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, off)
	reader := dial(t, path)
	if err := reader.Read(got, 0); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < off; i += 4096 {
		if !bytes.Equal(got[i:i+4096], want[i:i+4096]) {
			t.Fatalf("the block at %d is not what was written", i)
		}
	}
}
