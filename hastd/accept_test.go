package hastd

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"hast/proto"
)

// lineGreeter is the simplest preamble there is: "kind resource node token", padded to 64 bytes.
type lineGreeter struct{}

func (lineGreeter) read(c net.Conn, deadline time.Time) (g greeting, err error) {
	c.SetReadDeadline(deadline)
	b := make([]byte, 64)
	if _, err := io.ReadFull(c, b); err != nil {
		return g, err
	}
	f := strings.Fields(strings.TrimRight(string(b), " "))
	if len(f) != 4 {
		return g, errors.New("malformed")
	}
	g.control, g.resource, g.node = f[0] == "control", f[1], f[2]
	g.to = "hb1"
	copy(g.token[:], f[3])
	g.raw = b
	return g, nil
}

func (lineGreeter) reply(c net.Conn, a answer, text string, secret, preamble []byte, _ time.Time) ([]byte, error) {
	raw := []byte{byte(a)}
	_, err := c.Write(raw)
	return raw, err
}

// listen starts an acceptor on loopback.
func (fx *fixture) listen() string {
	fx.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fx.t.Fatal(err)
	}
	a := newAcceptor(fx.Daemon, lineGreeter{}, &addressBook{})
	done := make(chan struct{})
	go func() { a.serve(l); close(done) }()
	fx.t.Cleanup(func() {
		l.Close()
		<-done
		a.close()
		if len(a.halves) != 0 {
			fx.t.Error("half connections are left")
		}
	})
	return l.Addr().String()
}

// knock sends one preamble and returns the connection and the answer.
func knock(t *testing.T, addr, line string) (net.Conn, answer) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	c.Write([]byte(line + strings.Repeat(" ", 64-len(line))))
	b := make([]byte, 1)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return c, answer(b[0])
}

func TestAcceptJudges(t *testing.T) {
	fx := newFixture(t, fake{})
	r := fx.add("data")
	fx.add("lonely", alone)
	fx.add("far", func(s *spec) { s.remote = "192.0.2.1:8457" })
	fx.add("idle")
	fx.role(r, proto.RoleSecondary)
	addr := fx.listen()
	for line, want := range map[string]answer{
		"data data hb2 t1":   answerOK,
		"data nope hb2 t1":   answerUnknown,
		"data lonely hb2 t1": answerNotYours,
		"data far hb2 t1":    answerNotYours,
		"data data hb7 t1":   answerNotYours,
		"data idle hb2 t1":   answerInit,
	} {
		if _, got := knock(t, addr, line); got != want {
			t.Errorf("%q: answer %d, want %d", line, got, want)
		}
	}
}

func TestPairReachesTheWorker(t *testing.T) {
	fx := newFixture(t, fake{})
	r := fx.add("data")
	fx.role(r, proto.RoleSecondary)
	addr := fx.listen()
	knock(t, addr, "control data hb2 tokenA")
	knock(t, addr, "control data hb2 tokenA") // a second of its kind is not the other
	knock(t, addr, "data data hb2 tokenB")    // nor is another pair's
	if st, _ := r.proc().snapshot(); st.Link == "connected" {
		t.Fatal("connected without a pair")
	}
	knock(t, addr, "data data hb2 tokenA")
	eventually(t, "the worker has its connections", 3*time.Second, func() bool {
		st, _ := r.proc().snapshot()
		return st.Link == "connected"
	})
	eventually(t, "hook connect", time.Second, func() bool {
		return strings.Contains(strings.Join(fx.hooks.list(), ";"), "connect data")
	})
}

func TestSilentClientsBlockNobody(t *testing.T) {
	fx := newFixture(t, fake{})
	r := fx.add("data")
	fx.role(r, proto.RoleSecondary)
	addr := fx.listen()
	var quiet []net.Conn
	for range maxGreeting - 1 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		quiet = append(quiet, c)
	}
	begin := time.Now()
	if _, got := knock(t, addr, "data data hb2 t"); got != answerOK {
		t.Errorf("answer %d", got)
	}
	fx.role(r, proto.RoleInit)
	if d := time.Since(begin); d > 2*time.Second {
		t.Errorf("took %v", d)
	}
	for _, c := range quiet {
		c.Close()
	}
}
