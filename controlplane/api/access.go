package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/understudy-dr/understudy/controlplane/pki"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// who may call a route. The zero value is the strictest that a person can be, so that
// a forgotten one shuts people out, not in.
type who int

const (
	operator who = iota
	agent
	anybody
)

var securitySchemes = map[string]*huma.SecurityScheme{
	"operator": {Type: "http", Scheme: "bearer", Description: "The token in DATA/operator.token of the control plane."},
	"agent":    {Type: "mutualTLS", Description: "A client certificate that this control plane issued at enrolment."},
}

func (w who) security() []map[string][]string {
	switch w {
	case anybody:
		return []map[string][]string{{}}
	case agent:
		return []map[string][]string{{"agent": {}}}
	default:
		return []map[string][]string{{"operator": {}}}
	}
}

// caller is who a request comes from, once that is proved.
type caller struct {
	operator string
	agent    pki.Agent
}

func (c caller) String() string {
	switch {
	case c.operator != "":
		return "operator " + c.operator
	case c.agent.Serial != "":
		return "machine " + c.agent.Machine.String()
	default:
		return "nobody"
	}
}

type callerKey struct{}

func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// admit lets a request through to the route if it comes from somebody who may call it.
func (s *server) admit(r route) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		req, _ := unwrap(ctx)
		c, err := s.prove(req, r.who)
		if err != nil {
			s.refuse(ctx, err)
			return
		}
		next(huma.WithValue(ctx, callerKey{}, c))
	}
}

// prove finds out who calls. Whoever comes with a certificate is an agent and nothing
// else, whatever token comes along: a guest that was taken over, and on which a token
// was found, still cannot act as an operator from there.
func (s *server) prove(req *http.Request, w who) (caller, error) {
	if w == anybody {
		return caller{}, nil
	}
	if req.TLS == nil || len(req.TLS.PeerCertificates) == 0 {
		return s.proveOperator(req, w)
	}
	a, err := s.Authority.VerifyAgent(req.TLS.PeerCertificates)
	if err != nil {
		return caller{}, err
	}
	if w != agent {
		return caller{}, problem.New(problem.Forbidden, "use an operator's token, from a client without an agent's certificate",
			"machine %s may append to its own log and report; it may not call %s %s", a.Machine, req.Method, req.URL.Path)
	}
	return caller{agent: a}, s.Inventory.Authorize(req.Context(), a.Machine, a.Serial)
}

func (s *server) proveOperator(req *http.Request, w who) (caller, error) {
	if w == agent {
		return caller{}, problem.New(problem.Unauthenticated, "enrol the machine: understudy-agent enrol", "no client certificate came along")
	}
	token, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		return caller{}, problem.New(problem.Unauthenticated, "send the token in DATA/operator.token of the control plane as Authorization: Bearer TOKEN", "the request says nothing about who sends it")
	}
	name, err := s.Inventory.Operator(req.Context(), strings.TrimSpace(token))
	return caller{operator: name}, err
}

// audited writes down what operators change, before and after. What agents report is
// not audited: it changes nothing that is wanted.
func (s *server) audited(r route) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		c := callerOf(ctx.Context())
		if r.method == http.MethodGet || c.operator == "" {
			next(ctx)
			return
		}
		req, _ := unwrap(ctx)
		id, err := s.Inventory.Begin(ctx.Context(), c.String(), r.name, req.URL.Path)
		if err != nil {
			s.refuse(ctx, err)
			return
		}
		next(ctx)
		result := "ok"
		if ctx.Status() >= http.StatusBadRequest {
			result = http.StatusText(ctx.Status())
		}
		// The operator may be gone by now; what was done is written down all the same.
		if err := s.Inventory.End(context.WithoutCancel(ctx.Context()), id, result); err != nil {
			s.Log.Error("cannot write the audit log", "err", err, "verb", r.name, "path", req.URL.Path)
		}
	}
}
