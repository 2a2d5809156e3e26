package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// Issued is a certificate just made for a machine.
type Issued struct {
	Serial    string // hexadecimal
	Machine   block.MachineID
	PEM       []byte
	NotBefore time.Time
	NotAfter  time.Time
}

// Key is the public key of a certificate signing request that is signed by the key
// it names. Everything else it asks for is ignored: the control plane decides what
// a certificate says.
type Key struct {
	public *ecdsa.PublicKey
	Sum    string // names the key; equal keys have equal sums
}

// ParseRequest takes the key out of a PKCS #10 request in PEM.
func ParseRequest(csr string) (Key, error) {
	block, _ := pem.Decode([]byte(csr))
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return Key{}, badRequest("it is not in PEM form")
	}
	req, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return Key{}, badRequest(err.Error())
	}
	if err := req.CheckSignature(); err != nil {
		return Key{}, badRequest("it is not signed by the key it names")
	}
	public, ok := req.PublicKey.(*ecdsa.PublicKey)
	if !ok || public.Curve != elliptic.P256() {
		return Key{}, badRequest("its key is not an ECDSA P-256 key")
	}
	return Key{public: public, Sum: sum(req.RawSubjectPublicKeyInfo)}, nil
}

func badRequest(why string) error {
	return problem.New(problem.Invalid, "let understudy-agent enrol make the request", "the certificate signing request cannot be used: %s", why)
}

// IssueAgent makes the client certificate that proves its bearer to be this machine.
func (a *Authority) IssueAgent(machine block.MachineID, key Key) (Issued, error) {
	template := a.template(machine.String(), AgentLife)
	template.URIs = []*url.URL{machineURI(machine)}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	der, err := a.sign(template, key.public)
	if err != nil {
		return Issued{}, fmt.Errorf("pki: issue a certificate for machine %s: %w", machine, err)
	}
	return Issued{
		Serial:    SerialText(template),
		Machine:   machine,
		PEM:       encode("CERTIFICATE", der),
		NotBefore: template.NotBefore.Truncate(time.Second), // as the certificate keeps it
		NotAfter:  template.NotAfter.Truncate(time.Second),
	}, nil
}

// SerialText is the form in which serial numbers are kept and shown.
func SerialText(c *x509.Certificate) string { return fmt.Sprintf("%032x", c.SerialNumber) }

func (a *Authority) template(name string, life time.Duration) *x509.Certificate {
	now := a.now()
	return &x509.Certificate{
		SerialNumber:          newSerial(),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
	}
}

func (a *Authority) sign(template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	return x509.CreateCertificate(rand.Reader, template, a.cert, public, a.key)
}

// names sorts what a server is called by into addresses and DNS names.
func names(template *x509.Certificate, hosts []string) {
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if h != "" {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
}
