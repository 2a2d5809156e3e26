// Package ingest joins a relay to the vault that it writes to. Neither knows the other:
// the relay states what it needs, the vault what it is.
package ingest

import (
	"context"
	"errors"
	"fmt"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/relay"
	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/pkg/block"
)

// Vault is a vault as a relay needs it: relay.Vault over vault.Vault.
type Vault struct{ *vault.Vault }

// OpenWriter implements relay.Vault.
func (v Vault) OpenWriter(ctx context.Context, id block.MachineID) (relay.Writer, error) {
	w, err := v.Vault.OpenWriter(ctx, id)
	if err != nil {
		return nil, classed(err)
	}
	return writer{w}, nil
}

// RangeHashes implements relay.Vault.
func (v Vault) RangeHashes(ctx context.Context, id block.MachineID, at block.Position, disk block.DiskID, off, n, granule int64) ([]block.Hash16, error) {
	m, err := v.Machine(ctx, id)
	if err != nil {
		return nil, err
	}
	if at == (block.Position{}) {
		h, err := m.RangeHashes(ctx, at, disk, off, n, granule)
		return h, classed(err)
	}
	h, err := m.ProofHashes(ctx, at, disk, off, n, granule)
	return h, classed(err)
}

// writer is a machine's writer as the relay needs it.
type writer struct{ *vault.Writer }

// State implements relay.Writer.
func (w writer) State() relay.State {
	s := w.Writer.State()
	return relay.State{Last: s.Last, Closed: s.Closed, Base: s.Base}
}

// Commit implements relay.Writer.
func (w writer) Commit(ctx context.Context, frames [][]byte) error {
	return classed(w.Writer.Commit(ctx, frames))
}

// classed gives an error the class that the relay tells its events by.
func classed(err error) error {
	for class, known := range map[error]error{
		objstore.ErrFull:     relay.ErrVaultFull,
		objstore.ErrReadOnly: relay.ErrVaultReadOnly,
		vault.ErrStaleWriter: relay.ErrLeaseLost,
		vault.ErrConflict:    relay.ErrVaultRefused,
		vault.ErrContinuity:  relay.ErrVaultRefused,
		vault.ErrDamaged:     relay.ErrVaultDamaged,
		vault.ErrNoPoint:     relay.ErrVaultNoPoint,
	} {
		if errors.Is(err, class) {
			return fmt.Errorf("%w: %w", known, err)
		}
	}
	return err
}
