// Package wiretest makes certificates for tests of both sides of the wire.
package wiretest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// CA is a control plane's authority that lives as long as its test.
type CA struct {
	t      testing.TB
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
}

// NewCA makes an authority valid for a day around now.
func NewCA(t testing.TB) *CA {
	ca := &CA{t: t, key: newKey(t), serial: 1}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test control plane"},
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	ca.cert = ca.sign(template, template, ca.key)
	return ca
}

// Option changes a certificate before it is signed.
type Option func(*x509.Certificate)

// Valid bounds the certificate's life by offsets from now.
func Valid(from, to time.Duration) Option {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(from), time.Now().Add(to) }
}

// Agent issues the certificate of a machine's agent.
func (ca *CA) Agent(m block.MachineID, options ...Option) tls.Certificate {
	return ca.issue(wire.MachineURI(m), options...)
}

// Relay issues the certificate of a relay.
func (ca *CA) Relay(options ...Option) tls.Certificate { return ca.issue(wire.RelayURI(), options...) }

// Roots is the pool with this authority.
func (ca *CA) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	return pool
}

// DER is the authority's certificate, for another process.
func (ca *CA) DER() []byte { return ca.cert.Raw }

// AgentTLS is an agent's configuration under this authority.
func (ca *CA) AgentTLS(m block.MachineID, options ...Option) *tls.Config {
	return wire.AgentTLS(wire.Fixed(ca.Agent(m, options...)), ca.Roots())
}

// RelayTLS is a relay's configuration under this authority.
func (ca *CA) RelayTLS(options ...Option) *tls.Config {
	return wire.RelayTLS(wire.Fixed(ca.Relay(options...)), ca.Roots())
}

func (ca *CA) issue(identity *url.URL, options ...Option) tls.Certificate {
	ca.serial++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(ca.serial), Subject: pkix.Name{CommonName: identity.String()}, URIs: []*url.URL{identity},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, o := range options {
		o(template)
	}
	key := newKey(ca.t)
	leaf := ca.sign(template, ca.cert, key)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

func (ca *CA) sign(template, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, ca.key)
	if err != nil {
		ca.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		ca.t.Fatal(err)
	}
	return cert
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}
