package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hast/proto"
	"hast/proto/wire"
	"hast/test/lab"
)

// hastPort is where hastd listens for its peer.
const hastPort = 8457

// edit changes the node's configuration file; old has to be there.
func edit(t *testing.T, n *lab.Node, old, new string) {
	t.Helper()
	text := run(t, n, "cat", "/etc/hast/hast.toml")
	if !strings.Contains(text, old) {
		t.Fatalf("%s's configuration has no %q:\n%s", n.Name, old, text)
	}
	if err := os.WriteFile(n.Dir+"/edited.toml", []byte(strings.Replace(text, old, new, 1)+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	run(t, n, "cp", n.Dir+"/edited.toml", "/etc/hast/hast.toml")
}

// onNode is the text of the resource's section for a node, which edit adds to.
func onNode(n *lab.Node) string { return "[resource.data.on." + n.Name + "]\n" }

// ready creates the resource on both nodes and starts them; nobody has a role yet.
func ready(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, n := range []*lab.Node{l.B, l.A} {
		run(t, n, "hastctl", "create", "data")
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
}

// keeper starts a process that stays in the node's namespaces until the test ends, and returns its id.
func keeper(t *testing.T, n *lab.Node) int {
	t.Helper()
	c := n.Command("sh", "-c", "echo ready; exec sleep 600")
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err == nil {
		_, err = io.ReadFull(out, make([]byte, 6))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Process.Kill(); c.Wait() })
	return c.Process.Pid
}

// inside runs f in the network namespace of process pid: a socket belongs to where it was made. The thread goes back
// afterwards; it must not end, because the lab's processes die with the thread that started them.
func inside[T any](pid int, f func() (T, error)) (v T, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return v, err
	}
	defer own.Close()
	there, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return v, err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return v, err
	}
	defer func() {
		if e := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); e != nil {
			panic(e) // everything that this thread does from here on would be on the wrong node
		}
	}()
	return f()
}

// call connects from an address of the node that pid is on.
func call(pid int, from, to string) (net.Conn, error) {
	return inside(pid, func() (net.Conn, error) {
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		return d.Dial("tcp4", to)
	})
}

// TestRemoteNone: a node without a peer serves at once, calls nobody, and answers nobody.
func TestRemoteNone(t *testing.T) {
	l := newLab(t, lab.Options{Resource: `timeout = "3s"`})
	edit(t, l.A, onNode(l.A), onNode(l.A)+"remote = \"none\"\n")
	ready(t, l)
	run(t, l.B, "hastctl", "role", "secondary", "data")
	if d := took(t, "promotion", func() error { _, err := l.A.Ctl("role", "primary", "data"); return err }); d > 2*time.Second {
		t.Errorf("promotion took %v: somebody was waited for", d)
	}
	device(t, l.A)
	a := open(t, l.A)
	a.fill(0, 2*mib, 1)
	run(t, l.B, "hastctl", "role", "init", "data")
	if out, err := l.B.Ctl("role", "primary", "data"); err == nil {
		t.Errorf("a node was promoted by the word of one that runs alone: %s", out)
	}
	if r, err := status(l.A); err != nil || r.Role != "primary" {
		t.Errorf("after a call: %+v, %v", r, err)
	}
	a.mustWrite(2*mib, 65536, 2)
	var opened int
	for line := range strings.Lines(sh(t, l.A, "cat /proc/net/snmp")) {
		var words [6]int
		if n, _ := fmt.Sscanf(line, "Tcp: %d %d %d %d %d", &words[0], &words[1], &words[2], &words[3], &words[4]); n == 5 {
			opened = words[4]
		}
	}
	if opened != 0 {
		t.Errorf("%d connections were opened from a node without a peer", opened)
	}
	a.f.Close()
}

// TestOnlyTheRemoteAddress: who calls from another address is closed before a byte is read, with the right key and name or not.
func TestOnlyTheRemoteAddress(t *testing.T) {
	const other = "10.99.7.9"
	l := newLab(t, lab.Options{Resource: `timeout = "3s"`})
	run(t, l.A, "ip", "addr", "add", other+"/24", "dev", "eth0")
	edit(t, l.A, onNode(l.A), onNode(l.A)+"source = \""+other+"\"\n")
	ready(t, l)
	run(t, l.B, "hastctl", "role", "secondary", "data")
	pid := keeper(t, l.A)
	for _, c := range []struct {
		from   string
		closed bool
	}{{other, true}, {l.A.Addr, false}} {
		conn, err := call(pid, c.from, fmt.Sprintf("%s:%d", l.B.Addr, hastPort))
		if err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(2 * time.Second)) // a preamble is waited for longer
		n, err := conn.Read(make([]byte, 1))
		if got := err != nil && !errors.Is(err, os.ErrDeadlineExceeded); n != 0 || got != c.closed {
			t.Errorf("a silent caller from %s: %d bytes, %v; closed: %v expected", c.from, n, err, c.closed)
		}
		conn.Close()
	}
	out, err := l.A.Ctl("role", "primary", "data")
	if err == nil {
		t.Errorf("a peer with another address than its own was accepted: %s", out)
	}
	if r, err := status(l.B); err != nil || r.State != "waiting" {
		t.Errorf("the secondary: %+v, %v", r, err)
	}
	edit(t, l.A, "source = \""+other+"\"\n", "")
	run(t, l.A, "hastctl", "reload")
	run(t, l.A, "hastctl", "role", "primary", "data")
	until(t, 10*time.Second, "connected", is(l.A, connected))
}

// TestNewConnectionReplacesADeadOne: a primary that lost its connections without a word is served at once, not after the secondary's timeout.
func TestNewConnectionReplacesADeadOne(t *testing.T) {
	l := newLab(t, lab.Options{Resource: `timeout = "60s"`})
	edit(t, l.A, `timeout = "60s"`, `timeout = "1s"`) // after which its kernel gives up saying that a connection has ended
	up(t, l)
	a := open(t, l.A)
	a.fill(0, 4*mib, 1)
	a.f.Close()
	run(t, l.B, "ip", "link", "set", "eth0", "down") // the other end, so that what is sent here vanishes
	l.A.Die()
	until(t, 30*time.Second, "the end of the old connections", func() error {
		if out := sh(t, l.A, "grep -c ' 0[1-9B] ' /proc/net/tcp || true"); out != "0" {
			return errors.New(out + " are left")
		}
		return nil
	})
	run(t, l.B, "ip", "link", "set", "eth0", "up")
	if r, err := status(l.B); err != nil || r.State != "connected" {
		t.Fatalf("the secondary has noticed, so this test tests nothing: %+v, %v", r, err)
	}
	if err := l.A.Start(); err != nil {
		t.Fatal(err)
	}
	d := took(t, "promotion", func() error { _, err := l.A.Ctl("role", "primary", "data"); return err })
	if d > 10*time.Second {
		t.Errorf("the promotion took %v", d)
	}
	until(t, 10*time.Second, "connected", is(l.A, connected))
	b := open(t, l.A)
	b.holds(0, mib, 1)
	b.mustWrite(0, mib, 2)
	b.f.Close()
	sameDisks(t, l)
}

// TestSizesDiffer: copies of different sizes never connect, both nodes name both sizes, and a primary keeps serving.
func TestSizesDiffer(t *testing.T) {
	l := newLab(t, lab.Options{Resource: `timeout = "3s"`})
	run(t, l.A, "hastctl", "create", "data")
	run(t, l.B, "hastctl", "create", "-m", "32M", "data")
	for _, n := range []*lab.Node{l.B, l.A} {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	promote(t, l.A)
	a := open(t, l.A)
	a.fill(0, 4*mib, 1)
	run(t, l.B, "hastctl", "role", "secondary", "data")
	ra, err := status(l.A)
	if err != nil {
		t.Fatal(err)
	}
	sizes := []string{fmt.Sprint(ra.Size), fmt.Sprint(32 * mib)}
	for _, n := range []*lab.Node{l.A, l.B} {
		until(t, 15*time.Second, "both sizes in the status", is(n, func(r resource) bool {
			return r.State != "connected" && strings.Contains(r.Why, sizes[0]) && strings.Contains(r.Why, sizes[1])
		}))
		b, _ := os.ReadFile(n.Log())
		if !strings.Contains(string(b), " has "+sizes[0]) || !strings.Contains(string(b), " has "+sizes[1]) {
			t.Errorf("the log of %s does not name both sizes, %v", n.Name, sizes)
		}
	}
	a.mustWrite(4*mib, mib, 2)
	a.holds(0, mib, 1)
	if r, err := status(l.A); err != nil || r.Worker != ra.Worker || r.Role != "primary" {
		t.Errorf("the primary does not simply go on: %+v, %v", r, err)
	}
	a.f.Close()
}

// TestAnotherKeyIsToldAtOnce: the reason of a refusal does not wait for a timeout.
func TestAnotherKeyIsToldAtOnce(t *testing.T) {
	l := newLab(t, lab.Options{Resource: `timeout = "60s"`})
	sh(t, l.B, "rm /etc/hast/key && hastctl key new /etc/hast/key")
	ready(t, l)
	run(t, l.B, "hastctl", "role", "secondary", "data")
	began := time.Now()
	change := make(chan string, 1)
	go func() { out, _ := l.A.Ctl("--timeout", "8s", "role", "primary", "data"); change <- out }()
	until(t, 6*time.Second, "the reason on the node that asks", is(l.A, saysNoKey))
	until(t, 6*time.Second, "the reason on the node that refuses", is(l.B, saysNoKey))
	t.Logf("known after %v; role primary --timeout 8s: %s, after %v", time.Since(began), <-change, time.Since(began))
}

// proxy is a wire between the nodes that a test can damage. It stands on the first node, which calls it instead of the peer.
type proxy struct {
	t  *testing.T
	l  net.Listener
	wg sync.WaitGroup

	mu     sync.Mutex
	damage func(b []byte) bool // changes what goes to the peer; true: it is done, and not to be called again
	back   func(b []byte) bool // the same for what comes from there
	lag    time.Duration       // how long everything is on its way
	conns  []net.Conn
}

// proxied makes two nodes with a proxy between them; the first one is primary.
func proxied(t *testing.T, o lab.Options) (*lab.Lab, *proxy) {
	t.Helper()
	l := newLab(t, o)
	pid := keeper(t, l.A)
	p := &proxy{t: t}
	var err error
	if p.l, err = inside(pid, func() (net.Listener, error) { return net.Listen("tcp4", "127.0.0.1:0") }); err != nil {
		t.Fatal(err)
	}
	edit(t, l.A, onNode(l.A), onNode(l.A)+fmt.Sprintf("remote = %q\n", p.l.Addr()))
	p.wg.Go(func() {
		for {
			c, err := p.l.Accept()
			if err != nil {
				return
			}
			far, err := call(pid, l.A.Addr, fmt.Sprintf("%s:%d", l.B.Addr, hastPort))
			if err != nil {
				c.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, c, far)
			p.mu.Unlock()
			p.wg.Go(func() { p.pass(c, far, &p.damage) })
			p.wg.Go(func() { p.pass(far, c, &p.back) })
		}
	})
	t.Cleanup(func() {
		p.l.Close()
		p.mu.Lock()
		for _, c := range p.conns {
			c.Close()
		}
		p.mu.Unlock()
		p.wg.Wait()
	})
	up(t, l)
	return l, p
}

// parcel is what was read at once, and when it arrives.
type parcel struct {
	b  []byte
	at time.Time
}

// pass copies one direction until it ends, through the damage and the lag that are asked for.
func (p *proxy) pass(from, to net.Conn, damage *func([]byte) bool) {
	defer from.Close()
	way := make(chan parcel, 4096)
	defer close(way)
	p.wg.Go(func() {
		defer to.Close()
		for x := range way {
			time.Sleep(time.Until(x.at))
			if _, err := to.Write(x.b); err != nil {
				from.Close()
				for range way {
				}
				return
			}
		}
	})
	b := make([]byte, mib)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		p.mu.Lock()
		if *damage != nil && (*damage)(b[:n]) {
			*damage = nil
		}
		at := time.Now().Add(p.lag)
		p.mu.Unlock()
		way <- parcel{bytes.Clone(b[:n]), at}
	}
}

// set begins damage of what goes to the peer.
func (p *proxy) set(f func([]byte) bool) { p.mu.Lock(); p.damage = f; p.mu.Unlock() }

func (p *proxy) pending() bool { p.mu.Lock(); defer p.mu.Unlock(); return p.damage != nil }

// flipLarge flips one bit in the middle of what is large enough to be data.
func flipLarge(b []byte) bool {
	if len(b) < 2048 {
		return false
	}
	b[len(b)/2] ^= 0x10
	return true
}

// TestDamagedData: what was changed on its way is never stored; the connection is made anew and the data sent again.
func TestDamagedData(t *testing.T) {
	for _, c := range []struct{ name, settings string }{
		{"crc32c", "encrypt = false\nchecksum = \"crc32c\""},
		{"xxhash", "encrypt = false\nchecksum = \"xxhash\""},
		{"sha256", "encrypt = false\nchecksum = \"sha256\""},
		{"encrypted", "checksum = \"none\""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, p := proxied(t, lab.Options{Resource: c.settings + "\ntimeout = \"3s\""})
			a := open(t, l.A)
			a.fill(0, 8*mib, 1)
			until(t, 10*time.Second, "clean", is(l.A, connected))
			p.set(flipLarge)
			a.mustWrite(2*mib, 65536, 2)
			if p.pending() {
				t.Fatal("nothing was damaged")
			}
			until(t, 20*time.Second, "in sync again", is(l.A, connected))
			if logged(t, l.B, "connection to the primary lost") == 0 {
				t.Error("the connection that brought damaged data was kept")
			}
			a.holds(2*mib, 65536, 2)
			a.f.Close()
			sameDisks(t, l)
		})
	}
}

// TestDamagedAnswer: data from the peer that was changed on its way is not given to the application.
func TestDamagedAnswer(t *testing.T) {
	l, p := proxied(t, lab.Options{Faulty: true, Resource: "encrypt = false\ntimeout = \"3s\""})
	a := open(t, l.A)
	a.fill(0, 8*mib, 1)
	until(t, 10*time.Second, "clean", is(l.A, connected))
	p.mu.Lock()
	p.back = flipLarge
	p.mu.Unlock()
	fault(t, l.A, "fail read from=%d len=65536 times=1", 2*mib)
	// The block can't be read here, and the link goes: an error is an honest answer, other data is none.
	if err := a.within(func() error { _, err := a.f.ReadAt(a.buf[:65536], 2*mib); return err }); err == nil {
		a.holds(2*mib, 65536, 1)
	}
	p.mu.Lock()
	if p.back != nil {
		t.Error("nothing was damaged")
	}
	p.mu.Unlock()
	until(t, 20*time.Second, "in sync again", is(l.A, connected))
	a.holds(2*mib, 65536, 1)
	a.f.Close()
	sameDisks(t, l)
}

// TestRequestOutsideOfTheDevice: a well-formed request that no disk can carry out ends the connection, and nothing else: no
// byte of it is stored, neither process dies, and what was asked for in earnest is sent again.
func TestRequestOutsideOfTheDevice(t *testing.T) {
	l, p := proxied(t, lab.Options{Resource: "encrypt = false\nchecksum = \"none\"\ncompression = \"none\"\ntimeout = \"3s\""})
	a := open(t, l.A)
	a.fill(0, 8*mib, 1)
	until(t, 10*time.Second, "clean", is(l.A, connected))
	ra, _ := status(l.A)
	rb, _ := status(l.B)
	for i, offset := range []uint64{1 << 63, ^uint64(0) &^ 4095, uint64(ra.Size), uint64(ra.Size) - 4096, 8*mib + 1} {
		lost := logged(t, l.B, "connection to the primary lost")
		p.set(func(b []byte) bool {
			for at := 0; at+wire.HeaderSize <= len(b); at++ {
				var h wire.Header
				if wire.Decode(b[at:at+wire.HeaderSize], &h) == nil && h.Type == wire.TypeWrite && h.Length == 65536 {
					h.Offset = proto.Offset(offset)
					wire.Encode(&h, b[at:])
					return true
				}
			}
			return false
		})
		a.mustWrite(int64(i)*mib, 65536, uint64(10+i))
		if p.pending() {
			t.Fatal("no frame was changed")
		}
		until(t, 20*time.Second, "in sync again", is(l.A, connected))
		if logged(t, l.B, "connection to the primary lost") == lost {
			t.Errorf("a write of 65536 bytes at %d of %d was taken", offset, ra.Size)
		}
		a.holds(int64(i)*mib, 65536, uint64(10+i))
	}
	if r, _ := status(l.A); r.Worker != ra.Worker {
		t.Errorf("the primary's worker was %d and is %d", ra.Worker, r.Worker)
	}
	if r, _ := status(l.B); r.Worker != rb.Worker {
		t.Errorf("the secondary's worker was %d and is %d", rb.Worker, r.Worker)
	}
	a.f.Close()
	sameDisks(t, l)
}
