// Package pki is the control plane's own certificate authority: it proves the
// control plane and the relay to agents, and agents to both. Nothing outside the
// house trusts it, and it trusts nobody else.
//
// The authority is an ECDSA P-256 key of ten years in DIR/ca.key (mode 0600) with
// its certificate in DIR/ca.pem. Servers' keys live in memory only and are drawn
// anew at each start. An agent's key never leaves its machine; its certificate
// lives for seven days and the agent renews it after two thirds of that.
package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// Lives of the certificates.
const (
	authorityLife = 10 * 365 * 24 * time.Hour
	serverLife    = 30 * 24 * time.Hour
	AgentLife     = 7 * 24 * time.Hour
	// backdate lets a peer whose clock is a little behind accept a new certificate.
	backdate = time.Hour
)

// Authority issues and verifies certificates. It is safe for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
	now  func() time.Time
}

// Open reads the authority in dir, or makes one where there is none yet. now is the
// clock, usually time.Now.
func Open(dir string, now func() time.Time) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("pki: %w", err)
	}
	key, err := openKey(filepath.Join(dir, "ca.key"))
	if err != nil {
		return nil, err
	}
	cert, err := openCertificate(filepath.Join(dir, "ca.pem"), key, now())
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &Authority{cert: cert, key: key, pool: pool, now: now}, nil
}

// DER is the authority's certificate, of which Fingerprint is.
func (a *Authority) DER() []byte { return bytes.Clone(a.cert.Raw) }

// Fingerprint is the SHA-256 of the authority's certificate, which tokens carry.
func (a *Authority) Fingerprint() [sha256.Size]byte { return sha256.Sum256(a.cert.Raw) }

// PEM is the authority's certificate.
func (a *Authority) PEM() []byte { return encode("CERTIFICATE", a.cert.Raw) }

// Pool holds the authority's certificate alone.
func (a *Authority) Pool() *x509.CertPool { return a.pool.Clone() }

// openKey is written before the certificate, so that a crash between the two leaves
// a key without a certificate, never the reverse.
func openKey(path string) (*ecdsa.PrivateKey, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("pki: the authority's key: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("pki: the authority's key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("pki: others may read the authority's key %s (mode %04o): chmod 600 it, and if it was read, move the directory away and enrol all machines anew", path, info.Mode().Perm())
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return nil, fmt.Errorf("pki: %s is not a PEM file: restore it from a backup", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("pki: %s: %w: restore it from a backup", path, err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("pki: %s holds a %T: want an ECDSA key", path, parsed)
	}
	return key, nil
}

func newKey(path string) (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("pki: draw a key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("pki: encode a key: %w", err)
	}
	return key, writeFile(path, encode("PRIVATE KEY", der), 0o600)
}

func openCertificate(path string, key *ecdsa.PrivateKey, now time.Time) (*x509.Certificate, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newAuthority(path, key, now)
	}
	if err != nil {
		return nil, fmt.Errorf("pki: the authority's certificate: %w", err)
	}
	cert, err := parseCertificate(b)
	if err != nil {
		return nil, fmt.Errorf("pki: %s: %w", path, err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("pki: %s does not belong to the key beside it: restore both from the same backup", path)
	}
	if now.After(cert.NotAfter) {
		return nil, fmt.Errorf("pki: the authority's certificate %s ended on %s: move it away and enrol all machines anew, or set the clock (%s) right",
			path, cert.NotAfter.Format(time.DateOnly), now.Format(time.RFC3339))
	}
	return cert, nil
}

func newAuthority(path string, key *ecdsa.PrivateKey, now time.Time) (*x509.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: "Understudy control plane authority"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("pki: make the authority's certificate: %w", err)
	}
	if err := writeFile(path, encode("CERTIFICATE", der), 0o644); err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// newSerial draws a serial number of 127 bits: positive, and never the same twice.
func newSerial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails: crypto/rand ends the process instead
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b)
}

func encode(what string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: what, Bytes: der})
}

func parseCertificate(b []byte) (*x509.Certificate, error) {
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("not a PEM certificate")
	}
	return x509.ParseCertificate(block.Bytes)
}

// writeFile makes the file whole or not at all, also across a power cut.
func writeFile(path string, b []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("pki: %w", err)
	}
	defer os.Remove(f.Name()) // fails once it is renamed
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("pki: write %s: %w", path, err)
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
