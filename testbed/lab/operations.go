package lab

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Operation is one thing that the API can be asked for, from its own description.
type Operation struct {
	Method, Path string
	base         string
}

// Operations reads the API's description.
func (s *Site) Operations(ctx context.Context) ([]Operation, error) {
	base := "https://" + s.API
	body, status, err := call(ctx, stranger(), http.MethodGet, base+"/openapi.json", "")
	if err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("the API's description: status %d, %w", status, err)
	}
	var description struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	if err := json.Unmarshal(body, &description); err != nil {
		return nil, err
	}
	var ops []Operation
	for path, methods := range description.Paths {
		for method := range methods {
			if m := strings.ToUpper(method); slices.Contains([]string{"GET", "PUT", "POST", "DELETE", "PATCH"}, m) {
				ops = append(ops, Operation{Method: m, Path: path, base: base})
			}
		}
	}
	return ops, nil
}

// Call asks for it, each parameter in its path set to this value, and returns the HTTP
// status.
func (o Operation) Call(ctx context.Context, c *http.Client, parameter string) (int, error) {
	segments := strings.Split(o.Path, "/")
	for i, s := range segments {
		if strings.HasPrefix(s, "{") {
			segments[i] = parameter
		}
	}
	_, status, err := call(ctx, c, o.Method, o.base+strings.Join(segments, "/"), "")
	return status, err
}

// Metrics are what the control plane shows to its operator's Prometheus.
func (s *Site) Metrics(ctx context.Context) (string, error) {
	token, err := os.ReadFile(filepath.Join(s.Data, "operator.token"))
	if err != nil {
		return "", err
	}
	return Metrics(ctx, "https://"+s.API+"/metrics", strings.TrimSpace(string(token)))
}

// Metrics are what this address shows to whoever has the token.
func Metrics(ctx context.Context, url, token string) (string, error) {
	body, status, err := call(ctx, stranger(), http.MethodGet, url, token)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("%s: status %d: %s", url, status, body)
	}
	return string(body), err
}

// stranger is a client that has nothing to show and trusts anybody.
func stranger() *http.Client {
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
}

func call(ctx context.Context, c *http.Client, method, url, token string) ([]byte, int, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader("{}"))
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	return body, resp.StatusCode, err
}
