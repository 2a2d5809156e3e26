package enrol

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

const (
	maxReply     = 4 << 20 // bytes; a reply beyond it is not ours
	callTimeout  = 30 * time.Second
	desiredWait  = 20 * time.Second
	renewRetry   = time.Minute
	renewAtMost  = 24 * time.Hour // how long a loop sleeps at once: clocks jump
	idleConnLife = time.Minute
)

// Client speaks with the control plane as the enrolled machine. It is safe for
// concurrent use.
type Client struct {
	id  *Identity
	api *client
	log *slog.Logger
}

// NewClient is a client with this identity.
func NewClient(id *Identity, log *slog.Logger) *Client {
	return &Client{id: id, api: newClient(id.Server, id.config()), log: log}
}

// Desired asks how this machine shall be, and waits up to 20 seconds for a change if
// the generation is still after. Use 0 for the first time.
func (c *Client) Desired(ctx context.Context, after uint64) (desired.State, error) {
	path := "/v1/agent/desired"
	if after > 0 {
		path += "?after=" + strconv.FormatUint(after, 10) + "&wait=" + strconv.Itoa(int(desiredWait.Seconds()))
	}
	var s desired.State
	if err := c.api.call(ctx, http.MethodGet, path, nil, &s); err != nil {
		return s, err
	}
	if s.Machine != c.id.Machine {
		return s, fmt.Errorf("enrol: the control plane answered for machine %s, this is %s", s.Machine, c.id.Machine)
	}
	for i, relay := range s.Relays {
		s.Relays[i] = c.withHost(relay)
	}
	return s, desired.CheckVersion(s.Version)
}

// withHost gives a relay's address without a host the control plane's: the address by
// which this machine reaches the one is its best guess for the other.
func (c *Client) withHost(relay string) string {
	host, port, err := net.SplitHostPort(relay)
	if err != nil || host != "" {
		return relay
	}
	if u, err := url.Parse(c.id.Server); err == nil {
		host = u.Hostname()
	}
	return net.JoinHostPort(host, port)
}

// Report tells how this machine is. Events of a report that failed are to be sent
// again.
func (c *Client) Report(ctx context.Context, r desired.Report) (desired.ReportReply, error) {
	r.Version = desired.Version
	var reply desired.ReportReply
	err := c.api.call(ctx, http.MethodPost, "/v1/agent/report", r, &reply)
	return reply, err
}

// KeepFresh renews the certificate when two thirds of its life are over, until the
// context ends. A renewal that fails is tried again each minute; the last third of
// the certificate's life is there for that.
func (c *Client) KeepFresh(ctx context.Context) {
	for {
		wait := c.untilRenewal()
		if wait <= 0 {
			wait = renewRetry
			if err := c.Renew(ctx); err != nil && ctx.Err() == nil {
				c.log.Warn("cannot renew the certificate", "err", err, "ends", c.id.NotAfter())
			} else if err == nil {
				c.log.Info("certificate renewed", "ends", c.id.NotAfter())
			}
		}
		select {
		case <-time.After(min(wait, renewAtMost)):
		case <-ctx.Done():
			return
		}
	}
}

func (c *Client) untilRenewal() time.Duration {
	cert, _ := c.id.present()
	life := cert.Leaf.NotAfter.Sub(cert.Leaf.NotBefore)
	return cert.Leaf.NotBefore.Add(life * 2 / 3).Sub(c.id.now())
}

// Renew gets a new certificate for a new key now.
func (c *Client) Renew(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("enrol: draw a key: %w", err)
	}
	csr, err := request(key)
	if err != nil {
		return err
	}
	var got desired.Credentials
	if err := c.api.call(ctx, http.MethodPost, "/v1/agent/renew", desired.RenewRequest{Version: desired.Version, CSR: csr, Time: c.id.now()}, &got); err != nil {
		return err
	}
	if got.Machine != c.id.Machine {
		return fmt.Errorf("enrol: the control plane renewed machine %s, this is %s", got.Machine, c.id.Machine)
	}
	if err := c.id.replace(key, got); err != nil {
		return err
	}
	c.api.http.CloseIdleConnections() // they still carry the old certificate
	return nil
}

// client is HTTPS with JSON bodies.
type client struct {
	server string
	http   *http.Client
}

func newClient(server string, config *tls.Config) *client {
	return &client{server: server, http: &http.Client{
		Timeout: callTimeout,
		Transport: &http.Transport{
			Proxy:               http.ProxyFromEnvironment,
			TLSClientConfig:     config,
			ForceAttemptHTTP2:   true,
			TLSHandshakeTimeout: 10 * time.Second,
			IdleConnTimeout:     idleConnLife,
		},
	}}
}

// call sends in and reads out. What the control plane refuses comes back as the
// *problem.Problem that it sent; what keeps it from being reached has code
// unavailable, unless TLS said something better.
func (c *client) call(ctx context.Context, method, path string, in, out any) error {
	var send io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("enrol: %w", err)
		}
		send = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.server+path, send)
	if err != nil {
		return fmt.Errorf("enrol: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return unreachable(c.server, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return unreachable(c.server, err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return refused(c.server, resp.StatusCode, b)
	}
	if err := json.Unmarshal(b, out); err != nil {
		return notOurs(c.server, err.Error())
	}
	return nil
}

func unreachable(server string, err error) error {
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		return p
	}
	return problem.New(problem.Unavailable, "check that it runs, the address, and that nothing blocks the port", "the control plane %s cannot be reached: %v", server, err)
}

func refused(server string, status int, b []byte) error {
	p := &problem.Problem{}
	if err := json.Unmarshal(b, p); err != nil || p.Code == "" {
		return notOurs(server, "HTTP status "+strconv.Itoa(status))
	}
	return p
}

func notOurs(server, why string) error {
	return problem.New(problem.Unavailable, "check the address and whether a proxy sits in between", "%s does not answer like a control plane: %s", server, why)
}
