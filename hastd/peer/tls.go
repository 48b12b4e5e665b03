package peer

import (
	"context"
	"crypto/ed25519"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
)

// exporterLabel names our use of a TLS session's exporter (RFC 8446, 7.5).
const exporterLabel = "EXPORTER-hast-1-proof"

// secure runs TLS 1.3 on the connection. Both certificates are pinned by public
// key; the keys follow from the shared secret, so no file but the key is needed, and nothing ever expires.
func (c *channel) secure(ctx context.Context, cfg *Config, initiator bool) error {
	cert, err := certificate(identity(cfg.Key, initiator))
	if err != nil {
		return fmt.Errorf("make the certificate: %w", err)
	}
	want := identity(cfg.Key, !initiator).Public().(ed25519.PublicKey)
	conf := &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{cert},
		ClientAuth:   tls.RequireAnyClientCert,
		// Verification is the pin below, not a chain of authorities.
		InsecureSkipVerify:          true,
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true, // whole records from the start: throughput, and no allocation later
		NextProtos:                  []string{"hast/1"},
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) != 1 {
				return ErrKeys
			}
			got, ok := s.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
			if !ok || subtle.ConstantTimeCompare(got, want) != 1 {
				return ErrKeys
			}
			return nil
		},
	}
	c.sock = &socket{raw: c.raw}
	if initiator {
		c.tls = tls.Client(c.sock, conf)
	} else {
		c.tls = tls.Server(c.sock, conf)
	}
	if err := c.tls.HandshakeContext(ctx); err != nil {
		return tlsReason(err)
	}
	s := c.tls.ConnectionState()
	if s.Version != tls.VersionTLS13 || s.NegotiatedProtocol != "hast/1" || s.DidResume {
		return errors.New("the peer negotiated something else than a fresh TLS 1.3 session for hast/1")
	}
	b, err := s.ExportKeyingMaterial(exporterLabel, []byte{byte(c.kind)}, len(c.exported))
	if err != nil {
		return fmt.Errorf("TLS exporter: %w", err)
	}
	c.exported = [32]byte(b)
	return nil
}

// tlsReason recognises the alert by which the other side says that it does not know our certificate.
func tlsReason(err error) error {
	var remote *net.OpError
	if errors.As(err, &remote) && remote.Op == "remote error" && strings.Contains(err.Error(), "certificate") {
		return fmt.Errorf("%w (%v)", ErrKeys, err)
	}
	return err
}

// tlsName names the cipher suite for status.
func tlsName(c *tls.Conn) string { return tls.CipherSuiteName(c.ConnectionState().CipherSuite) }
