// Package api is the control plane's HTTP interface: REST and JSON, described by the
// OpenAPI document that it serves at /openapi.json and /openapi.yaml.
//
// All routes stand in one table (routes.go), each with who may call it. Handlers
// turn a request into one call of whoever owns the matter, and hold no logic.
// Operators prove themselves by a bearer token, agents by their client certificate,
// on the same port. Errors are problem documents (package problem).
package api

import (
	"context"
	"crypto/x509"
	"log/slog"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/controlplane/pki"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// Replication tells what the relay and the vault know of machines.
type Replication interface {
	Replication(machine block.MachineID) inventory.Replication
}

// Enrolment gives machines their identity.
type Enrolment interface {
	Enrol(ctx context.Context, req desired.EnrolRequest) (desired.Credentials, error)
	Renew(ctx context.Context, machine block.MachineID, req desired.RenewRequest) (desired.Credentials, error)
}

// Authority says whose a client certificate is, and how agents recognise us.
type Authority interface {
	VerifyAgent(chain []*x509.Certificate) (pki.Agent, error)
	Fingerprint() [32]byte
}

// Options is what the API stands on.
type Options struct {
	Inventory   *inventory.Inventory
	Enrolment   Enrolment
	Authority   Authority
	Replication Replication
	Relays      []string             // addresses that agents are told, host:port
	Metrics     *prometheus.Registry // served at /metrics; the API adds its own
	Version     string
	Now         func() time.Time
	Log         *slog.Logger
}

// server carries the options to the handlers.
type server struct {
	Options
	started time.Time
	api     huma.API
}

// New is the whole interface as one handler. It does not limit connections or time:
// Serve does.
func New(o Options) http.Handler {
	s := &server{Options: o, started: o.Now()}
	mux := http.NewServeMux()
	config := huma.DefaultConfig("Understudy", o.Version)
	config.Info.Description = "The control plane of Understudy: machines, their protection, their past, and their recovery."
	config.CreateHooks = nil // no $schema members in bodies
	config.SchemasPath = ""
	config.DocsPath = "" // its pages load scripts from the internet; ours is docs.html
	config.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	config.Components.SecuritySchemes = securitySchemes
	config.RejectUnknownQueryParameters = true
	ownProblems(o.Log)
	s.api = humago.New(mux, config)
	for _, r := range s.routes() {
		s.register(r)
	}
	s.registerPages(mux)
	s.registerMetrics(mux)
	return limitBodies(mux)
}

// schemaName tells the agent protocol's types from the operators' of the same name.
func schemaName(t reflect.Type, hint string) string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	name := huma.DefaultSchemaNamer(t, hint)
	if strings.HasSuffix(t.PkgPath(), "/pkg/desired") {
		return "Agent" + name
	}
	return name
}
