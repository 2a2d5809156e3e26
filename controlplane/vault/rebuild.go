package vault

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Protected is what the vault alone tells of one machine: enough to make an inventory
// anew. Its points are listed by Machine.Points.
type Protected struct {
	Machine block.MachineID `json:"machine"`
	About   json.RawMessage `json:"about,omitempty"` // as stored by SaveAbout
	Status  Status          `json:"status"`
	Epochs  []Epoch         `json:"epochs"`
	Doubts  []Doubt         `json:"doubts,omitempty"`
	Damage  string          `json:"damage,omitempty"` // why there is no more than this
}

// Rebuild tells every machine from the store and the master key alone. A machine that
// is damaged is told as far as possible.
func (v *Vault) Rebuild(ctx context.Context) ([]Protected, error) {
	ids, err := v.Machines(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]Protected, 0, len(ids))
	for _, id := range ids {
		p, err := v.protected(ctx, id)
		switch {
		case errors.Is(err, ErrDamaged):
			p.Damage = err.Error()
		case err != nil:
			return nil, err
		case len(p.Status.Damage) > 0:
			p.Damage = p.Status.Damage[0].Error()
		}
		all = append(all, p)
	}
	return all, nil
}

func (v *Vault) protected(ctx context.Context, id block.MachineID) (Protected, error) {
	p := Protected{Machine: id}
	m, err := v.Machine(ctx, id)
	if err != nil {
		return p, err
	}
	if p.Status, err = m.Status(ctx); err != nil {
		return p, err
	}
	if p.Epochs, err = m.Epochs(ctx); err != nil {
		return p, err
	}
	if p.Doubts, err = m.Doubts(ctx); err != nil {
		return p, err
	}
	p.About, err = m.About(ctx)
	return p, err
}
