package vault

import (
	"errors"
	"fmt"

	"github.com/understudy-dr/understudy/pkg/block"
)

// What a caller tells apart.
var (
	ErrNotVault   = errors.New("vault: there is no vault here")
	ErrExists     = errors.New("vault: there is a vault here already")
	ErrForeignKey = errors.New("vault: the master key does not open this vault")
	ErrOlder      = errors.New("vault: made by an older version")
	ErrNewer      = errors.New("vault: made by a newer version")

	ErrNoMachine = errors.New("vault: no such machine")
	ErrNoDisk    = errors.New("vault: no such disk")
	ErrNoPoint   = errors.New("vault: no such recovery point")

	// ErrStaleWriter: another relay has taken this machine's writer lease.
	ErrStaleWriter = errors.New("vault: another writer has taken over")
	// ErrConflict: the place of these frames is taken by frames with other content.
	ErrConflict = errors.New("vault: other frames are stored in this place")
	// ErrContinuity: the frames do not follow what the vault holds.
	ErrContinuity = errors.New("vault: frames do not continue the chain")
	// ErrDamaged: a stored object is missing, altered or does not decode.
	ErrDamaged = errors.New("vault: damaged object")
)

// DamageError names an object that cannot be used, and what depends on it.
type DamageError struct {
	Machine  block.MachineID
	Object   string
	Affected string // recovery points that need the object, in words
	Err      error
}

func (e *DamageError) Error() string {
	return fmt.Sprintf("vault: object %s of machine %s cannot be used; affected: %s; run `understudy vault check` for the whole picture: %v",
		e.Object, e.Machine, e.Affected, e.Err)
}

// Unwrap makes every DamageError an ErrDamaged.
func (e *DamageError) Unwrap() []error { return []error{ErrDamaged, e.Err} }

// PointError says why a recovery point cannot be had, and which can.
type PointError struct {
	Machine   block.MachineID
	Spec      string // what was asked for
	Why       string
	Available string // what there is instead
}

func (e *PointError) Error() string {
	return fmt.Sprintf("vault: no recovery point %q of machine %s: %s; %s", e.Spec, e.Machine, e.Why, e.Available)
}

// Unwrap makes every PointError an ErrNoPoint.
func (e *PointError) Unwrap() error { return ErrNoPoint }
