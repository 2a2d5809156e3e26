package main

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// about is what the vault keeps of a machine besides its history, for those who have
// nothing but the vault.
type about struct {
	Hostname  string           `json:"hostname"`
	Policy    inventory.Policy `json:"policy"`
	Protected []block.DiskID   `json:"protected"`
	Proof     *desired.Proof   `json:"proof,omitempty"` // the last
}

func readAbout(ctx context.Context, m *vault.Machine) (about, error) {
	text, err := m.About(ctx)
	if err != nil {
		return about{}, err
	}
	return parseAbout(text)
}

func parseAbout(text json.RawMessage) (a about, err error) {
	if len(text) > 0 {
		err = json.Unmarshal(text, &a)
	}
	return a, err
}

// machineInVault finds a machine by its id, by the beginning of its id, or by its
// hostname, in the vault alone: the control plane may be what was lost.
func machineInVault(ctx context.Context, v *vault.Vault, name string) (*vault.Machine, error) {
	ids, err := v.Machines(ctx)
	if err != nil {
		return nil, err
	}
	var fits []block.MachineID
	for _, id := range ids {
		ok := id.String() == name || len(name) >= 8 && strings.HasPrefix(id.String(), name)
		if !ok {
			if ok, err = isCalled(ctx, v, id, name); err != nil {
				return nil, err
			}
		}
		if ok {
			fits = append(fits, id)
		}
	}
	switch len(fits) {
	case 1:
		return v.Machine(ctx, fits[0])
	case 0:
		return nil, problem.New(problem.MachineUnknown, "name it by its id, or see understudy machine list", "the vault knows no machine %q", name)
	default:
		return nil, problem.New(problem.Ambiguous, "use the id of the one you mean", "%d machines in the vault are called %q: %v", len(fits), name, fits)
	}
}

func isCalled(ctx context.Context, v *vault.Vault, id block.MachineID, name string) (bool, error) {
	m, err := v.Machine(ctx, id)
	if err != nil {
		return false, err
	}
	a, err := readAbout(ctx, m)
	return a.Hostname == name, err
}
