package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"hast/extent"
	"hast/proto"
)

const testDevice = 64 << 20

// device makes a sparse file of n bytes; its name ends in what.
func device(t *testing.T, n int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, n); err != nil {
		t.Fatal(err)
	}
	return path
}

// put changes bytes behind the store's back.
func put(t *testing.T, path string, off int64, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, o Options) *extent.Superblock {
	t.Helper()
	sb, err := Create(o)
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

// load opens path and reads its metadata.
func load(t *testing.T, path, name string) (*Meta, error) {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return Load(f, name)
}

// fresh checks what new metadata says: nothing dirty, nothing active, no doubts.
func fresh(t *testing.T, m *Meta, sb *extent.Superblock, never bool) {
	t.Helper()
	if m.Super != *sb {
		t.Errorf("loaded\n%+v\nwas created as\n%+v", m.Super, *sb)
	}
	if m.Dirty.Count() != 0 || len(m.Active) != 0 || m.AllActive || len(m.BadPages) != 0 || len(m.Warnings) != 0 {
		t.Errorf("new metadata: %d dirty blocks, active %v (all: %v), bad pages %v, warnings %q", m.Dirty.Count(), m.Active, m.AllActive, m.BadPages, m.Warnings)
	}
	for e := range sb.Extents() {
		if m.Never.Test(e) != never {
			t.Fatalf("extent %d counts as never written: %v", e, !never)
		}
	}
}

func TestCreateAndLoad(t *testing.T) {
	for _, external := range []bool{false, true} {
		path := device(t, testDevice)
		o, area := Options{Name: "r", Local: path}, path
		if external {
			area = filepath.Join(t.TempDir(), "meta")
			o.Metadata = area
		}
		sb := create(t, o)
		m, err := load(t, area, "r")
		if err != nil {
			t.Fatal(err)
		}
		fresh(t, m, sb, true)
		if want := proto.Offset(testDevice); external && sb.DataSize != want || !external && sb.DataSize >= want {
			t.Errorf("external %v: %d bytes of data on a device of %d", external, sb.DataSize, want)
		}
		if _, err := load(t, area, "other"); err == nil || !strings.Contains(err.Error(), `"r"`) {
			t.Errorf("metadata of another resource: %v", err)
		}
	}
}

func TestCreateRefusesWhatHoldsData(t *testing.T) {
	cases := []struct {
		off        int64
		text, want string
	}{
		{0x438, "\x53\xef", "ext2"},
		{0, "XFSB", "XFS"},
		{510, "\x55\xaa", "partition table"},
		{12345, "x", "byte 12345"},
		{testDevice - 1, "x", "is not zero"},
	}
	for _, c := range cases {
		path := device(t, testDevice)
		put(t, path, c.off, []byte(c.text))
		_, err := Create(Options{Name: "r", Local: path})
		if !errors.Is(err, ErrHoldsData) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q at %d: %v", c.text, c.off, err)
		}
		create(t, Options{Name: "r", Local: path, Force: true})
		if _, err := Create(Options{Name: "r", Local: path}); !errors.Is(err, ErrHoldsData) || !strings.Contains(err.Error(), "resource r") {
			t.Errorf("metadata are overwritten: %v", err)
		}
	}
	path, meta := device(t, testDevice), device(t, 4096)
	if _, err := Create(Options{Name: "r", Local: path, Metadata: meta}); !errors.Is(err, ErrHoldsData) {
		t.Errorf("a metadata file that is not empty: %v", err)
	}
}

func TestCreateRefusesWhileInUse(t *testing.T) {
	path := device(t, testDevice)
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := Create(Options{Name: "r", Local: path, Force: true}); !errors.Is(err, ErrInUse) {
		t.Errorf("a device that is held: %v", err)
	}
}

func TestSizes(t *testing.T) {
	for _, c := range []struct {
		name string
		dev  int64
		o    Options
	}{
		{"no room for metadata", 64 << 10, Options{}},
		{"media size not in blocks", testDevice, Options{MediaSize: 4097}},
		{"media size negative", testDevice, Options{MediaSize: -4096}},
		{"media size beyond the device", testDevice, Options{MediaSize: testDevice}},
		{"extent size no power of two", testDevice, Options{ExtentSize: 3 << 20}},
		{"too few hot extents", testDevice, Options{HotExtents: 1}},
		{"adopt without metadata", testDevice, Options{Adopt: true}},
		{"adopt with an odd tail", testDevice + 512, Options{Adopt: true, Metadata: "meta"}},
	} {
		o := c.o
		o.Name, o.Local = "r", device(t, c.dev)
		_, err := Create(o)
		var size *SizeError
		if !errors.As(err, &size) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	path := device(t, testDevice)
	if sb := create(t, Options{Name: "r", Local: path, MediaSize: 8 << 20}); sb.DataSize != 8<<20 {
		t.Errorf("asked for 8 MiB, got %d", sb.DataSize)
	}
	if _, err := load(t, device(t, 4096), "r"); !errors.Is(err, ErrNoMetadata) {
		t.Errorf("a device that is too small: %v", err)
	}
	if _, err := load(t, device(t, testDevice), "r"); !errors.Is(err, ErrNoMetadata) {
		t.Errorf("a blank device: %v", err)
	}
}

// TestCreateThatFails leaves nothing behind that a second try would have to be forced over.
func TestCreateThatFails(t *testing.T) {
	dir := t.TempDir()
	created, empty, kept := filepath.Join(dir, "created"), filepath.Join(dir, "empty"), filepath.Join(dir, "kept")
	for path, text := range map[string]string{empty: "", kept: "something"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	local := device(t, testDevice)
	// No file may be longer than this: the metadata don't fit.
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	limit := func(l unix.Rlimit) {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &l); err != nil {
			t.Fatal(err)
		}
	}
	limit(unix.Rlimit{Cur: 8192, Max: old.Max})
	_, err := Create(Options{Name: "r", Local: local, Metadata: created})
	limit(old)
	if !errors.Is(err, unix.EFBIG) {
		t.Errorf("metadata that don't fit: %v", err)
	}
	if _, err := os.Stat(created); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file is left: %v", err)
	}
	// Somebody has the metadata file.
	for path, size := range map[string]int64{empty: 0, kept: 9} {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			t.Fatal(err)
		}
		_, err = Create(Options{Name: "r", Local: local, Metadata: path, Force: path == kept})
		if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
			t.Errorf("a metadata file that is held: %v", err)
		}
		f.Close()
		st, err := os.Stat(path)
		if err != nil || st.Size() != size {
			t.Errorf("%s has %d bytes afterwards (%v)", path, st.Size(), err)
		}
	}
	// What was formatted is undone as well.
	for _, path := range []string{created, empty} {
		area, undo, err := openMeta(path, 1<<20, false)
		if err != nil {
			t.Fatal(err)
		}
		area.Close()
		undo()
		create(t, Options{Name: "r", Local: local, Metadata: path})
	}
}

// TestHolderOfAnotherDevice: the same inode number elsewhere is another file.
func TestHolderOfAnotherDevice(t *testing.T) {
	path := device(t, testDevice)
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if who := holder(st); !strings.Contains(who, fmt.Sprint(os.Getpid())) {
		t.Errorf("held by %q, not by this process", who)
	}
	st.Sys().(*syscall.Stat_t).Dev++
	if who := holder(st); who != "" {
		t.Errorf("a file on another device is held by%s", who)
	}
}

func TestShrunk(t *testing.T) {
	path := device(t, testDevice)
	sb := create(t, Options{Name: "r", Local: path})
	if err := os.Truncate(path, testDevice/2); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := New(f, nil, sb, nil); err == nil || !strings.Contains(err.Error(), "shrunk") {
		t.Errorf("half of the device is gone: %v", err)
	}
}

func TestAdoptKeepsData(t *testing.T) {
	path, meta := device(t, testDevice), filepath.Join(t.TempDir(), "meta")
	put(t, path, 0x438, []byte("\x53\xef"))
	put(t, path, testDevice-1, []byte{7})
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sb := create(t, Options{Name: "r", Local: path, Metadata: meta, Adopt: true})
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Fatalf("adopting changed the data (%v)", err)
	}
	m, err := load(t, meta, "r")
	if err != nil {
		t.Fatal(err)
	}
	fresh(t, m, sb, false)
	if sb.DataSize != testDevice || sb.Current == (proto.ID{}) {
		t.Errorf("%d bytes, generation %v: want all of the device, and a generation of its own", sb.DataSize, sb.Current)
	}
}

// TestDamage breaks each part of the metadata. What is lost may only make more dirty or active, never less (rule 3).
func TestDamage(t *testing.T) {
	rubbish := bytes.Repeat([]byte{0xa5}, 4096)
	for _, c := range []struct {
		name  string
		spots func(l *extent.Layout) []int64
		check func(m *Meta, err error) bool
	}{
		{"one superblock", func(l *extent.Layout) []int64 { return l.Super[:1] }, func(m *Meta, err error) bool { return err == nil }},
		{"the other superblock", func(l *extent.Layout) []int64 { return l.Super[1:] }, func(m *Meta, err error) bool { return err == nil }},
		{"both superblocks", func(l *extent.Layout) []int64 { return l.Super[:] }, func(m *Meta, err error) bool { return err != nil }},
		{"a bitmap page", func(l *extent.Layout) []int64 { return []int64{l.Pages} }, func(m *Meta, err error) bool {
			return err == nil && len(m.BadPages) == 1 && len(m.Warnings) == 1 && m.Dirty.Count() == m.Super.Blocks()
		}},
		{"the whole map", func(l *extent.Layout) []int64 { return l.Map[:] }, func(m *Meta, err error) bool {
			return err == nil && m.AllActive && len(m.Warnings) > 0
		}},
	} {
		path := device(t, testDevice)
		sb := create(t, Options{Name: "r", Local: path})
		l := extent.LayoutFor(sb.Geometry, int(sb.HotExtents))
		for _, off := range c.spots(&l) {
			put(t, path, l.AreaStart(testDevice)+off, rubbish)
		}
		if m, err := load(t, path, "r"); !c.check(m, err) {
			t.Errorf("%s is damaged: %v, %+v", c.name, err, m)
		}
	}
}

func TestSealNoticesForeignWrites(t *testing.T) {
	for _, c := range []struct {
		name    string
		off     int64 // from the end of the data if negative; 0: nothing is written
		changed bool
	}{{"nothing", 0, false}, {"the head", 4096, true}, {"the tail", -1, true}, {"the middle, which is not looked at", 20 << 20, false}} {
		path := device(t, testDevice)
		sb := create(t, Options{Name: "r", Local: path})
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := Seal(f, f, "r"); err != nil {
			t.Fatal(err)
		}
		if off := c.off; off != 0 {
			if off < 0 {
				off += int64(sb.DataSize)
			}
			put(t, path, off, []byte{1})
		}
		m, err := Load(f, "r")
		if err != nil {
			t.Fatal(err)
		}
		if m.Super.Flags&extent.FlagClean == 0 || m.Super.Sequence != sb.Sequence+1 {
			t.Errorf("after the seal: flags %v, sequence %d after %d", m.Super.Flags, m.Super.Sequence, sb.Sequence)
		}
		if changed, err := ChangedWithout(f, m); err != nil || changed != c.changed {
			t.Errorf("%s written: changed %v, %v", c.name, changed, err)
		}
		f.Close()
	}
}

func TestDiskOperations(t *testing.T) {
	path := device(t, testDevice)
	sb := create(t, Options{Name: "r", Local: path})
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(f, nil, sb, func() bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	in, out := align(64<<10), align(64<<10)
	for i := range in {
		in[i] = byte(i>>12) + 1
	}
	for _, fua := range []bool{false, true} {
		if e := d.Write(in, 4096, fua); e != proto.OK {
			t.Fatal(e)
		}
		if e := d.Read(out, 4096); e != proto.OK || !bytes.Equal(in, out) {
			t.Fatalf("fua %v: read back something else: %v", fua, e)
		}
		if e := d.Zero(8192, 8192, fua, fua); e != proto.OK {
			t.Fatal(e)
		}
		if e := d.Read(out, 4096); e != proto.OK || !bytes.Equal(out[4096:12288], make([]byte, 8192)) || !bytes.Equal(out[12288:], in[12288:]) || !bytes.Equal(out[:4096], in[:4096]) {
			t.Fatalf("fua %v: zeroed something else: %v", fua, e)
		}
	}
	if e := d.Flush(); e != proto.OK {
		t.Fatal(e)
	}
	if e := d.Read(out, testDevice); e != proto.EIO {
		t.Errorf("a read behind the end: %v", e)
	}
}

func TestOutcome(t *testing.T) {
	for _, c := range []struct {
		res   int64
		errno proto.Errno
		again bool
	}{{4096, proto.OK, false}, {512, proto.OK, true}, {0, proto.OK, true}, {-int64(unix.EAGAIN), proto.OK, true}, {-int64(unix.EINVAL), proto.OK, true},
		{-int64(unix.EIO), proto.EIO, false}, {-int64(unix.ETIMEDOUT), proto.EIO, false}, {-int64(unix.ENOSPC), proto.ENOSPC, false}} {
		if e, again := Outcome(c.res, 4096); again != c.again || e != c.errno {
			t.Errorf("%d: %v, again %v", c.res, e, again)
		}
	}
}
