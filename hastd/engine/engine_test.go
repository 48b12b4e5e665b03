package engine

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hast/hastd/device"
	"hast/hastd/peer"
	"hast/hastd/replica"
	"hast/hastd/store"
	"hast/proto"
	"hast/proto/wire"
)

// side is one node of a test: a real file, a real machine, an engine.
type side struct {
	t      testing.TB
	name   string
	path   string
	disk   *store.Disk
	eng    *Engine
	wants  chan struct{}
	cancel context.CancelFunc
	ended  chan error
	mu     sync.Mutex
	log    []string

	expired atomic.Bool  // the lease
	uses    atomic.Int64 // if not 0: after so many looks at it, it is expired
}

func (s *side) lease() bool {
	if s.uses.Load() > 0 {
		if s.uses.Add(-1) == 0 {
			s.expired.Store(true)
		}
		return true
	}
	return !s.expired.Load()
}

const testSize = 64 << 20

func newSide(t testing.TB, name string, primary bool) *side {
	t.Helper()
	s := &side{t: t, name: name, path: filepath.Join(testDir(t), name), wants: make(chan struct{}, 100)}
	f, err := os.Create(s.path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(testSize); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := store.Create(store.Options{Name: "data", Local: s.path}); err != nil {
		t.Fatal(err)
	}
	s.open(primary)
	return s
}

// testDir is on a real file system: direct I/O is not possible on tmpfs.
func testDir(t testing.TB) string {
	d, err := os.MkdirTemp("/var/tmp", "hast-engine-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return d
}

func (s *side) open(primary bool) {
	s.t.Helper()
	f, err := store.Open(s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	m, err := store.Load(f, "data")
	if err != nil {
		s.t.Fatal(err)
	}
	if s.disk, err = store.New(f, nil, &m.Super, nil); err != nil {
		s.t.Fatal(err)
	}
	arena, err := NewArena(ArenaSize)
	if err != nil {
		s.t.Fatal(err)
	}
	rc := replica.Config{Node: proto.MakeNode(s.name), Name: "data", BootID: proto.ID{1}, Layout: m.Layout, AppTags: AppTags, SyncTags: SyncTags,
		Settings: replica.Settings{Mode: proto.ModeFullsync, IdleClean: 10 * replica.Second},
		Super:    m.Super, SuperSlot: m.Slot, Dirty: m.Dirty, Never: m.Never, Active: m.Active, AllActive: m.AllActive, MapSeq: m.MapSeq}
	cfg := Config{Primary: primary, Disk: s.disk, Arena: arena,
		Connect: func(string) { s.wants <- struct{}{} }, Lease: s.lease,
		Report: func(r replica.Report) {
			s.mu.Lock()
			s.log = append(s.log, fmt.Sprintf("%s %s: %s", s.name, r.Kind, r.Text))
			s.mu.Unlock()
		}}
	var seed [32]byte
	rand.Read(seed[:])
	for i := range cfg.Random {
		cfg.Random[i] = binary.LittleEndian.Uint64(seed[8*i:])
	}
	if primary {
		cfg.Machine = replica.NewPrimary(rc)
	} else {
		cfg.Machine = replica.NewSecondary(rc)
	}
	s.eng = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel, s.ended = cancel, make(chan error, 1)
	go func() { s.ended <- s.eng.Run(ctx) }()
}

func (s *side) close() {
	s.cancel()
	<-s.ended
	s.disk.Close()
}

func (s *side) stop() {
	s.t.Helper()
	s.eng.Stop()
	select {
	case err := <-s.ended:
		if err != nil {
			s.t.Fatalf("%s: %v\n%v", s.name, err, s.log)
		}
	case <-time.After(10 * time.Second):
		s.t.Fatalf("%s does not stop: %+v\n%v", s.name, s.eng.Status(), s.log)
	}
	s.cancel()
	s.disk.Close()
}

// connect joins two engines over loopback.
func connect(t testing.TB, a, b *side, encrypt bool) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var pa, pb peer.Pair
	pa.Initiator = true
	rand.Read(pa.Token[:])
	pb.Token = pa.Token
	for _, k := range []int{0, 1} {
		d, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if k == 0 {
			pa.Data, pb.Data = d.(*net.TCPConn), c.(*net.TCPConn)
		} else {
			pa.Control, pb.Control = d.(*net.TCPConn), c.(*net.TCPConn)
		}
	}
	for _, k := range []peer.Kind{peer.Data, peer.Control} {
		p := peer.Preamble{Low: peer.Version, High: peer.Version, Kind: k, Token: pa.Token, Resource: "data", From: "a", To: "b"}
		r := peer.Reply{Version: peer.Version, Code: peer.CodeOK}
		x, err := p.Encode()
		if err != nil {
			t.Fatal(err)
		}
		pa.Preambles = append(pa.Preambles, x, r.Encode())
	}
	pb.Preambles = pa.Preambles
	cfg := func(me, other string) peer.Config {
		return peer.Config{Key: bytes.Repeat([]byte{7}, 32), Encrypt: encrypt, Timeout: 5 * time.Second, Compression: wire.CompressionHole, Checksum: wire.ChecksumCRC32C,
			Resource: "data", Node: me, Peer: other}
	}
	errs := make(chan error, 2)
	for _, x := range []struct {
		s *side
		p peer.Pair
		c peer.Config
	}{{a, pa, cfg("a", "b")}, {b, pb, cfg("b", "a")}} {
		go func() {
			l, err := peer.Handshake(context.Background(), x.c, x.p)
			if err == nil {
				x.s.eng.PeerUp(l)
			}
			errs <- err
		}()
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	end := time.Now().Add(5 * time.Second)
	for a.eng.Status().Link != replica.LinkConnected {
		if time.Now().After(end) {
			t.Fatalf("not connected: %+v\n%+v\n%v %v", a.eng.Status(), b.eng.Status(), a.log, b.log)
		}
		time.Sleep(time.Millisecond)
	}
}

// client is a front-end without a front.
type client struct {
	e    *Engine
	done chan *device.Request
}

func (c *client) Complete(list []*device.Request) {
	for _, r := range list {
		c.done <- r
	}
}

func (c *client) submit(op proto.Op, off proto.Offset, data []byte, n proto.Length) {
	buf := proto.Length(0)
	if op == proto.OpRead || op == proto.OpWrite {
		buf = n
	}
	r := c.e.Get(buf)
	r.Op, r.Off, r.Len, r.Owner = op, off, n, c
	if op == proto.OpWrite {
		copy(r.Buf, data)
	}
	c.e.Submit([]*device.Request{r})
}

func (c *client) do(t testing.TB, op proto.Op, off proto.Offset, data []byte, n proto.Length) []byte {
	t.Helper()
	c.submit(op, off, data, n)
	select {
	case r := <-c.done:
		if r.Errno != proto.OK {
			t.Fatalf("%s at %d: %v", op, off, r.Errno)
		}
		var out []byte
		if op == proto.OpRead {
			out = append(out, r.Buf...)
		}
		c.e.Put(r)
		return out
	case <-time.After(10 * time.Second):
		t.Fatalf("%s at %d is not answered: %+v", op, off, c.e.Status())
	}
	return nil
}

func same(t *testing.T, a, b *side) {
	t.Helper()
	x, _ := os.ReadFile(a.path)
	y, _ := os.ReadFile(b.path)
	f, err := os.Open(a.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	m, err := store.Load(f, "data")
	if err != nil {
		t.Fatal(err)
	}
	n := m.Super.DataSize
	if !bytes.Equal(x[:n], y[:n]) {
		t.Fatal("the disks differ")
	}
}

func TestEveryOperation(t *testing.T) {
	for _, encrypt := range []bool{false, true} {
		t.Run(fmt.Sprintf("encrypt=%v", encrypt), func(t *testing.T) {
			a, b := newSide(t, "a", true), newSide(t, "b", false)
			connect(t, a, b, encrypt)
			c := &client{a.eng, make(chan *device.Request, AppTags)}
			one := bytes.Repeat([]byte{1}, 4096)
			big := make([]byte, 1<<20)
			rand.Read(big)
			c.do(t, proto.OpWrite, 4096, one, 4096)
			c.do(t, proto.OpWrite, 1<<20, big, 1<<20)
			c.do(t, proto.OpFlush, 0, nil, 0)
			if got := c.do(t, proto.OpRead, 1<<20, nil, 1<<20); !bytes.Equal(got, big) {
				t.Fatal("read back something else")
			}
			c.do(t, proto.OpZero, 1<<20, nil, 512<<10)
			if got := c.do(t, proto.OpRead, 1<<20, nil, 1<<20); !bytes.Equal(got[512<<10:], big[512<<10:]) || !wire.AllZero(got[:512<<10]) {
				t.Fatal("zeroed something else")
			}
			a.stop()
			b.stop()
			same(t, a, b)
			if n := a.eng.table.inUse() + b.eng.table.inUse(); n != 0 {
				t.Errorf("%d entries were not given back", n)
			}
		})
	}
}

func TestManyWritersAndLostLinks(t *testing.T) {
	a, b := newSide(t, "a", true), newSide(t, "b", false)
	connect(t, a, b, false)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for w := range 8 {
		wg.Go(func() {
			c := &client{a.eng, make(chan *device.Request, 16)}
			buf := make([]byte, 8192)
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				rand.Read(buf)
				off := proto.Offset(w*1<<20 + i%200*4096)
				c.do(t, proto.OpWrite, off, buf, 8192)
				if i%7 == 0 {
					c.do(t, proto.OpFlush, 0, nil, 0)
				}
				if got := c.do(t, proto.OpRead, off, nil, 8192); !bytes.Equal(got, buf) {
					t.Error("read back something else")
					return
				}
			}
		})
	}
	for range 4 {
		time.Sleep(150 * time.Millisecond)
		b.eng.DropPeer("test")
		time.Sleep(50 * time.Millisecond)
		connect(t, a, b, false)
	}
	close(stop)
	wg.Wait()
	end := time.Now().Add(10 * time.Second)
	for s := a.eng.Status(); s.DirtyBytes > 0 || s.Syncing; s = a.eng.Status() {
		if time.Now().After(end) {
			t.Fatalf("does not get clean: %+v\n%v", s, a.log)
		}
		time.Sleep(10 * time.Millisecond)
	}
	a.stop()
	b.stop()
	same(t, a, b)
	if n := a.eng.table.inUse() + b.eng.table.inUse(); n != 0 {
		t.Errorf("%d entries were not given back", n)
	}
}

func TestLeaseHoldsAnswersAndRequests(t *testing.T) {
	a, b := newSide(t, "a", true), newSide(t, "b", false)
	connect(t, a, b, false)
	c := &client{a.eng, make(chan *device.Request, 16)}
	set := func(v bool) { a.expired.Store(!v) }
	set(false)
	c.submit(proto.OpWrite, 0, make([]byte, 4096), 4096)
	select {
	case <-c.done:
		t.Fatal("answered without a lease")
	case <-time.After(100 * time.Millisecond):
	}
	set(true)
	select {
	case r := <-c.done:
		a.eng.Put(r)
	case <-time.After(5 * time.Second):
		t.Fatal("not answered when the lease was back")
	}
	a.close()
	b.close()
}

func benchmarkWrites(bm *testing.B, depth int, size int, encrypt bool) {
	a, b := newSide(bm, "a", true), newSide(bm, "b", false)
	connect(bm, a, b, encrypt)
	c := &client{a.eng, make(chan *device.Request, AppTags)}
	buf := make([]byte, 1<<20)
	rand.Read(buf)
	for off := 0; off < testSize-(2<<20); off += 1 << 20 {
		c.do(bm, proto.OpWrite, proto.Offset(off), buf, 1<<20)
	}
	bm.SetBytes(int64(size))
	bm.ReportAllocs()
	bm.ResetTimer()
	inflight := 0
	for i := 0; i < bm.N; i++ {
		for inflight == depth {
			c.e.Put(<-c.done)
			inflight--
		}
		c.submit(proto.OpWrite, proto.Offset(i*7919%((testSize-(4<<20))/size)*size), nil, proto.Length(size))
		inflight++
	}
	for ; inflight > 0; inflight-- {
		c.e.Put(<-c.done)
	}
	bm.StopTimer()
	a.close()
	b.close()
}

func BenchmarkWrite4KDepth1(b *testing.B)     { benchmarkWrites(b, 1, 4096, false) }
func BenchmarkWrite4KDepth16(b *testing.B)    { benchmarkWrites(b, 16, 4096, false) }
func BenchmarkWrite128KDepth8(b *testing.B)   { benchmarkWrites(b, 8, 128<<10, false) }
func BenchmarkWrite4KDepth16TLS(b *testing.B) { benchmarkWrites(b, 16, 4096, true) }
