package fuse

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"hast/hastd/device/devicetest"
)

// BenchmarkLoop measures one 4 KiB request at a time through loop and FUSE.
func BenchmarkLoop(b *testing.B) {
	for _, c := range []struct {
		name    string
		workers int
		write   bool
	}{{"write/inline", 0, true}, {"read/inline", 0, false}, {"write/workers", 2, true}} {
		b.Run(c.name, func(b *testing.B) {
			s := devicetest.New(b, devicetest.Options{Size: 64 << 20, Workers: c.workers})
			dir, _ := serve(b, s, s.Info())
			l := attachTest(b, dir, s.Info())
			d := openBlock(b, l.Path())
			m, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for i := int64(0); b.Loop(); i++ {
				if c.write {
					_, err = unix.Pwrite(d.fd, m, i%16384*4096)
				} else {
					_, err = unix.Pread(d.fd, m, i%16384*4096)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
			d.close()
			unix.Munmap(m)
		})
	}
}

// BenchmarkFio lets fio load the device 16 deep, and reports its requests per second.
func BenchmarkFio(b *testing.B) {
	for _, c := range []struct {
		name    string
		workers int
		rw, bs  string
	}{{"randwrite4k/inline", 0, "randwrite", "4k"}, {"randwrite4k/workers", 2, "randwrite", "4k"}, {"write1m", 0, "write", "1m"}, {"read1m", 0, "read", "1m"}} {
		b.Run(c.name, func(b *testing.B) {
			s := devicetest.New(b, devicetest.Options{Size: 256 << 20, Workers: c.workers})
			dir, _ := serve(b, s, s.Info())
			l := attachTest(b, dir, s.Info())
			for b.Loop() {
				before := s.Counts()
				out, err := exec.Command("fio", "--name=b", "--filename="+l.Path(), "--ioengine=libaio", "--direct=1", "--iodepth=16",
					"--rw="+c.rw, "--bs="+c.bs, "--runtime=1", "--time_based", "--minimal").CombinedOutput()
				if err != nil {
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
