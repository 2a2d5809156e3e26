package wire_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/wire"
	"github.com/understudy-dr/understudy/pkg/wire/wiretest"
)

// meet dials and opens a channel; the agent's view of what happened comes back.
func meet(t *testing.T, l *wire.Listener, agent *tls.Config, by wire.Transport) error {
	t.Helper()
	link, err := wire.Dial(t.Context(), l.Addr().String(), agent, by)
	if err != nil {
		return err
	}
	defer link.Close()
	s, err := link.Open(t.Context())
	if err != nil {
		return err
	}
	go func() {
		if s, err := l.Accept(t.Context()); err == nil {
			_, _ = wire.Greet(s, wire.RoleRelay, "test")
		}
	}()
	_, err = wire.Greet(s, wire.RoleAgent, "test")
	return err
}

// TestCertificates: each fault of a certificate has its own words, on the side that
// sees it and on the side that has it.
func TestCertificates(t *testing.T) {
	machine := block.NewMachineID()
	ca, foreign := wiretest.NewCA(t), wiretest.NewCA(t)
	trusting := func(cert tls.Certificate) *tls.Config { return wire.AgentTLS(wire.Fixed(cert), ca.Roots()) }
	relayWith := func(cert tls.Certificate) *tls.Config { return wire.RelayTLS(wire.Fixed(cert), ca.Roots()) }
	future, past := wiretest.Valid(time.Hour, 2*time.Hour), wiretest.Valid(-2*time.Hour, -time.Hour)
	serverOnly := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }
	for name, c := range map[string]struct {
		agent, relay *tls.Config
		agentSees    error // nil: the agent gets in
		relaySees    error // what the listener reports; nil: nothing
		words        string
	}{
		"good":                        {trusting(ca.Agent(machine)), ca.RelayTLS(), nil, nil, ""},
		"relay's expired":             {trusting(ca.Agent(machine)), unchecked(ca.Relay(past), ca), wire.ErrCertExpired, wire.ErrPeerRefusedUs, "set the clock"},
		"relay's not valid yet":       {trusting(ca.Agent(machine)), unchecked(ca.Relay(future), ca), wire.ErrCertNotYet, wire.ErrPeerRefusedUs, "clock"},
		"relay's foreign":             {trusting(ca.Agent(machine)), relayWith(foreign.Relay()), wire.ErrForeignCA, wire.ErrPeerRefusedUs, "enrol"},
		"an agent plays relay":        {trusting(ca.Agent(machine)), relayWith(ca.Agent(block.NewMachineID())), wire.ErrWrongRole, wire.ErrPeerRefusedUs, "role"},
		"agent's foreign":             {trusting(foreign.Agent(machine)), ca.RelayTLS(), wire.ErrPeerRefusedUs, wire.ErrForeignCA, "another control plane"},
		"a relay plays agent":         {trusting(ca.Relay()), ca.RelayTLS(), wire.ErrPeerRefusedUs, wire.ErrWrongRole, "role"},
		"agent's for servers only":    {trusting(ca.Agent(machine, serverOnly)), ca.RelayTLS(), wire.ErrPeerRefusedUs, wire.ErrWrongRole, ""},
		"agent's without identity":    {trusting(ca.Agent(machine, withURIs())), ca.RelayTLS(), wire.ErrPeerRefusedUs, wire.ErrWrongRole, ""},
		"agent's with two identities": {trusting(ca.Agent(machine, withURIs("understudy://machine/"+machine.String(), "understudy://relay"))), ca.RelayTLS(), wire.ErrPeerRefusedUs, wire.ErrWrongRole, ""},
		"agent's with half an id":     {trusting(ca.Agent(machine, withURIs("understudy://machine/abcd"))), ca.RelayTLS(), wire.ErrPeerRefusedUs, wire.ErrWrongRole, ""},
		"agent's own expired":         {trusting(ca.Agent(machine, past)), ca.RelayTLS(), wire.ErrCertExpired, nil, "enrol again"},
		"agent's own not valid yet":   {trusting(ca.Agent(machine, future)), ca.RelayTLS(), wire.ErrCertNotYet, nil, "clock"},
		"agent without a certificate": {wire.AgentTLS(func() (*tls.Certificate, error) { return &tls.Certificate{}, nil }, ca.Roots()), ca.RelayTLS(), wire.ErrCertMissing, nil, "enrol"},
		"agent that shows none":       {naked(ca), ca.RelayTLS(), wire.ErrPeerRefusedUs, errAny, "enrol first"},
		"agent's expired, clock back": {unchecked(ca.Agent(machine, past), ca), ca.RelayTLS(), wire.ErrPeerRefusedUs, wire.ErrCertExpired, "expired or not valid yet"},
	} {
		for _, by := range []wire.Transport{wire.TCP, wire.QUIC} {
			t.Run(name+"/"+string(by), func(t *testing.T) {
				t.Parallel()
				var reports reports
				l, err := wire.Listen(t.Context(), "127.0.0.1:0", c.relay, reports.add)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				err = meet(t, l, c.agent, by)
				if !errors.Is(err, c.agentSees) || err != nil && !strings.Contains(err.Error(), c.words) {
					t.Errorf("the agent sees %v, want %v with %q", err, c.agentSees, c.words)
				}
				reports.want(t, c.relaySees)
			})
		}
	}
}

var errAny = errors.New("any")

// unchecked shows a certificate without looking at it first, like a side whose clock
// is wrong.
func unchecked(cert tls.Certificate, ca *wiretest.CA) *tls.Config {
	c := ca.RelayTLS()
	if strings.HasPrefix(cert.Leaf.Subject.CommonName, "understudy://machine") {
		c = wire.AgentTLS(wire.Fixed(cert), ca.Roots())
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
		return c
	}
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &cert, nil }
	return c
}

// naked is a client that trusts everybody and shows nothing.
func naked(ca *wiretest.CA) *tls.Config {
	c := ca.AgentTLS(block.NewMachineID())
	c.GetClientCertificate = nil
	return c
}

func withURIs(uris ...string) wiretest.Option {
	return func(c *x509.Certificate) {
		c.URIs = nil
		for _, s := range uris {
			u, err := url.Parse(s)
			if err != nil {
				panic(err)
			}
			c.URIs = append(c.URIs, u)
		}
	}
}

// reports gathers what a listener says of refused handshakes.
type reports struct {
	mu   sync.Mutex
	errs []error
}

func (r *reports) add(_ string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

// want waits for the report. A peer's own refusal may come as an alert or as the end
// of the connection, which is why that one is not insisted on.
func (r *reports) want(t *testing.T, want error) {
	t.Helper()
	if want == nil || errors.Is(want, wire.ErrPeerRefusedUs) {
		return
	}
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		r.mu.Lock()
		errs := r.errs
		r.mu.Unlock()
		for _, err := range errs {
			if errors.Is(want, errAny) || errors.Is(err, want) {
				return
			}
		}
	}
	t.Errorf("the relay reported %v, want %v", r.errs, want)
}

// TestARotatedCertificateIsUsed: the next connection shows the new one.
func TestARotatedCertificateIsUsed(t *testing.T) {
	ca, machine := wiretest.NewCA(t), block.NewMachineID()
	l := listen(t, ca, nil)
	current := ca.Agent(machine)
	conf := wire.AgentTLS(func() (*tls.Certificate, error) { return &current, nil }, ca.Roots())
	for range 2 {
		link, err := wire.Dial(t.Context(), l.Addr().String(), conf, wire.TCP)
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if p := s.Peer(); p.Serial != current.Leaf.SerialNumber.Text(16) || !p.NotAfter.Equal(current.Leaf.NotAfter) || p.Machine != machine {
			t.Errorf("peer %+v", p)
		}
		_ = link.Close()
		current = ca.Agent(machine)
	}
}

// TestPlainTextIsRefused: somebody with a browser or netcat costs a handshake.
func TestPlainTextIsRefused(t *testing.T) {
	ca := wiretest.NewCA(t)
	var r reports
	l := listen(t, ca, r.add)
	c, err := (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}}).DialContext(t.Context(), "tcp", l.Addr().String())
	if err == nil {
		_ = c.Close()
		t.Error("TLS 1.2 was accepted")
	}
	r.want(t, errAny)
}
