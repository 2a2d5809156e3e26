package api

import (
	_ "embed"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/understudy-dr/understudy/pkg/problem"
)

//go:embed docs.html
var docsPage []byte

// registerPages serves what is not REST: the description as a page, and an answer in
// our form to whoever asks for what does not exist.
func (s *server) registerPages(mux *http.ServeMux) {
	mux.HandleFunc("GET /docs", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'")
		_, _ = w.Write(docsPage) // to a client that may be gone
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, problem.New(problem.NotFound, "see /openapi.json for what there is", "there is no %s %s", r.Method, r.URL.Path))
	})
}

// registerMetrics serves /metrics to operators: machine names are nobody else's
// business, and Prometheus can send a bearer token (authorization.credentials_file).
func (s *server) registerMetrics(mux *http.ServeMux) {
	s.Metrics.MustRegister(&machineMetrics{server: s})
	serve := promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{Registry: prometheus.Registerer(s.Metrics)})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if _, err := s.prove(r, operator); err != nil {
			writeProblem(w, s.problem(r.Context(), err))
			return
		}
		serve.ServeHTTP(w, r)
	})
}
