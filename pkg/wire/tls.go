package wire

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/quic-go/quic-go"
)

// alpn names the protocol to TLS without a version: the banner can say "older" and
// "newer", an ALPN mismatch can only hang up.
const alpn = "understudy"

// Certificate yields this side's certificate for each new handshake, so that a
// rotated one is used from the next connection on.
type Certificate func() (*tls.Certificate, error)

// Fixed is a Certificate that never rotates.
func Fixed(c tls.Certificate) Certificate {
	return func() (*tls.Certificate, error) { return &c, nil }
}

// AgentTLS is the dialling side's configuration: it shows the machine's certificate
// and accepts nothing but a relay of the control plane whose CA is in roots.
func AgentTLS(cert Certificate, roots *x509.CertPool) *tls.Config {
	c := common()
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return own(cert, time.Now()) }
	// Not insecure: names in the certificate are URIs, which the standard check of a
	// host name cannot judge; VerifyConnection does all of its work instead.
	c.InsecureSkipVerify = true
	c.VerifyConnection = func(s tls.ConnectionState) error {
		_, err := verify(s, RoleRelay, roots, x509.ExtKeyUsageServerAuth, time.Now())
		return err
	}
	return c
}

// RelayTLS is the listening side's configuration: it shows the relay's certificate and
// accepts nothing but agents enrolled with the CA in roots.
func RelayTLS(cert Certificate, roots *x509.CertPool) *tls.Config {
	c := common()
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return own(cert, time.Now()) }
	// The standard check runs first because it sends alerts that tell an expired
	// certificate from a foreign one; verify repeats it for its words and adds roles.
	c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, roots
	c.VerifyConnection = func(s tls.ConnectionState) error {
		_, err := verify(s, RoleAgent, roots, x509.ExtKeyUsageClientAuth, time.Now())
		return err
	}
	return c
}

func common() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{alpn},
		// Each connection proves itself anew; a ticket would outlive a revocation.
		SessionTicketsDisabled: true,
		// Full 16 KiB records from the first byte: this carries bulk, not pages.
		DynamicRecordSizingDisabled: true,
	}
}

// own is this side's certificate if it is worth showing.
func own(cert Certificate, now time.Time) (*tls.Certificate, error) {
	c, err := cert()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCertMissing, err)
	}
	leaf := c.Leaf
	if leaf == nil && len(c.Certificate) > 0 {
		if leaf, err = x509.ParseCertificate(c.Certificate[0]); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCertMissing, err)
		}
	}
	if leaf == nil {
		return nil, fmt.Errorf("%w: enrol first", ErrCertMissing)
	}
	return c, lifetime(leaf, now, "this side's")
}

// lifetime judges a certificate's dates by the given clock.
func lifetime(c *x509.Certificate, now time.Time, whose string) error {
	switch {
	case now.After(c.NotAfter):
		return fmt.Errorf("%w: %s ended %s, the clock here says %s: enrol again, or set the clock", ErrCertExpired,
			whose, c.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case now.Before(c.NotBefore):
		return fmt.Errorf("%w: %s begins %s, the clock here says %s: set the clocks of both sides", ErrCertNotYet,
			whose, c.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// verify judges the peer's certificate: dates, issuer, usage, role, in this order.
func verify(s tls.ConnectionState, want Role, roots *x509.CertPool, usage x509.ExtKeyUsage, now time.Time) (Peer, error) {
	if len(s.PeerCertificates) == 0 {
		return Peer{}, ErrNoCertificate
	}
	leaf := s.PeerCertificates[0]
	if err := lifetime(leaf, now, "the peer's"); err != nil {
		return Peer{}, err
	}
	between := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
	if err != nil {
		return Peer{}, translate(err, leaf, now)
	}
	p, err := Identify(leaf)
	if err != nil {
		return p, fmt.Errorf("%w: %w", ErrWrongRole, err)
	}
	if p.Role != want {
		return p, fmt.Errorf("%w: want a certificate of role %q, this one is of role %q (%s)", ErrWrongRole, want, p.Role, leaf.Subject.CommonName)
	}
	return p, nil
}

// translate says in this package's words what the standard verification found.
func translate(err error, leaf *x509.Certificate, now time.Time) error {
	var foreign x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case leaf != nil && lifetime(leaf, now, "the peer's") != nil:
		return lifetime(leaf, now, "the peer's")
	case errors.As(err, &foreign):
		return fmt.Errorf("%w: enrol the machine with this control plane, or correct the address: %w", ErrForeignCA, err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("%w: an issuer's: %w", ErrCertExpired, err)
	case errors.As(err, &invalid) && invalid.Reason == x509.IncompatibleUsage:
		return fmt.Errorf("%w: %w", ErrWrongRole, err)
	}
	return fmt.Errorf("%w: %w", ErrCertUnusable, err)
}

// explain turns what a TLS or QUIC connection failed with into a verdict on a
// certificate, where it was one: what this side saw, or the alert the peer sent.
func explain(err error) error {
	if err == nil {
		return nil
	}
	var failed *tls.CertificateVerificationError
	if errors.As(err, &failed) && len(failed.UnverifiedCertificates) > 0 {
		return translate(failed.Err, failed.UnverifiedCertificates[0], time.Now())
	}
	if why, ok := refusals[alertOf(err)]; ok {
		return fmt.Errorf("%w: %s: %w", ErrPeerRefusedUs, why, err)
	}
	return err
}

// refusals are the alerts (RFC 8446, 6.2) by which a peer judges our certificate.
var refusals = map[int]string{
	42:  "not a certificate for this role: check that it is this machine's own",
	43:  "not a certificate of a kind it knows",
	45:  "expired or not valid yet by the peer's clock: compare the clocks, or enrol again",
	46:  "not usable there: enrol again",
	48:  "issued by another control plane: enrol with this one, or correct the address",
	116: "it wants one and got none: enrol first",
}

// alertOf is the number of the alert that a peer sent, or 0. crypto/tls hands alerts
// on as an unexported type, so that over TCP only their text can be looked at.
func alertOf(err error) int {
	var q *quic.TransportError
	if errors.As(err, &q) && q.Remote && q.ErrorCode.IsCryptoError() {
		return int(q.ErrorCode & 0xff)
	}
	best, words := 0, ""
	for n := range refusals {
		// The longest match: one alert's words are the beginning of another's.
		if w := "remote error: " + tls.AlertError(n).Error(); len(w) > len(words) && strings.Contains(err.Error(), w) {
			best, words = n, w
		}
	}
	return best
}
