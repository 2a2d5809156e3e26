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

	"github.com/understudy-dr/understudy/controlplane/failover"
	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/controlplane/pki"
	"github.com/understudy-dr/understudy/controlplane/push"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// Relay tells what the relay and the vault know of machines.
type Relay interface {
	Replication(machine block.MachineID) inventory.Replication
	// Disconnect ends a machine's connection to the relay, and tells it why and what to
	// do.
	Disconnect(machine block.MachineID, why, remedy string)
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
	DER() []byte
}

// Points finds recovery points in the vault.
type Points interface {
	// Points are the newest points from one time to another, at most limit of them, the
	// oldest first; a zero time leaves that end open.
	Points(ctx context.Context, machine block.MachineID, from, to time.Time, limit int) (History, error)
	// Point is the point that is meant by latest, latest-app, an id, a name or a time.
	Point(ctx context.Context, machine block.MachineID, spec string) (PointDetail, error)
	// Lock keeps the point that is meant whatever the retention says, until Unlock of the
	// same name. A lock that is there, or is not, is no error.
	Lock(ctx context.Context, machine block.MachineID, spec, name string) (PointDetail, error)
	Unlock(ctx context.Context, machine block.MachineID, spec, name string) (PointDetail, error)
}

// Failovers starts, shows and cleans up failovers.
type Failovers interface {
	Start(ctx context.Context, r failover.Request) (failover.Failover, error)
	Get(ctx context.Context, id string) (failover.Failover, error)
	List(ctx context.Context, machine block.MachineID) ([]failover.Failover, error)
	Clean(ctx context.Context, id string, force bool, askedBy string) (inventory.Job, error)
	ChangePoint(ctx context.Context, id, point string, inDoubt, force bool) (failover.Failover, error)
	StartDrill(ctx context.Context, machine block.MachineID, askedBy string) (failover.Failover, error)
	Drills(ctx context.Context, machine block.MachineID) ([]failover.Failover, error)
	PowerOn(ctx context.Context, id string) (failover.Failover, error)
	Commit(ctx context.Context, id string) (failover.Failover, error)
	Screenshot(ctx context.Context, id string) ([]byte, error)
}

// Options is what the API stands on.
type Options struct {
	Inventory *inventory.Inventory
	Enrolment Enrolment
	Authority Authority
	Relay     Relay
	Points    Points
	Failovers Failovers
	Agents    push.Agents                       // for machines that install theirs by themselves
	Found     func()                            // is called when a report with findings of proofs was recorded
	Progress  func(inventory.Job) inventory.Job // adds how far the running step is
	Relays    []string                          // addresses that agents are told, host:port
	Metrics   *prometheus.Registry              // served at /metrics; the API adds its own
	Version   string
	Now       func() time.Time
	Log       *slog.Logger
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
