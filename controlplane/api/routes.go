package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/understudy-dr/understudy/pkg/desired"
)

// route is one line of the table.
type route struct {
	method  string
	path    string
	who     who
	name    string // the operation's id; also the verb in the audit log
	summary string
	handler handler
}

// routes is the whole API. A route that names nobody is the operators'.
func (s *server) routes() []route {
	const get, post, put, del = http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete
	return []route{
		{get, "/v1/system/health", anybody, "health", "Whether the control plane answers", on(s, s.health)},
		{get, "/v1/system", operator, "system", "Version, addresses and fingerprint of the control plane", on(s, s.system)},
		{get, "/v1/audit", operator, "list-audit", "Who did what, the newest first", on(s, s.listAudit)},

		{post, "/v1/agent/enrol", anybody, "enrol", "Trade a one-time token for a certificate", onProtocol(s, s.enrol)},
		{post, "/v1/agent/renew", agent, "renew", "A new certificate, with the old one as proof", onProtocol(s, s.renew)},
		{get, "/v1/agent/desired", agent, "desired", "How the calling machine shall be", onProtocol(s, s.desired)},
		{post, "/v1/agent/report", agent, "report", "How the calling machine is", onProtocol(s, s.report)},

		{get, "/v1/install/ca.der", anybody, "install-authority", "The authority's certificate, whose SHA-256 tokens carry", on(s, s.installAuthority)},
		{get, "/v1/install/agent.sh", anybody, "install-script", "What the command of understudy token create --command runs", on(s, s.installScript)},
		{get, "/v1/install/agent/linux/{arch}", anybody, "install-agent", "The agent's program for Linux", on(s, s.installAgent)},

		{get, "/v1/tokens", operator, "list-tokens", "Enrolment tokens, the newest first", on(s, s.listTokens)},
		{post, "/v1/tokens", operator, "create-token", "A token with which one machine can enrol once", on(s, s.createToken)},
		{del, "/v1/tokens/{token}", operator, "revoke-token", "Make an unused token useless", on(s, s.revokeToken)},

		{get, "/v1/machines", operator, "list-machines", "All machines and how they are", on(s, s.listMachines)},
		{get, "/v1/machines/{machine}", operator, "get-machine", "One machine, by id or hostname", on(s, s.getMachine)},
		{del, "/v1/machines/{machine}", operator, "remove-machine", "Forget a machine and shut its agent out; the vault keeps its history", on(s, s.removeMachine)},
		{get, "/v1/machines/{machine}/disks", operator, "list-disks", "The machine's disks", on(s, s.listDisks)},
		{post, "/v1/machines/{machine}/protect", operator, "protect", "Protect disks of the machine", on(s, s.protect)},
		{post, "/v1/machines/{machine}/unprotect", operator, "unprotect", "End the protection of disks; the vault keeps what it has", on(s, s.unprotect)},
		{post, "/v1/machines/{machine}/resync", operator, "resync", "Compare all protected disks with the vault and repair", on(s, s.resync)},
		{post, "/v1/machines/{machine}/verify", operator, "verify", "Prove that the disks and their replica are equal", on(s, s.verify)},
		{put, "/v1/machines/{machine}/verify", operator, "verify-always", "Prove it again and again, or no more", on(s, s.verifyAlways)},
		{put, "/v1/machines/{machine}/policy", operator, "assign-policy", "Make the machine follow another policy", on(s, s.assignPolicy)},

		{get, "/v1/policies", operator, "list-policies", "All policies", on(s, s.listPolicies)},
		{get, "/v1/policies/{policy}", operator, "get-policy", "One policy", on(s, s.getPolicy)},
		{put, "/v1/policies/{policy}", operator, "set-policy", "Write a policy, new or not", on(s, s.setPolicy)},

		{get, "/v1/machines/{machine}/points", operator, "list-points", "Moments the machine can be brought back to", on(s, s.listPoints)},
		{post, "/v1/machines/{machine}/points", operator, "create-point", "Make a recovery point now", on(s, s.createPoint)},
		{get, "/v1/machines/{machine}/points/{point}", operator, "get-point", "The point meant by latest, latest-app, an id, a name or a time, and its disks", on(s, s.getPoint)},
		{put, "/v1/machines/{machine}/points/{point}/locks/{lock}", operator, "lock-point", "Keep a point whatever the retention says", on(s, s.lockPoint)},
		{del, "/v1/machines/{machine}/points/{point}/locks/{lock}", operator, "unlock-point", "Leave a point to the retention again, as far as this lock goes", on(s, s.unlockPoint)},
		{post, "/v1/machines/{machine}/failovers", operator, "start-failover", "Bring the machine's disks back as of a point", on(s, s.startFailover)},
		{post, "/v1/machines/{machine}/drills", operator, "start-drill", "Try now whether the machine can be brought up, and clean up", on(s, s.startDrill)},
		{get, "/v1/drills", operator, "list-drills", "Drills, the newest first", on(s, s.listDrills)},
		{get, "/v1/failovers", operator, "list-failovers", "Failovers, the newest first", on(s, s.listFailovers)},
		{get, "/v1/failovers/{failover}", operator, "get-failover", "One failover", on(s, s.getFailover)},
		{get, "/v1/failovers/{failover}/screenshot", operator, "get-screenshot", "The screen of a failover's machine, as it is or as it was last", on(s, s.screenshot)},
		{post, "/v1/failovers/{failover}/point", operator, "change-point", "Boot the machine of a failover from another point, until it is committed", on(s, s.changePoint)},
		{post, "/v1/failovers/{failover}/power-on", operator, "power-on", "Bring the machine of a failover up again that went off, with what it wrote", on(s, s.powerOn)},
		{post, "/v1/failovers/{failover}/commit", operator, "commit-failover", "Make a failover final", on(s, s.commitFailover)},
		{post, "/v1/failovers/{failover}/cleanup", operator, "cleanup-failover", "Remove what a failover made", on(s, s.cleanFailover)},

		{get, "/v1/jobs", operator, "list-jobs", "Jobs, the newest first", on(s, s.listJobs)},
		{get, "/v1/jobs/{job}", operator, "get-job", "One job with its steps and their attempts", on(s, s.getJob)},
		{get, "/v1/events", operator, "list-events", "What happened, the oldest first", on(s, s.listEvents)},
	}
}

// handler puts a function of the server behind an operation.
type handler func(huma.API, huma.Operation)

// on is a handler for operators: its body must match the schema exactly, so that a
// misspelt member is an error and not ignored.
func on[I, O any](s *server, fn func(context.Context, *I) (*O, error)) handler {
	return func(api huma.API, op huma.Operation) {
		huma.Register(api, op, func(ctx context.Context, in *I) (*O, error) {
			out, err := fn(ctx, in)
			if err != nil {
				return nil, s.problem(ctx, err)
			}
			return out, nil
		})
	}
}

// onProtocol is a handler for agents: a newer agent may say more than we know, and
// package desired checks what counts.
func onProtocol[I, O any](s *server, fn func(context.Context, *I) (*O, error)) handler {
	return func(api huma.API, op huma.Operation) {
		op.SkipValidateBody = true
		op.MaxBodyBytes = desired.MaxReportBytes
		on(s, fn)(api, op)
	}
}

func (s *server) register(r route) {
	op := huma.Operation{
		OperationID:  r.name,
		Method:       r.method,
		Path:         r.path,
		Summary:      r.summary,
		Tags:         []string{strings.Split(r.path, "/")[2]},
		Middlewares:  huma.Middlewares{s.admit(r), s.audited(r)},
		Security:     r.who.security(),
		MaxBodyBytes: maxOperatorBody,
	}
	r.handler(s.api, op)
}

// body is an answer with a JSON body.
type body[T any] struct{ Body T }

func answer[T any](v T, err error) (*body[T], error) {
	if err != nil {
		return nil, err
	}
	return &body[T]{Body: v}, nil
}

// Items is an answer with a list; an object, so that it can grow members.
type Items[T any] struct {
	Items []T `json:"items"`
}

func answerItems[T any](v []T, err error) (*body[Items[T]], error) {
	return answer(Items[T]{Items: v}, err)
}
