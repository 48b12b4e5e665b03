package lease

import (
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestLeaseRunsOutByItself(t *testing.T) {
	g, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	v, err := Map(g.File())
	if err != nil {
		t.Fatal(err)
	}
	if v.Valid() || v.Deadline() != 0 {
		t.Fatal("a new lease must have run out already")
	}
	g.Renew(40 * time.Millisecond)
	if !v.Valid() {
		t.Fatal("renewed, yet not valid")
	}
	time.Sleep(60 * time.Millisecond)
	if v.Valid() {
		t.Fatal("valid after its deadline")
	}
	g.Renew(time.Hour)
	g.Revoke()
	if v.Valid() {
		t.Fatal("valid after revocation")
	}
}

func TestWorkerCannotWriteIt(t *testing.T) {
	g, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	fd := int(g.File().Fd())
	if _, err := unix.Mmap(fd, 0, Size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
		t.Error("a second writable mapping was allowed")
	}
	if _, err := unix.Pwrite(fd, make([]byte, 8), 0); err == nil {
		t.Error("write to the descriptor was allowed")
	}
	if err := unix.Ftruncate(fd, 0); err == nil {
		t.Error("truncation was allowed: the worker would die of SIGBUS")
	}
}

func TestMapRefusesForeignFile(t *testing.T) {
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Map(f); err == nil {
		t.Fatal("mapped a file of the wrong size")
	}
}

func BenchmarkValid(b *testing.B) {
	g, _ := New()
	defer g.Close()
	v, _ := Map(g.File())
	g.Renew(time.Hour)
	b.ReportAllocs()
	for b.Loop() {
		if !v.Valid() {
			b.Fatal()
		}
	}
}
