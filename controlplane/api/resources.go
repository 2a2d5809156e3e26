package api

import (
	"context"
	"encoding/hex"
	"time"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// Health says that the control plane answers, and nothing else: anybody may ask.
type Health struct {
	Status string `json:"status"`
}

func (s *server) health(context.Context, *struct{}) (*body[Health], error) {
	return answer(Health{Status: "ok"}, nil)
}

// System is the control plane itself.
type System struct {
	Version     string    `json:"version"`
	Protocol    int       `json:"agent_protocol"`
	Time        time.Time `json:"time"`
	Started     time.Time `json:"started"`
	Relays      []string  `json:"relays" doc:"Where agents send their logs."`
	Fingerprint string    `json:"fingerprint" doc:"SHA-256 of the authority's certificate, which tokens carry."`
}

func (s *server) system(context.Context, *struct{}) (*body[System], error) {
	sum := s.Authority.Fingerprint()
	return answer(System{
		Version: s.Version, Protocol: desired.Version, Time: s.Now().UTC(), Started: s.started.UTC(),
		Relays: s.Relays, Fingerprint: hex.EncodeToString(sum[:]),
	}, nil)
}

type limitInput struct {
	Limit int `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

func (s *server) listAudit(ctx context.Context, in *limitInput) (*body[Items[inventory.Entry]], error) {
	return answerItems(s.Inventory.Audit(ctx, in.Limit))
}

func (s *server) listTokens(ctx context.Context, _ *struct{}) (*body[Items[inventory.Token]], error) {
	return answerItems(s.Inventory.Tokens(ctx))
}

type createTokenInput struct {
	Body struct {
		Machine     string `json:"machine,omitempty" doc:"A machine that shall enrol again and keep its history; absent: a new machine."`
		Note        string `json:"note,omitempty" maxLength:"256" doc:"For humans."`
		LifeSeconds int64  `json:"life_seconds,omitempty" minimum:"60" maximum:"2592000" doc:"Absent: 24 hours."`
	}
}

// NewToken is a token just made. Its secret is shown once: nobody keeps it.
type NewToken struct {
	inventory.Token
	Secret string `json:"token" doc:"For understudy-agent enrol; shown this once."`
}

func (s *server) createToken(ctx context.Context, in *createTokenInput) (*body[NewToken], error) {
	machine, err := s.optionalMachine(ctx, in.Body.Machine)
	if err != nil {
		return nil, err
	}
	token := desired.NewToken(s.Authority.Fingerprint())
	made, err := s.Inventory.CreateToken(ctx, token.Secret, machine, in.Body.Note, time.Duration(in.Body.LifeSeconds)*time.Second)
	return answer(NewToken{Token: made, Secret: token.String()}, err)
}

type tokenPath struct {
	Token string `path:"token" maxLength:"64"`
}

func (s *server) revokeToken(ctx context.Context, in *tokenPath) (*struct{}, error) {
	return nil, s.Inventory.RevokeToken(ctx, in.Token)
}

func (s *server) listPolicies(ctx context.Context, _ *struct{}) (*body[Items[inventory.Policy]], error) {
	return answerItems(s.Inventory.Policies(ctx))
}

type PolicyPath struct {
	Policy string `path:"policy" maxLength:"63"`
}

func (s *server) getPolicy(ctx context.Context, in *PolicyPath) (*body[inventory.Policy], error) {
	return answer(s.Inventory.Policy(ctx, in.Policy))
}

// PolicyFigures is a policy without its name.
type PolicyFigures struct {
	RPOTargetMS int64               `json:"rpo_target_ms"`
	Retention   inventory.Retention `json:"retention"`
	Throttle    []desired.Window    `json:"throttle,omitempty"`
	desired.Consistency
	inventory.Drill
}

type setPolicyInput struct {
	PolicyPath
	Body PolicyFigures
}

func (s *server) setPolicy(ctx context.Context, in *setPolicyInput) (*body[inventory.Policy], error) {
	return answer(s.Inventory.SetPolicy(ctx, inventory.Policy{
		Name: in.Policy, RPOTargetMS: in.Body.RPOTargetMS, Retention: in.Body.Retention, Throttle: in.Body.Throttle, Consistency: in.Body.Consistency, Drill: in.Body.Drill,
	}))
}

type eventsInput struct {
	Machine string `query:"machine" maxLength:"256" doc:"Only of this machine."`
	Type    string `query:"type" maxLength:"256" doc:"Only of this type."`
	After   int64  `query:"after" minimum:"0" doc:"Only events with a higher id; absent: the newest."`
	Limit   int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

func (s *server) listEvents(ctx context.Context, in *eventsInput) (*body[Items[inventory.Event]], error) {
	machine, err := s.optionalMachine(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	return answerItems(s.Inventory.Events(ctx, inventory.EventFilter{Machine: machine, Type: in.Type, After: in.After, Limit: in.Limit}))
}

// optionalMachine is the machine of this name; zero for no name.
func (s *server) optionalMachine(ctx context.Context, name string) (block.MachineID, error) {
	if name == "" {
		return block.MachineID{}, nil
	}
	m, err := s.Inventory.Resolve(ctx, name)
	return m.ID, err
}
