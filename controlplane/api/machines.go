package api

import (
	"context"
	"time"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// Machine is a machine as operators see it.
type Machine struct {
	ID          block.MachineID        `json:"id"`
	Hostname    string                 `json:"hostname"`
	Host        desired.Host           `json:"host"`
	Policy      string                 `json:"policy"`
	Enrolled    time.Time              `json:"enrolled"`
	Reported    time.Time              `json:"reported,omitzero" doc:"When the newest report came."`
	Status      inventory.Status       `json:"status"`
	StateSince  time.Time              `json:"state_since"`
	Disks       []inventory.Disk       `json:"protected_disks" doc:"The disks that shall be protected."`
	Protection  *desired.Protection    `json:"protection,omitempty" doc:"What the agent says of its log."`
	Replication *inventory.Replication `json:"replication,omitempty" doc:"What the relay and the vault say of it."`
	Probe       desired.Probe          `json:"probe"`
	Resync      uint64                 `json:"resync" doc:"The newest resync asked for."`
	Verify      desired.Verify         `json:"verify" doc:"The proofs wanted; protection.verify says how they stand."`
	Point       desired.PointWish      `json:"point" doc:"The newest point asked for; protection.point is the last that was made."`
}

func (s *server) view(ctx context.Context, m inventory.Machine) (Machine, error) {
	facts, err := s.Inventory.Facts(ctx, m, s.Relay.Replication)
	if err != nil {
		return Machine{}, err
	}
	v := Machine{
		ID: m.ID, Hostname: m.Hostname, Host: m.Report.Host, Policy: m.Policy,
		Enrolled: m.Enrolled, Reported: m.Reported,
		Status: inventory.Derive(facts), StateSince: m.StateSince,
		Disks: facts.Wanted, Protection: m.Report.Protection, Probe: m.Report.Probe, Resync: m.Resync, Verify: m.Verify, Point: m.Point,
	}
	if facts.Replication.Known {
		v.Replication = &facts.Replication
	}
	return v, nil
}

// MachinePath names a machine in a path.
type MachinePath struct {
	Machine string `path:"machine" maxLength:"256" doc:"Id, beginning of the id (8 digits or more), or hostname."`
}

func (s *server) listMachines(ctx context.Context, _ *struct{}) (*body[Items[Machine]], error) {
	machines, err := s.Inventory.Machines(ctx)
	if err != nil {
		return nil, err
	}
	views := make([]Machine, len(machines))
	for i, m := range machines {
		if views[i], err = s.view(ctx, m); err != nil {
			return nil, err
		}
	}
	return answerItems(views, nil)
}

func (s *server) getMachine(ctx context.Context, in *MachinePath) (*body[Machine], error) {
	m, err := s.Inventory.Resolve(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	return answer(s.view(ctx, m))
}

func (s *server) removeMachine(ctx context.Context, in *MachinePath) (*struct{}, error) {
	m, err := s.Inventory.Resolve(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	if err := s.Inventory.RemoveMachine(ctx, m.ID); err != nil {
		return nil, err
	}
	s.Relay.Disconnect(m.ID, "the machine was removed", "enrol it again if it should come back")
	return nil, nil
}

func (s *server) listDisks(ctx context.Context, in *MachinePath) (*body[Items[inventory.Disk]], error) {
	m, err := s.Inventory.Resolve(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	return answerItems(s.Inventory.Disks(ctx, m.ID))
}

type protectInput struct {
	MachinePath
	Body struct {
		Disks  []string `json:"disks" minItems:"1" maxItems:"256" doc:"Ids, stable names or present paths."`
		Policy string   `json:"policy,omitempty" doc:"The policy that the machine shall follow; absent: as before."`
	}
}

func (s *server) protect(ctx context.Context, in *protectInput) (*body[Items[inventory.Disk]], error) {
	m, err := s.Inventory.Resolve(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	return answerItems(s.Inventory.Protect(ctx, m.ID, in.Body.Disks, in.Body.Policy))
}

type unprotectInput struct {
	MachinePath
	Body struct {
		Disks []string `json:"disks" maxItems:"256" doc:"Ids, stable names or present paths; empty: all."`
	}
}

func (s *server) unprotect(ctx context.Context, in *unprotectInput) (*body[Items[inventory.Disk]], error) {
	m, err := s.Inventory.Resolve(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	return answerItems(s.Inventory.Unprotect(ctx, m.ID, in.Body.Disks))
}

// ResyncAsked answers a request for a resync.
type ResyncAsked struct {
	Resync uint64 `json:"resync" doc:"The request's number; it has begun when the machine's protection.resync reaches it."`
}

func (s *server) resync(ctx context.Context, in *MachinePath) (*body[ResyncAsked], error) {
	m, err := s.Inventory.Resolve(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	number, err := s.Inventory.Resync(ctx, m.ID)
	return answer(ResyncAsked{Resync: number}, err)
}

type assignPolicyInput struct {
	MachinePath
	Body struct {
		Policy string `json:"policy"`
	}
}

func (s *server) assignPolicy(ctx context.Context, in *assignPolicyInput) (*struct{}, error) {
	m, err := s.Inventory.Resolve(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	return nil, s.Inventory.SetMachinePolicy(ctx, m.ID, in.Body.Policy)
}
