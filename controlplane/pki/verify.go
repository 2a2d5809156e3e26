package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"net/url"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/problem"
)

const machineScheme, machineHost = "understudy", "machine"

// Agent is who a client certificate proves its bearer to be.
type Agent struct {
	Machine block.MachineID
	Serial  string
}

// VerifyAgent says whose certificate this is. The chain is as the peer sent it, leaf
// first; TLS has proved that the peer holds the leaf's key and nothing more. Whether
// it was revoked is for the inventory to say. The error is a problem with code
// certificate-expired, certificate-foreign or clock-skew.
func (a *Authority) VerifyAgent(chain []*x509.Certificate) (Agent, error) {
	if len(chain) == 0 {
		return Agent{}, problem.New(problem.Unauthenticated, "enrol the machine: understudy-agent enrol", "no client certificate came along")
	}
	leaf, now := chain[0], a.now()
	machine, err := machineOf(leaf)
	if err != nil {
		return Agent{}, err
	}
	// The time is looked at apart, so that a wrong signature is never called an
	// expiry: only a certificate that was ours can expire.
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots:       a.pool,
		CurrentTime: leaf.NotAfter,
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return Agent{}, foreign(leaf, err)
	}
	if now.Before(leaf.NotBefore) {
		return Agent{}, problem.New(problem.ClockSkew, "set the control plane's clock right",
			"the certificate of machine %s begins at %s, in the future: the control plane's clock (%s) was set back",
			machine, leaf.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	if now.After(leaf.NotAfter) {
		return Agent{}, problem.New(problem.CertificateExpired,
			"make a token for this machine (understudy token create --machine "+machine.String()+") and enrol it again; if the date given as now is wrong, set the control plane's clock right",
			"the certificate of machine %s ended at %s, and now it is %s",
			machine, leaf.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return Agent{Machine: machine, Serial: SerialText(leaf)}, nil
}

func foreign(leaf *x509.Certificate, err error) error {
	why := "another authority signed it"
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.IncompatibleUsage {
		why = "it is not a client's certificate"
	}
	return problem.New(problem.CertificateForeign, "enrol the machine with this control plane: understudy token create here, understudy-agent enrol there",
		"the certificate of %q is not valid here: %s", leaf.Subject.CommonName, why)
}

func machineOf(c *x509.Certificate) (block.MachineID, error) {
	if len(c.URIs) == 1 && c.URIs[0].Scheme == machineScheme && c.URIs[0].Host == machineHost {
		if id, err := block.ParseMachineID(strings.TrimPrefix(c.URIs[0].Path, "/")); err == nil {
			return id, nil
		}
	}
	return block.MachineID{}, problem.New(problem.CertificateForeign, "enrol the machine with this control plane: understudy token create here, understudy-agent enrol there",
		"the certificate of %q names no machine", c.Subject.CommonName)
}

func machineURI(id block.MachineID) *url.URL {
	return &url.URL{Scheme: machineScheme, Host: machineHost, Path: "/" + id.String()}
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
