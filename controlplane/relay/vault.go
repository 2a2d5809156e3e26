package relay

import (
	"context"
	"errors"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Vault is what a relay needs of a vault: somewhere to append, and its range hashes.
type Vault interface {
	// OpenWriter takes the machine's writer lease, from another relay too.
	OpenWriter(ctx context.Context, machine block.MachineID) (Writer, error)
	// RangeHashes yields the hashes of a stretch of a disk, one for each granule (bytes).
	// At the zero position they are what a resync compares with. At a frame boundary
	// they are a proof: of bytes read anew, block.NoData where it holds none.
	RangeHashes(ctx context.Context, machine block.MachineID, at block.Position, disk block.DiskID, off, n, granule int64) ([]block.Hash16, error)
}

// Writer appends to one machine's history. One goroutine uses it at a time.
type Writer interface {
	// State is what the vault holds as of OpenWriter and the Commits since.
	State() State
	// Commit stores consecutive frames of one epoch, all of the log or all of the
	// base, as one object: whole or not at all. After an error the relay opens a new
	// writer and asks its State which of the two it was.
	Commit(ctx context.Context, frames [][]byte) error
	Close() error
}

// State is how far a machine's history in the vault reaches.
type State struct {
	Last   block.Position // of the log; zero if there is none
	Closed time.Time      // the closing time of the frame at Last
	// Base counts the base frames of each epoch, 1..n without a gap.
	Base map[block.Epoch]uint64
}

// Errors a Vault wraps, so that events carry the right remedy. Any other error is
// taken for a vault that is out of reach. The relay tries again after each of them.
var (
	ErrVaultFull     = errors.New("relay: the vault is full")
	ErrVaultReadOnly = errors.New("relay: the vault is read-only")
	ErrLeaseLost     = errors.New("relay: another relay writes this machine's history")
	ErrVaultRefused  = errors.New("relay: the vault refuses these frames")
	ErrVaultDamaged  = errors.New("relay: what the vault stores there cannot be used")
	ErrVaultNoPoint  = errors.New("relay: the vault cannot tell that position")
)

// trouble is an error's class: the event's type and what the operator can do.
func trouble(err error) (EventType, string) {
	switch {
	case errors.Is(err, ErrVaultFull):
		return EventVaultFull, "add space to the vault or shorten the retention; nothing is lost meanwhile: the spool holds the frames and the agents slow down when it is full"
	case errors.Is(err, ErrVaultReadOnly):
		return EventVaultReadOnly, "mount the vault writable or give its credentials the right to write; nothing is lost meanwhile"
	case errors.Is(err, ErrVaultRefused):
		return EventVaultRefused, "run understudy vault check on it; until it takes them, the machine's frames stay in the spool"
	case errors.Is(err, ErrLeaseLost):
		return EventLeaseLost, "point each agent at one relay at a time; this relay takes the lease back while the agent is connected to it"
	}
	return EventVaultUnreachable, "check the vault's address, its credentials and the network; the relay tries again by itself and nothing is lost meanwhile"
}
