package peer

import (
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"time"
)

// KeySize is the size of the shared secret in bytes.
const KeySize = 32

// The purposes for which keys are derived from the shared secret; a purpose is
// never used for two things, so that nothing one side says can be played back as the other's word.
const (
	purposeInitiator = "hast 1 tls initiator"
	purposeResponder = "hast 1 tls responder"
	purposeProof     = "hast 1 proof"
	purposeReply     = "hast 1 reply"
)

// derive returns 32 bytes for a purpose: HKDF-SHA256 without salt. The secret is 256 random bits, so extraction needs none.
func derive(secret []byte, purpose string) []byte {
	b, err := hkdf.Key(sha256.New, secret, nil, purpose, KeySize)
	if err != nil {
		panic("peer: hkdf: " + err.Error()) // only a length beyond 255 hashes fails
	}
	return b
}

// identity is the Ed25519 key of one side of a link.
func identity(secret []byte, initiator bool) ed25519.PrivateKey {
	purpose := purposeResponder
	if initiator {
		purpose = purposeInitiator
	}
	return ed25519.NewKeyFromSeed(derive(secret, purpose))
}

// certificate wraps key for TLS, which wants X.509. Nobody looks at anything in
// it but the public key.
func certificate(key ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "hast"},
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280: no expiry
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
