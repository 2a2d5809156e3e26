package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/understudy-dr/understudy/pkg/problem"
)

// maxOperatorBody bounds what an operator may send, in bytes.
const maxOperatorBody = 64 << 10

// maxAnyBody bounds any request before its route is known, in bytes.
const maxAnyBody = 2 << 20

// problem turns an error into what the caller is told. What is not a problem is ours:
// it is logged here, where it is answered, and the caller learns no internals.
func (s *server) problem(ctx context.Context, err error) *problem.Problem {
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		return p
	}
	if ctx.Err() != nil {
		return problem.New(problem.Unavailable, "try again", "the request was given up before its answer")
	}
	s.Log.Error("request failed", "err", err, "caller", callerOf(ctx).String())
	return problem.New(problem.Internal, "see the control plane's log", "the control plane failed")
}

// refuse answers a request before it reaches its handler.
func (s *server) refuse(ctx huma.Context, err error) {
	_, w := unwrap(ctx)
	writeProblem(w, s.problem(ctx.Context(), err))
}

func writeProblem(w http.ResponseWriter, p *problem.Problem) {
	if p.Status == http.StatusUnauthorized {
		w.Header().Set("WWW-Authenticate", "Bearer")
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_ = json.NewEncoder(w).Encode(p) // to a client that may be gone
}

func unwrap(ctx huma.Context) (*http.Request, http.ResponseWriter) { return humago.Unwrap(ctx) }

var ownProblemsOnce sync.Once

// ownProblems makes huma answer what it finds wrong itself (a body that does not
// match its schema, an unknown type) in our form. Its hook is global.
func ownProblems(log *slog.Logger) {
	ownProblemsOnce.Do(func() {
		huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
			return fromHuma(log, status, message, errs)
		}
	})
}

func fromHuma(log *slog.Logger, status int, message string, errs []error) *problem.Problem {
	code, remedy := problem.Invalid, "correct the request; /openapi.json describes it"
	switch {
	case status == http.StatusRequestEntityTooLarge:
		code, remedy = problem.TooLarge, "send less at once"
	case status >= http.StatusInternalServerError:
		log.Error("request failed", "err", errors.Join(errs...), "message", message)
		return problem.New(problem.Internal, "see the control plane's log", "the control plane failed")
	}
	p := problem.New(code, remedy, "%s", message)
	p.Status, p.Title = status, http.StatusText(status)
	for _, err := range errs {
		if d, ok := errors.AsType[*huma.ErrorDetail](err); ok {
			p.Fields = append(p.Fields, problem.Field{Message: d.Message, Location: d.Location})
		} else if err != nil {
			p.Fields = append(p.Fields, problem.Field{Message: err.Error()})
		}
	}
	return p
}

// limitBodies bounds every request's body, also where no route takes one.
func limitBodies(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxAnyBody)
		next.ServeHTTP(w, r)
	})
}
