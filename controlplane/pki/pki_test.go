package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/problem"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func open(t *testing.T) (*Authority, *clock) {
	t.Helper()
	c := &clock{time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)}
	a, err := Open(t.TempDir(), c.now)
	if err != nil {
		t.Fatal(err)
	}
	return a, c
}

func newKeyT(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func csr(t testing.TB, key any, template *x509.CertificateRequest) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(encode("CERTIFICATE REQUEST", der))
}

// issue makes a machine's certificate.
func issue(t *testing.T, a *Authority, id block.MachineID) *x509.Certificate {
	t.Helper()
	key, err := ParseRequest(csr(t, newKeyT(t), &x509.CertificateRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	issued, err := a.IssueAgent(id, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseCertificate(issued.PEM)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func want(t *testing.T, err error, code problem.Code, words ...string) {
	t.Helper()
	if problem.CodeOf(err) != code {
		t.Fatalf("%v, want code %s", err, code)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func TestOpenKeepsTheAuthority(t *testing.T) {
	dir := t.TempDir()
	a, err := Open(dir, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(filepath.Join(dir, "ca.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info.Mode(), err)
	}
	b, err := Open(dir, time.Now)
	if err != nil || a.Fingerprint() != b.Fingerprint() {
		t.Fatal("another authority after a restart:", err)
	}
}

func TestOpenRefusesWhatIsNotWhole(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(dir string) error
		want  string
	}{
		"key that others read": {func(d string) error { return os.Chmod(filepath.Join(d, "ca.key"), 0o644) }, "chmod 600"},
		"key cut off":          {func(d string) error { return os.WriteFile(filepath.Join(d, "ca.key"), []byte("-----BEGIN"), 0o600) }, "backup"},
		"certificate cut off":  {func(d string) error { return os.WriteFile(filepath.Join(d, "ca.pem"), nil, 0o644) }, "ca.pem"},
		"key of another": {func(d string) error {
			if err := os.Remove(filepath.Join(d, "ca.key")); err != nil {
				return err
			}
			_, err := newKey(filepath.Join(d, "ca.key"))
			return err
		}, "same backup"},
	} {
		dir := t.TempDir()
		if _, err := Open(dir, time.Now); err != nil {
			t.Fatal(err)
		}
		if err := c.spoil(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, time.Now); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	dir := t.TempDir()
	if _, err := Open(dir, time.Now); err != nil {
		t.Fatal(err)
	}
	later := func() time.Time { return time.Now().Add(2 * authorityLife) }
	if _, err := Open(dir, later); err == nil || !strings.Contains(err.Error(), "clock") {
		t.Errorf("after its life: %v", err)
	}
}

func TestCertificateSaysOnlyWhatTheControlPlaneDecides(t *testing.T) {
	a, c := open(t)
	id := block.NewMachineID()
	evil, err := url.Parse("understudy://machine/" + block.NewMachineID().String())
	if err != nil {
		t.Fatal(err)
	}
	key, err := ParseRequest(csr(t, newKeyT(t), &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "root"}, DNSNames: []string{"control.example"}, IPAddresses: []net.IP{net.IPv4(1, 2, 3, 4)}, URIs: []*url.URL{evil, RoleAPI.URI()},
	}))
	if err != nil {
		t.Fatal(err)
	}
	issued, err := a.IssueAgent(id, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := parseCertificate(issued.PEM)
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.CommonName != id.String() || len(cert.DNSNames)+len(cert.IPAddresses) != 0 || len(cert.URIs) != 1 || cert.IsCA ||
		len(cert.ExtKeyUsage) != 1 || cert.ExtKeyUsage[0] != x509.ExtKeyUsageClientAuth || !cert.NotAfter.Equal(c.t.Add(AgentLife)) {
		t.Errorf("%+v", cert)
	}
	got, err := a.VerifyAgent([]*x509.Certificate{cert})
	if err != nil || got.Machine != id || got.Serial != issued.Serial {
		t.Fatal(got, err)
	}
}

func TestParseRequestRefuses(t *testing.T) {
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	forged := []byte(csr(t, newKeyT(t), &x509.CertificateRequest{}))
	forged[len(forged)-60] ^= 1
	for name, text := range map[string]string{
		"nothing": "", "another PEM": string(encode("CERTIFICATE", []byte{1})), "junk": string(encode("CERTIFICATE REQUEST", []byte{1})),
		"RSA": csr(t, other, &x509.CertificateRequest{}), "P-384": csr(t, p384, &x509.CertificateRequest{}), "forged": string(forged),
	} {
		_, err := ParseRequest(text)
		if problem.CodeOf(err) != problem.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerifyAgentNamesWhatIsWrong(t *testing.T) {
	a, c := open(t)
	foreign, _ := open(t)
	id := block.NewMachineID()
	mine, theirs := issue(t, a, id), issue(t, foreign, id)
	own, err := a.NewServer(RoleRelay).Certificate()
	if err != nil {
		t.Fatal(err)
	}
	posing := a.template("posing", time.Hour) // ours and a machine's, but a server's
	posing.URIs, posing.ExtKeyUsage = []*url.URL{machineURI(id)}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	der, err := a.sign(posing, &newKeyT(t).PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	posed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	check := func(cert *x509.Certificate, now time.Time, code problem.Code, words ...string) {
		t.Helper()
		c.t = now
		_, err := a.VerifyAgent([]*x509.Certificate{cert})
		want(t, err, code, words...)
	}
	start := c.t
	check(theirs, start, problem.CertificateForeign, "another authority", "enrol")
	check(own.Leaf, start, problem.CertificateForeign, "names no machine")
	check(posed, start, problem.CertificateForeign, "not a client's")
	check(mine, start.Add(AgentLife+time.Second), problem.CertificateExpired, id.String(), "2026-11-30T18:00:00Z", "token create --machine")
	check(mine, start.Add(-2*backdate), problem.ClockSkew, "set back", "2026-11-23T16:00:00Z")
	check(theirs, start.Add(AgentLife*2), problem.CertificateForeign) // never called expired
	_, err = a.VerifyAgent(nil)
	want(t, err, problem.Unauthenticated)
}

func TestServerCertificateStaysFresh(t *testing.T) {
	a, c := open(t)
	s := a.NewServer(RoleAPI, "control.example", "192.0.2.7", "control.example")
	get := func() *x509.Certificate {
		t.Helper()
		cert, err := s.Certificate()
		if err != nil {
			t.Fatal(err)
		}
		return cert.Leaf
	}
	first := get()
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "control.example", "192.0.2.7"} {
		if err := first.VerifyHostname(name); err != nil {
			t.Error(err)
		}
	}
	if _, err := first.Verify(x509.VerifyOptions{Roots: a.Pool(), CurrentTime: c.t}); err != nil || first.URIs[0].String() != "understudy://api" {
		t.Error(err, first.URIs)
	}
	c.t = c.t.Add(serverLife / 2)
	if get() != first {
		t.Error("a new one after half of its life")
	}
	c.t = c.t.Add(serverLife / 4)
	second := get()
	if second == first {
		t.Error("the old one after three quarters of its life")
	}
	c.t = c.t.Add(-serverLife) // the clock is set back
	if third := get(); third == second || third.NotBefore.After(c.t) {
		t.Error("a certificate from the future after the clock was set back")
	}
}
