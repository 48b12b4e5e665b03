package hastd

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"hast/hastd/peer"
)

// Bounds of what strangers can make the parent hold (rules 14, 15).
const (
	// maxGreeting is how many connections may be between accept and preamble; a silent one goes after greetTime.
	maxGreeting = 64
	// greetTime is for 128 bytes after a connection is made: one retransmission or two on a bad link.
	greetTime = 5 * time.Second
	// maxHalves is how many first connections may wait for their second: two for each of 64 resources.
	maxHalves = 128
	// halfTime is how long they may: the second follows at once.
	halfTime = 10 * time.Second
)

// answer is what the parent says to a peer's preamble.
type answer uint8

const (
	answerOK       answer = iota
	answerUnknown         // no such resource
	answerNotYours        // configured for another peer, or for none
	answerInit            // the role here is init
	answerBusy            // not now: a worker is starting, or too much is waiting
	answerVersion         // no common version of the protocol
)

// greeting is a peer's preamble, decoded; all of it is untrusted.
type greeting struct {
	control  bool
	resource string
	node     string // who calls
	to       string // whom it means
	token    [16]byte
	raw      []byte
	refuse   string // why no conversation is possible at all, "" normally
}

// greeter speaks the preamble (hastd/peer), within the deadline.
type greeter interface {
	read(c net.Conn, deadline time.Time) (greeting, error)
	reply(c net.Conn, a answer, text string, secret, preamble []byte, deadline time.Time) (raw []byte, err error)
}

// acceptor takes connections of the peer's, reads one preamble from each, and passes pairs on to workers.
type acceptor struct {
	d     *Daemon
	greet greeter
	book  *addressBook
	slots chan struct{}

	mu     sync.Mutex
	halves map[halfKey]*half
	wg     sync.WaitGroup
}

// halfKey ties two connections together.
type halfKey struct {
	resource string
	token    [16]byte
}

// half is a connection that waits for its other.
type half struct {
	conn     *net.TCPConn
	control  bool
	preamble [][]byte
	expire   *time.Timer
}

func newAcceptor(d *Daemon, g greeter, book *addressBook) *acceptor {
	return &acceptor{d: d, greet: g, book: book, slots: make(chan struct{}, maxGreeting), halves: make(map[halfKey]*half)}
}

// serve accepts on l until it is closed.
func (a *acceptor) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				continue
			}
			if isClosed(err) {
				return
			}
			a.d.log.Error("cannot accept connections", "address", l.Addr(), "err", err)
			time.Sleep(100 * time.Millisecond) // out of descriptors: don't spin
			continue
		}
		tc, ok := c.(*net.TCPConn)
		if !ok {
			c.Close()
			continue
		}
		select {
		case a.slots <- struct{}{}:
			a.wg.Go(func() { defer func() { <-a.slots }(); a.handle(tc) })
		default:
			c.Close() // strangers fill the slots; the peer tries again within a second
		}
	}
}

// close ends what is waiting and returns when no goroutine is left. The listeners must be closed already.
func (a *acceptor) close() {
	a.dropAll()
	a.wg.Wait()
	a.dropAll() // what a greeting that was under way has left
}

func (a *acceptor) dropAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, h := range a.halves {
		a.dropLocked(k, h)
	}
}

// handle reads the preamble of one connection. Who is not the peer of any resource is sent away before a byte is read.
func (a *acceptor) handle(c *net.TCPConn) {
	keep := false
	defer func() {
		if !keep {
			c.Close()
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), greetTime)
	defer cancel()
	deadline := time.Now().Add(greetTime)
	from := sourceOf(c)
	if !a.anyPeer(ctx, from) {
		a.d.log.Debug("connection from an address that is nobody's remote; closed", "from", from)
		return
	}
	g, err := a.greet.read(c, deadline)
	if err != nil {
		a.d.log.Warn("connection without a proper preamble; closed", "from", from, "err", err)
		return
	}
	r, ans, text := a.judge(ctx, &g, from)
	var secret []byte
	if r != nil {
		secret = r.current().key
	}
	raw, err := a.greet.reply(c, ans, text, secret, g.raw, deadline)
	if err != nil || ans != answerOK {
		if ans != answerOK {
			a.d.log.Log(ctx, LevelRequests, "connection refused", "from", from, "peer", g.node, "for", g.resource, "reason", text)
		}
		return
	}
	if err := peer.Tune(c, r.current().timeout); err != nil {
		a.d.log.Warn("connection keeps the kernel's settings", "from", from, "err", err)
	}
	keep = a.match(r, &g, c, [][]byte{g.raw, raw})
}

func sourceOf(c net.Conn) netip.Addr {
	ap, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

func (a *acceptor) anyPeer(ctx context.Context, from netip.Addr) bool {
	for _, r := range a.d.all() {
		if s := r.current(); !s.alone() && a.book.matches(ctx, s.remote, from) {
			return true
		}
	}
	return false
}

// judge decides whether the connection is welcome.
func (a *acceptor) judge(ctx context.Context, g *greeting, from netip.Addr) (*resource, answer, string) {
	if g.refuse != "" {
		return nil, answerVersion, g.refuse
	}
	r, ok := a.d.find(g.resource)
	if !ok {
		return nil, answerUnknown, fmt.Sprintf("node %s has no resource of that name", a.d.node)
	}
	s := r.current()
	switch {
	case s.alone():
		return nil, answerNotYours, fmt.Sprintf("node %s runs it alone: remote = \"none\"", a.d.node)
	case !a.book.matches(ctx, s.remote, from):
		return nil, answerNotYours, fmt.Sprintf("node %s expects its peer at %s, not at %s", a.d.node, s.remote, from)
	case g.node != s.peer || g.to != a.d.node:
		return nil, answerNotYours, fmt.Sprintf("this is node %s, its peer is node %s", a.d.node, s.peer)
	}
	w := r.proc()
	switch {
	case w != nil && !w.gone():
		return r, answerOK, ""
	case r.roleNow().String() == "init" && r.phaseNow() == "":
		return r, answerInit, fmt.Sprintf("role init on node %s", a.d.node)
	}
	return r, answerBusy, fmt.Sprintf("node %s is starting its worker", a.d.node)
}

// match finds the other connection of the pair, or stores c to wait for it. It reports whether c was kept.
func (a *acceptor) match(r *resource, g *greeting, c *net.TCPConn, pre [][]byte) bool {
	k := halfKey{g.resource, g.token}
	a.mu.Lock()
	h := a.halves[k]
	if h == nil {
		defer a.mu.Unlock()
		if len(a.halves) >= maxHalves {
			return false
		}
		h = &half{conn: c, control: g.control, preamble: pre}
		h.expire = time.AfterFunc(halfTime, func() {
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.halves[k] == h {
				a.dropLocked(k, h)
			}
		})
		a.halves[k] = h
		return true
	}
	if h.control == g.control {
		a.mu.Unlock()
		return false // two of a kind: the first may still find its other
	}
	h.expire.Stop()
	delete(a.halves, k)
	a.mu.Unlock()
	a.hand(r, k, h, &half{conn: c, control: g.control, preamble: pre})
	return true
}

func (a *acceptor) dropLocked(k halfKey, h *half) {
	h.expire.Stop()
	h.conn.Close()
	delete(a.halves, k)
}

// hand gives a complete pair to the worker.
func (a *acceptor) hand(r *resource, k halfKey, x, y *half) {
	if x.control {
		x, y = y, x
	}
	j := &joined{token: k.token, preambles: append(x.preamble, y.preamble...), remote: x.conn.RemoteAddr().String()}
	var err error
	if j.data, err = takeFile(x.conn); err == nil {
		j.control, err = takeFile(y.conn)
	}
	x.conn.Close()
	y.conn.Close()
	w := r.proc()
	if err != nil || w == nil {
		j.close()
		return
	}
	if err := j.pass(w, false); err != nil {
		r.log.Warn("the worker does not take the peer's connection", "err", err)
	}
}

// takeFile returns a descriptor of its own for c's socket.
func takeFile(c *net.TCPConn) (*os.File, error) { return c.File() }
