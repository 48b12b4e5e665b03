package hastd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"hast/hastd/peer"
)

// peerGreeter answers preambles in the protocol of hastd/peer.
type peerGreeter struct{}

var answerCodes = map[answer]peer.Code{
	answerOK: peer.CodeOK, answerUnknown: peer.CodeUnknownResource, answerNotYours: peer.CodeNotForYou,
	answerInit: peer.CodeInit, answerBusy: peer.CodeBusy, answerVersion: peer.CodeVersion,
}

func (peerGreeter) read(c net.Conn, deadline time.Time) (g greeting, err error) {
	p, raw, err := peer.ReadPreamble(c, deadline)
	if err != nil {
		return g, err
	}
	g = greeting{control: p.Kind == peer.Control, resource: p.Resource, node: p.From, to: p.To, token: p.Token, raw: raw}
	if p.Pick() == 0 {
		g.refuse = fmt.Sprintf("this node speaks protocol version %d: upgrade the older one", peer.Version)
	}
	return g, nil
}

func (peerGreeter) reply(c net.Conn, a answer, text string, secret, preamble []byte, deadline time.Time) ([]byte, error) {
	version := peer.Version
	if a == answerVersion {
		version = 0
	}
	return peer.WriteReply(c, &peer.Reply{Version: version, Code: answerCodes[a], Text: text}, secret, preamble, deadline)
}

// peerLinker dials in the protocol of hastd/peer.
type peerLinker struct{}

// errAnswer is a peer's refusal.
type errAnswer struct {
	code   peer.Code
	text   string
	proven bool // by somebody with our key
}

func (e *errAnswer) Error() string {
	if e.text == "" {
		return e.code.String()
	}
	return e.code.String() + ": " + e.text
}

// dial makes both connections, one after the other: a refusal is known after the first.
func (peerLinker) dial(ctx context.Context, s *spec, node string, token [16]byte) (*joined, dialOutcome) {
	j := &joined{token: token, remote: s.remote}
	for _, kind := range []peer.Kind{peer.Data, peer.Control} {
		c, sent, got, err := dialOne(ctx, s, &peer.Preamble{Low: peer.Version, High: peer.Version, Kind: kind,
			Token: token, Resource: s.name, From: node, To: s.peer})
		if err == nil {
			f, e := takeFile(c)
			c.Close()
			if err = e; e == nil && kind == peer.Data {
				j.data = f
			} else if e == nil {
				j.control = f
			}
			j.preambles = append(j.preambles, sent, got)
		}
		if err != nil {
			j.close()
			return nil, outcomeOf(err)
		}
	}
	return j, dialOutcome{kind: dialPassed}
}

func dialOne(ctx context.Context, s *spec, p *peer.Preamble) (c *net.TCPConn, sent, got []byte, err error) {
	if c, err = peer.Dial(ctx, "tcp", s.remote, s.source); err != nil {
		return nil, nil, nil, err
	}
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Now()) })
	defer stop()
	deadline, _ := ctx.Deadline()
	var r *peer.Reply
	if sent, err = peer.WritePreamble(c, p, deadline); err == nil {
		r, got, err = peer.ReadReply(c, deadline)
	}
	if err == nil && r.Code != peer.CodeOK {
		err = &errAnswer{r.Code, r.Text, peer.Proven(s.key, sent, got)}
	}
	if err == nil {
		err = peer.Tune(c, s.timeout)
	}
	if err != nil {
		c.Close()
		return nil, nil, nil, err
	}
	return c, sent, got, nil
}

// outcomeOf sorts errors of dialling: what counts for promotion is whether the peer's parent said that it is not primary.
func outcomeOf(err error) dialOutcome {
	var a *errAnswer
	if !errors.As(err, &a) {
		return dialOutcome{dialSilent, err.Error()}
	}
	switch a.code {
	case peer.CodeInit:
		if !a.proven {
			return dialOutcome{dialStranger, a.Error() + ", says somebody who does not have this node's key: copy the key file (/etc/hast/key) of one node to the other and run hastctl reload on both"}
		}
		return dialOutcome{dialNotPrimary, a.Error()}
	case peer.CodeBusy:
		return dialOutcome{dialSilent, a.Error()}
	}
	return dialOutcome{dialRefused, a.Error()}
}
