package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"
)

// Role is what a server certificate proves its bearer to be. Agents check the role,
// not a DNS name: a machine may reach the control plane by any address.
type Role string

const (
	RoleAPI   Role = "api"
	RoleRelay Role = "relay"
)

// URI is the role as it stands in a certificate.
func (r Role) URI() *url.URL { return &url.URL{Scheme: "understudy", Host: string(r)} }

// Server holds the certificate of one role and makes a new one when two thirds of
// its life are over. Its key is only ever in memory. It is safe for concurrent use.
type Server struct {
	authority *Authority
	role      Role
	hosts     []string

	mu   sync.Mutex
	cert *tls.Certificate
}

// NewServer is a server of this role. It is called by localhost, the host's name and
// the given names and addresses, for clients such as browsers and operator's tools.
func (a *Authority) NewServer(role Role, hosts ...string) *Server {
	hosts = append([]string{"localhost", "127.0.0.1", "::1"}, hosts...)
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, name)
	}
	slices.Sort(hosts)
	return &Server{authority: a, role: role, hosts: slices.Compact(hosts)}
}

// Certificate is the present certificate, with the authority's behind it.
func (s *Server) Certificate() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cert == nil || !fresh(s.cert.Leaf, s.authority.now()) {
		cert, err := s.issue()
		if err != nil {
			return nil, err
		}
		s.cert = cert
	}
	return s.cert, nil
}

// fresh also says no to a certificate from the future: the clock was set back.
func fresh(c *x509.Certificate, now time.Time) bool {
	return now.After(c.NotBefore) && now.Before(c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore)*2/3))
}

func (s *Server) issue() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("pki: draw a key: %w", err)
	}
	template := s.authority.template("understudy "+string(s.role), serverLife)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.URIs = []*url.URL{s.role.URI()}
	names(template, s.hosts)
	der, err := s.authority.sign(template, &key.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("pki: issue the %s server's certificate: %w", s.role, err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("pki: read back the %s server's certificate: %w", s.role, err)
	}
	// The authority's certificate goes along: an agent that enrols has only its fingerprint.
	return &tls.Certificate{Certificate: [][]byte{der, s.authority.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// TLS is the configuration of this server for listeners that ask for, but do not
// verify, a client's certificate: VerifyAgent does that, where an answer can name
// what is wrong. A TLS alert could not: the agent would read "bad certificate".
func (s *Server) TLS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.Certificate() },
		ClientAuth:     tls.RequestClientCert,
	}
}
