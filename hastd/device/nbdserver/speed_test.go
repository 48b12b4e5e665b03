package nbdserver

import (
	"encoding/binary"
	"io"
	"net"
	"os/exec"
	"testing"
	"time"

	"hast/hastd/device/devicetest"
)

// pump sends depth requests at a time and takes their answers, without allocating.
type pump struct {
	c        net.Conn
	out, in  []byte
	depth, n int
}

func newPump(t testing.TB, workers, depth int, cmd uint16, size int) *pump {
	t.Helper()
	s := devicetest.New(t, devicetest.Options{Size: 64 << 20, Workers: workers})
	path, _ := start(t, s)
	c := greeted(t, path, flagFixedNewstyle|flagNoZeroes)
	c.Write(optionBytes(optExportName, nil))
	if _, err := io.ReadFull(c, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	p := &pump{c: c, depth: depth}
	reply := replySize
	for i := range depth {
		p.out = append(p.out, requestBytes(0, cmd, uint64(i), uint64(i*size), uint32(size))...)
		if cmd == cmdWrite {
			p.out = append(p.out, make([]byte, size)...)
		}
	}
	if cmd == cmdRead {
		reply += size
	}
	p.in = make([]byte, depth*reply)
	return p
}

func (p *pump) turn(t testing.TB) {
	if _, err := p.c.Write(p.out); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(p.c, p.in); err != nil {
		t.Fatal(err)
	}
	if e := binary.BigEndian.Uint32(p.in[4:]); e != 0 {
		t.Fatalf("error %d", e)
	}
}

var pumps = []struct {
	name           string
	workers, depth int
	cmd            uint16
	size           int
}{
	{"write4k/depth1", 0, 1, cmdWrite, 4096},
	{"write4k/depth16", 0, 16, cmdWrite, 4096},
	{"write4k/depth16/workers", 2, 16, cmdWrite, 4096},
	{"read4k/depth1", 0, 1, cmdRead, 4096},
	{"read4k/depth16", 0, 16, cmdRead, 4096},
	{"write1m", 0, 1, cmdWrite, 1 << 20},
	{"read1m", 0, 1, cmdRead, 1 << 20},
	{"write4m", 0, 1, cmdWrite, 4 << 20},
	{"read4m", 0, 1, cmdRead, 4 << 20},
}

func BenchmarkRequests(b *testing.B) {
	for _, c := range pumps {
		b.Run(c.name, func(b *testing.B) {
			p := newPump(b, c.workers, c.depth, c.cmd, c.size)
			p.c.SetDeadline(time.Time{})
			b.ReportAllocs()
			b.SetBytes(int64(c.depth * c.size))
			for b.Loop() {
				p.turn(b)
			}
		})
	}
}

// TestNoAllocation: in steady state a request costs no allocation, whatever its kind.
func TestNoAllocation(t *testing.T) {
	for _, c := range pumps {
		t.Run(c.name, func(t *testing.T) {
			p := newPump(t, c.workers, c.depth, c.cmd, c.size)
			for range 20 {
				p.turn(t)
			}
			if n := testing.AllocsPerRun(50, func() { p.turn(t) }); n >= 1 {
				t.Errorf("%v allocations for %d requests", n, c.depth)
			}
		})
	}
}

// BenchmarkFio lets fio's nbd engine load the server, and reports requests per second.
func BenchmarkFio(b *testing.B) {
	for _, c := range []struct {
		name    string
		workers int
		args    []string
	}{
		{"randwrite4k/depth1", 0, []string{"--rw=randwrite", "--bs=4k", "--iodepth=1"}},
		{"randread4k/depth1", 0, []string{"--rw=randread", "--bs=4k", "--iodepth=1"}},
		{"randwrite4k/depth16", 0, []string{"--rw=randwrite", "--bs=4k", "--iodepth=16"}},
		{"randwrite4k/depth16/workers", 2, []string{"--rw=randwrite", "--bs=4k", "--iodepth=16"}},
		{"write1m/depth4", 0, []string{"--rw=write", "--bs=1m", "--iodepth=4"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			s := devicetest.New(b, devicetest.Options{Size: 256 << 20, Workers: c.workers})
			path, _ := start(b, s)
			for b.Loop() {
				before := s.Counts()
				args := append([]string{"--name=b", "--ioengine=nbd", "--uri=nbd+unix:///?socket=" + path, "--size=256m", "--runtime=1", "--time_based", "--minimal"}, c.args...)
				if out, err := exec.Command("fio", args...).CombinedOutput(); err != nil {
					b.Fatalf("%v\n%s", err, out)
				}
				after := s.Counts()
				n := float64(after.Writes + after.Reads - before.Writes - before.Reads)
				b.ReportMetric(n, "requests/s")
				b.ReportMetric(n/float64(after.Batches-before.Batches), "requests/batch")
			}
		})
	}
}
