package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/understudy-dr/understudy/controlplane/api"
	"github.com/understudy-dr/understudy/pkg/problem"
)

const (
	defaultData = "/var/lib/understudy"
	callTimeout = 60 * time.Second
	maxReply    = 256 << 20 // bytes; a hundred thousand points are 20 MB
)

// connection says where the control plane is and how to prove to be its operator. On
// the control plane's own host the data directory tells all of it.
type connection struct {
	data, server, tokenFile, ca string
}

func (o *connection) flags(f *pflag.FlagSet) {
	f.StringVar(&o.data, "data", "", "data directory of the control plane on this host (default: UNDERSTUDY_DATA or "+defaultData+")")
	f.StringVar(&o.server, "server", "", "control plane, https://host:port (default: UNDERSTUDY_API or the one of --data)")
	f.StringVar(&o.tokenFile, "token-file", "", "file with the operator's token (default: UNDERSTUDY_TOKEN_FILE or DATA/"+tokenName+")")
	f.StringVar(&o.ca, "ca", "", "certificate of the control plane's authority (default: UNDERSTUDY_CA or DATA/"+pkiName+"/ca.pem)")
}

// complete fills in what the command line does not say.
func (o *connection) complete() {
	o.data = cmp.Or(o.data, os.Getenv("UNDERSTUDY_DATA"), defaultData)
	o.server = cmp.Or(o.server, os.Getenv("UNDERSTUDY_API"))
	o.tokenFile = cmp.Or(o.tokenFile, os.Getenv("UNDERSTUDY_TOKEN_FILE"), filepath.Join(o.data, tokenName))
	o.ca = cmp.Or(o.ca, os.Getenv("UNDERSTUDY_CA"))
}

// client is an operator's connection.
type client struct {
	server string
	token  string
	http   *http.Client
}

func (o *connection) client() (*client, error) {
	token, err := o.token()
	if err != nil {
		return nil, err
	}
	roots, err := o.roots()
	if err != nil {
		return nil, err
	}
	server, err := o.address()
	if err != nil {
		return nil, err
	}
	return &client{server: server, token: token, http: &http.Client{
		Timeout: callTimeout,
		Transport: &http.Transport{
			Proxy:             http.ProxyFromEnvironment,
			TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots},
			ForceAttemptHTTP2: true,
		},
	}}, nil
}

func (o *connection) token() (string, error) {
	b, err := os.ReadFile(o.tokenFile)
	if err != nil {
		return "", problem.New(problem.Unauthenticated,
			"run this as root on the control plane's host with its --data, or copy DATA/"+tokenName+" here and name it with --token-file",
			"cannot read the operator's token: %v", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// roots is nil, the system's own, where nobody names an authority and there is none.
func (o *connection) roots() (*x509.CertPool, error) {
	path := cmp.Or(o.ca, filepath.Join(o.data, pkiName, "ca.pem"))
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && o.ca == "" {
		return nil, nil
	}
	pool := x509.NewCertPool()
	if err != nil || !pool.AppendCertsFromPEM(b) {
		return nil, problem.New(problem.Unauthenticated, "copy DATA/pki/ca.pem from the control plane and name it with --ca", "cannot use the authority's certificate %s (%v)", path, err)
	}
	return pool, nil
}

func (o *connection) address() (string, error) {
	server := o.server
	if server == "" {
		b, err := os.ReadFile(filepath.Join(o.data, addressName))
		if err != nil {
			return "", problem.New(problem.Unavailable, "start it (understudy serve), or name another with --server or UNDERSTUDY_API",
				"no control plane has run with the data directory %s", o.data)
		}
		server = strings.TrimSpace(string(b))
	}
	if !strings.Contains(server, "://") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return "", usageError{fmt.Errorf("%q is not the address of a control plane: want https://host:port", server)}
	}
	return "https://" + u.Host, nil
}

// get asks for a resource.
func get[T any](ctx context.Context, c *client, path string, query url.Values) (T, error) {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return send[T](ctx, c, http.MethodGet, path, nil)
}

// list asks for the items of a list.
func list[T any](ctx context.Context, c *client, path string, query url.Values) ([]T, error) {
	l, err := get[api.Items[T]](ctx, c, path, query)
	return l.Items, err
}

// send calls the API. What it refuses comes back as the *problem.Problem it sent.
func send[T any](ctx context.Context, c *client, method, path string, in any) (out T, err error) {
	var content io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return out, err
		}
		content = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.server+path, content)
	if err != nil {
		return out, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return out, c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return out, c.unreachable(ctx, err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return out, c.refused(resp.StatusCode, b)
	}
	if len(b) == 0 {
		return out, nil
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return out, problem.New(problem.Unavailable, "check the address", "%s does not answer like a control plane: %v", c.server, err)
	}
	return out, nil
}

func (c *client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return problem.New(problem.CertificateForeign, "check the address; name the right authority with --ca", "%s is not the control plane that this authority stands for", c.server)
	}
	if name, ok := errors.AsType[x509.HostnameError](err); ok {
		return problem.New(problem.CertificateForeign, "start the control plane with --name "+name.Host+", or use one of its other names", "the control plane does not know that it is called %s", name.Host)
	}
	return problem.New(problem.Unavailable, "see whether it runs: systemctl status understudy, or start understudy serve", "the control plane %s cannot be reached: %v", c.server, err)
}

func (c *client) refused(status int, b []byte) error {
	p := &problem.Problem{}
	if err := json.Unmarshal(b, p); err != nil || p.Code == "" {
		return problem.New(problem.Unavailable, "check the address", "%s does not answer like a control plane: HTTP status %s", c.server, strconv.Itoa(status))
	}
	return p
}
