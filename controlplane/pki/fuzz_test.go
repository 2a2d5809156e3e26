package pki

import (
	"crypto/x509"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/fuzztest"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// perByte and base are what the standard library's readers of PEM and ASN.1 may take.
const perByte, base = 256, 256 << 10

// FuzzRequest takes anybody's signing request. Limit: 256 times its length and 256
// KiB. From one that is taken a certificate can be issued, for our machine alone.
func FuzzRequest(f *testing.F) {
	f.Add("")
	f.Add("-----BEGIN CERTIFICATE REQUEST-----\n\n-----END CERTIFICATE REQUEST-----\n")
	f.Add(csr(f, newKeyT(f), &x509.CertificateRequest{DNSNames: []string{"understudy://relay"}}))
	a, err := Open(f.TempDir(), time.Now)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		fuzztest.Bounded(t, perByte*len(s)+base, func() { _, _ = ParseRequest(s) })
		key, err := ParseRequest(s)
		if err != nil {
			if problem.CodeOf(err) != problem.Invalid {
				t.Fatalf("refused as %s: %v", problem.CodeOf(err), err)
			}
			return
		}
		issued, err := a.IssueAgent(block.MachineID{1}, key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := parseCertificate(issued.PEM)
		if err != nil || len(cert.DNSNames) != 0 || len(cert.URIs) != 1 {
			t.Fatalf("a certificate for %v %v, %v", cert.DNSNames, cert.URIs, err)
		}
	})
}

// FuzzCertificate reads a certificate from a file. Limit as in FuzzRequest.
func FuzzCertificate(f *testing.F) {
	a, err := Open(f.TempDir(), time.Now)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a.PEM())
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		fuzztest.Bounded(t, perByte*len(b)+base, func() { _, _ = parseCertificate(b) })
		if c, err := parseCertificate(b); err == nil {
			if again, err := parseCertificate(encode("CERTIFICATE", c.Raw)); err != nil || !again.Equal(c) {
				t.Fatalf("a certificate does not come back: %v", err)
			}
		}
	})
}
