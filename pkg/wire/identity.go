package wire

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Identities stand in certificates as URIs, not as DNS names: who a peer is does not
// depend on where it was reached.
const uriScheme = "understudy"

// The verdicts on a certificate.
var (
	ErrNoCertificate  = errors.New("wire: the peer showed no certificate")
	ErrCertExpired    = errors.New("wire: certificate has expired")
	ErrCertNotYet     = errors.New("wire: certificate is not valid yet")
	ErrForeignCA      = errors.New("wire: certificate is not from this control plane")
	ErrWrongRole      = errors.New("wire: certificate is for another role")
	ErrCertUnusable   = errors.New("wire: certificate is not usable here")
	ErrPeerRefusedUs  = errors.New("wire: the peer refused this side's certificate")
	ErrCertMissing    = errors.New("wire: this side has no certificate")
	errNotAnIdentity  = errors.New("wire: not an Understudy identity")
	errManyIdentities = errors.New("wire: a certificate with more than one identity")
)

// RelayURI is the identity of every relay of a control plane.
func RelayURI() *url.URL { return &url.URL{Scheme: uriScheme, Host: "relay"} }

// MachineURI is the identity of a machine's agent.
func MachineURI(m block.MachineID) *url.URL {
	return &url.URL{Scheme: uriScheme, Host: "machine", Path: "/" + m.String()}
}

// Transport is how a peer is reached.
type Transport string

// The transports. Auto is the dialler's choice: TCP where it connects, else QUIC.
const (
	Auto Transport = "auto"
	TCP  Transport = "tcp"
	QUIC Transport = "quic"
)

// Peer is who stands at the other end, proved by its certificate.
type Peer struct {
	Role      Role
	Machine   block.MachineID // agents only
	Serial    string          // of its certificate, hexadecimal
	NotAfter  time.Time       // when that certificate runs out
	Remote    string          // address and port
	Transport Transport
}

// Identify reads the role and machine out of a verified certificate.
func Identify(cert *x509.Certificate) (Peer, error) {
	p := Peer{Serial: cert.SerialNumber.Text(16), NotAfter: cert.NotAfter}
	found := 0
	for _, u := range cert.URIs {
		if u.Scheme != uriScheme {
			continue
		}
		found++
		switch {
		case u.Host == "relay" && u.Path == "":
			p.Role = RoleRelay
		case u.Host == "machine":
			id, err := block.ParseMachineID(strings.TrimPrefix(u.Path, "/"))
			if err != nil {
				return p, fmt.Errorf("%w: %s: %w", errNotAnIdentity, u, err)
			}
			p.Role, p.Machine = RoleAgent, id
		default:
			return p, fmt.Errorf("%w: %s", errNotAnIdentity, u)
		}
	}
	if found > 1 {
		return p, errManyIdentities
	}
	return p, nil
}
