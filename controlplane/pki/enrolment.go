package pki

import (
	"context"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// Registry remembers tokens, machines and certificates.
type Registry interface {
	// Redeem spends the token with this secret for the machine it names, or for a new
	// one, and keeps the certificate that issue makes; all of it or nothing. The same
	// secret with the same key again gives the same machine.
	Redeem(ctx context.Context, secret, keySum string, host desired.Host, issue func(block.MachineID) (Issued, error)) (Issued, error)
	// KeepCertificate remembers a renewed certificate.
	KeepCertificate(ctx context.Context, issued Issued) error
}

// Enrolment gives machines their identity.
type Enrolment struct {
	authority *Authority
	registry  Registry
}

// NewEnrolment joins an authority with what remembers its doings.
func NewEnrolment(a *Authority, r Registry) *Enrolment {
	return &Enrolment{authority: a, registry: r}
}

// Enrol trades a one-time token for a certificate.
func (e *Enrolment) Enrol(ctx context.Context, req desired.EnrolRequest) (desired.Credentials, error) {
	if err := req.Check(); err != nil {
		return desired.Credentials{}, err
	}
	if err := desired.CheckClocks(req.Time, e.authority.now()); err != nil {
		return desired.Credentials{}, err
	}
	token, err := desired.ParseToken(req.Token)
	if err != nil {
		return desired.Credentials{}, err
	}
	key, err := ParseRequest(req.CSR)
	if err != nil {
		return desired.Credentials{}, err
	}
	issued, err := e.registry.Redeem(ctx, token.Secret, key.Sum, req.Host, func(id block.MachineID) (Issued, error) {
		return e.authority.IssueAgent(id, key)
	})
	if err != nil {
		return desired.Credentials{}, err
	}
	return e.credentials(issued), nil
}

// Renew gives a machine that proved itself a new certificate.
func (e *Enrolment) Renew(ctx context.Context, machine block.MachineID, req desired.RenewRequest) (desired.Credentials, error) {
	if err := desired.CheckVersion(req.Version); err != nil {
		return desired.Credentials{}, err
	}
	key, err := ParseRequest(req.CSR)
	if err != nil {
		return desired.Credentials{}, err
	}
	issued, err := e.authority.IssueAgent(machine, key)
	if err != nil {
		return desired.Credentials{}, err
	}
	if err := e.registry.KeepCertificate(ctx, issued); err != nil {
		return desired.Credentials{}, err
	}
	return e.credentials(issued), nil
}

func (e *Enrolment) credentials(i Issued) desired.Credentials {
	return desired.Credentials{
		Machine:     i.Machine,
		Certificate: string(i.PEM),
		CA:          string(e.authority.PEM()),
		NotBefore:   i.NotBefore,
		NotAfter:    i.NotAfter,
		Time:        e.authority.now().Round(time.Millisecond),
	}
}
