package peer

// The workers' handshake, on both connections at once:
//
//  1. opening: magic, whether this side encrypts, a nonce; both ways
//  2. with encryption: TLS 1.3, each side pinning the other's public key
//  3. proof: the initiator shows that it has the shared secret and saw the same preambles, nonces and TLS sessions
//  4. the responder checks it, and only then shows the same
//
// docs/protocol/wire.md has the bytes and the reasons.

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"hast/proto/wire"
)

// Config is what a link is made of.
type Config struct {
	Key     []byte // the shared secret, KeySize bytes
	Encrypt bool   // must be equal on both nodes
	// Timeout: silence or a stuck socket for this long ends the link; at least MinTimeout. It bounds the handshake as well.
	Timeout     time.Duration
	Compression wire.Compression // for what this node sends
	Checksum    wire.Checksum    // for what this node sends
	Resource    string
	Node, Peer  string // names of this node and of the other
	// Awake is the connection, if any, whose reader stays awake between frames that follow each other closely.
	Awake Kind
}

// MinTimeout is the shortest timeout: below it, an ordinary pause of a busy machine ends links.
const MinTimeout = 100 * time.Millisecond

// Pair is two connections after their preambles, as the parent hands them over.
type Pair struct {
	Data, Control *net.TCPConn
	Initiator     bool     // this node dialled
	Token         [16]byte // as in the preambles
	// Preambles are the data connection's preamble and reply, then the control connection's, as they crossed the wire.
	Preambles [][]byte
}

// Errors of a handshake that deserve a wait and a person rather than a quick retry.
var (
	// ErrKeys: the other side does not have our secret.
	ErrKeys = errors.New("the keys of the two nodes differ, or the connection was tampered with: copy the key file (/etc/hast/key) of one node to the other")
	// ErrEncrypt: one side encrypts, the other does not.
	ErrEncrypt = errors.New("one node encrypts and the other does not: make 'encrypt' equal in both configurations")
	// ErrReflected: we talk to ourselves.
	ErrReflected = errors.New("the connection leads back to this node: check the addresses in the configuration")
)

const (
	openingSize = 40
	proofSize   = 40

	openingMagic, proofMagic = "HSTo", "HSTp"

	modePlain, modeTLS = 1, 2

	verdictProof, verdictRefused = 1, 2
)

type nonce [32]byte

// channel is one connection during the handshake.
type channel struct {
	kind      Kind
	raw       *net.TCPConn
	sock      *socket   // below TLS
	tls       *tls.Conn // nil: not encrypted
	initiator nonce
	responder nonce
	exported  [32]byte // of the TLS session; zero without
}

// rw is where the proof travels.
func (c *channel) rw() io.ReadWriter {
	if c.tls != nil {
		return c.tls
	}
	return c.raw
}

// Handshake authenticates the peer on both connections and returns the link. It takes the connections: on an
// error they are closed. It ends with ctx, and after cfg.Timeout at the latest.
func Handshake(ctx context.Context, cfg Config, p Pair) (*Link, error) {
	fail := func(err error) (*Link, error) {
		p.Data.Close()
		p.Control.Close()
		return nil, fmt.Errorf("handshake with %s for %s: %w", cfg.Peer, cfg.Resource, err)
	}
	if err := cfg.check(); err != nil {
		return fail(err)
	}
	if err := p.check(&cfg); err != nil {
		return fail(err)
	}
	deadline := time.Now().Add(cfg.Timeout)
	for _, c := range []*net.TCPConn{p.Data, p.Control} {
		if err := Tune(c, cfg.Timeout); err != nil {
			return fail(err)
		}
		if err := c.SetDeadline(deadline); err != nil {
			return fail(err)
		}
	}
	// A deadline in the past is how a context reaches a blocked read.
	stop := context.AfterFunc(ctx, func() {
		p.Data.SetDeadline(time.Unix(1, 0))
		p.Control.SetDeadline(time.Unix(1, 0))
	})
	chans, err := shake(ctx, &cfg, &p)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = errors.Join(p.Data.SetDeadline(time.Time{}), p.Control.SetDeadline(time.Time{}))
	}
	if err != nil {
		return fail(explain(ctx, err))
	}
	return newLink(&cfg, chans)
}

// explain turns what the network says into what happened.
func explain(ctx context.Context, err error) error {
	var ne net.Error
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("the peer closed the connection: its log says why (%w)", err)
	case errors.As(err, &ne) && ne.Timeout():
		return fmt.Errorf("the peer does not answer within the timeout (%w)", err)
	}
	return err
}

func (cfg *Config) check() error {
	switch {
	case len(cfg.Key) != KeySize:
		return fmt.Errorf("the key has %d bytes instead of %d: make one with 'hastctl key new'", len(cfg.Key), KeySize)
	case cfg.Timeout < MinTimeout:
		return fmt.Errorf("timeout %v: at least %v", cfg.Timeout, MinTimeout)
	case !cfg.Compression.Valid() || !cfg.Checksum.Valid():
		return errors.New("invalid compression or checksum")
	}
	return nil
}

// check makes sure that the preambles say what the link will be used for. Their
// bytes are not trusted until the proofs agree on them.
func (p *Pair) check(cfg *Config) error {
	if len(p.Preambles) != 4 {
		return fmt.Errorf("%d preambles and replies instead of 4", len(p.Preambles))
	}
	from, to := cfg.Node, cfg.Peer
	if !p.Initiator {
		from, to = to, from
	}
	for i, kind := range []Kind{Data, Control} {
		pre, err := ParsePreamble(p.Preambles[2*i])
		if err != nil {
			return err
		}
		if pre.Kind != kind || pre.Token != p.Token || pre.Resource != cfg.Resource || pre.From != from || pre.To != to {
			return fmt.Errorf("the %s connection's preamble is for resource %q, %s to %s: not this link", kind, pre.Resource, pre.From, pre.To)
		}
		rep, err := ParseReply(p.Preambles[2*i+1])
		if err != nil {
			return err
		}
		if rep.Code != CodeOK || pre.Pick() != rep.Version {
			return fmt.Errorf("the %s connection was not accepted: %s", kind, rep.Code)
		}
	}
	return nil
}

// shake runs the steps at the top of this file.
func shake(ctx context.Context, cfg *Config, p *Pair) ([]*channel, error) {
	chans := []*channel{{kind: Data, raw: p.Data}, {kind: Control, raw: p.Control}}
	if err := both(chans, func(c *channel) error { return c.open(cfg, p.Initiator) }); err != nil {
		return nil, err
	}
	if cfg.Encrypt {
		if err := both(chans, func(c *channel) error { return c.secure(ctx, cfg, p.Initiator) }); err != nil {
			return nil, err
		}
	}
	key := derive(cfg.Key, purposeProof)
	transcript := summary(cfg, p, chans)
	return chans, both(chans, func(c *channel) error { return c.prove(key, transcript, p.Initiator) })
}

// refusalWait is how long one connection's failure waits for the other's, which may be the one that says why.
const refusalWait = 200 * time.Millisecond

// both runs a step on the two connections at once and waits for both. The first failure bounds the other's wait; the more telling one is returned.
func both(chans []*channel, step func(*channel) error) error {
	errs := make(chan error, len(chans))
	for _, c := range chans {
		go func() { errs <- step(c) }()
	}
	var worst error
	for range chans {
		err := <-errs
		if err == nil {
			continue
		}
		if worst == nil {
			for _, c := range chans {
				c.raw.SetDeadline(time.Now().Add(refusalWait))
			}
		}
		if worst == nil || telling(err) && !telling(worst) {
			worst = err
		}
	}
	return worst
}

// telling reports whether err is a reason, not the other side's reaction to one.
func telling(err error) bool {
	return errors.Is(err, ErrKeys) || errors.Is(err, ErrEncrypt) || errors.Is(err, ErrReflected)
}

// open exchanges the openings.
func (c *channel) open(cfg *Config, initiator bool) error {
	var mine, theirs [openingSize]byte
	copy(mine[:], openingMagic)
	mine[4], mine[5] = modePlain, side(initiator)
	if cfg.Encrypt {
		mine[4] = modeTLS
	}
	rand.Read(mine[8:])
	if _, err := c.raw.Write(mine[:]); err != nil {
		return err
	}
	if _, err := io.ReadFull(c.raw, theirs[:]); err != nil {
		return err
	}
	switch {
	case string(theirs[:4]) != openingMagic || theirs[6]|theirs[7] != 0:
		return fmt.Errorf("the peer sent something else than an opening on the %s connection: % x", c.kind, theirs[:8])
	case theirs[5] != side(!initiator):
		return ErrReflected
	case theirs[4] != mine[4]:
		return ErrEncrypt
	}
	c.initiator, c.responder = nonce(mine[8:]), nonce(theirs[8:])
	if !initiator {
		c.initiator, c.responder = c.responder, c.initiator
	}
	if c.initiator == c.responder {
		return ErrReflected
	}
	return nil
}

func side(initiator bool) byte {
	if initiator {
		return 1
	}
	return 2
}

// summary digests everything that both sides must have seen alike.
func summary(cfg *Config, p *Pair, chans []*channel) []byte {
	h := sha256.New()
	part := func(b []byte) {
		var n [4]byte
		binary.LittleEndian.PutUint32(n[:], uint32(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	part([]byte("hast 1 transcript"))
	for _, b := range p.Preambles {
		part(b)
	}
	part(p.Token[:])
	part([]byte(cfg.Resource))
	mode := byte(modePlain)
	if cfg.Encrypt {
		mode = modeTLS
	}
	part([]byte{mode})
	for _, c := range chans {
		part(c.initiator[:])
		part(c.responder[:])
		part(c.exported[:])
	}
	return h.Sum(nil)
}

// proof is what only a holder of the secret can say on connection kind as that side.
func proof(key, transcript []byte, kind Kind, initiator bool) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte{side(initiator), byte(kind)})
	m.Write(transcript)
	return m.Sum(nil)
}

// prove exchanges the proofs: the initiator's first, so that a stranger who
// dials learns nothing that was made with the secret.
func (c *channel) prove(key, transcript []byte, initiator bool) error {
	if initiator {
		if err := c.sendProof(verdictProof, proof(key, transcript, c.kind, true)); err != nil {
			return err
		}
		return c.checkProof(proof(key, transcript, c.kind, false))
	}
	if err := c.checkProof(proof(key, transcript, c.kind, true)); err != nil {
		if errors.Is(err, ErrKeys) {
			_ = c.sendProof(verdictRefused, make([]byte, 32)) // so that the other log says it too
		}
		return err
	}
	return c.sendProof(verdictProof, proof(key, transcript, c.kind, false))
}

func (c *channel) sendProof(verdict byte, sum []byte) error {
	var b [proofSize]byte
	copy(b[:], proofMagic)
	b[4] = verdict
	copy(b[8:], sum)
	_, err := c.rw().Write(b[:])
	return err
}

func (c *channel) checkProof(want []byte) error {
	var b [proofSize]byte
	if _, err := io.ReadFull(c.rw(), b[:]); err != nil {
		return tlsReason(err)
	}
	if string(b[:4]) != proofMagic || b[5]|b[6]|b[7] != 0 {
		return fmt.Errorf("the peer sent something else than a proof on the %s connection: % x", c.kind, b[:8])
	}
	if b[4] != verdictProof || !hmac.Equal(b[8:], want) {
		return ErrKeys
	}
	return nil
}
