package inventory

import (
	"context"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// Desired is what is wanted of the machine. The relays are for the caller to fill in.
func (inv *Inventory) Desired(ctx context.Context, machine block.MachineID) (desired.State, error) {
	m, err := inv.Machine(ctx, machine)
	if err != nil {
		return desired.State{}, err
	}
	p, err := inv.Policy(ctx, m.Policy)
	if err != nil {
		return desired.State{}, err
	}
	disks, err := protectedDisks(ctx, inv.read, machine)
	if err != nil {
		return desired.State{}, err
	}
	s := desired.State{
		Version:       desired.Version,
		Machine:       machine,
		Generation:    m.Generation,
		Time:          inv.now().UTC(),
		Policy:        desired.Policy{Name: p.Name, RPOTargetMS: p.RPOTargetMS, Throttle: p.Throttle, Consistency: p.Consistency},
		Disks:         make([]block.DiskID, 0, len(disks)),
		Resync:        m.Resync,
		Verify:        m.Verify,
		Point:         m.Point,
		ReportSeconds: int(desired.ReportEvery.Seconds()),
	}
	if m.PointMade >= m.Point.Once || m.Point.Off && !inv.now().Before(m.PointUntil) {
		s.Point = desired.PointWish{}
	}
	for _, d := range disks {
		s.Disks = append(s.Disks, d.ID)
	}
	return s, nil
}

// AwaitDesired is Desired as soon as its generation differs from after, or after wait
// at the latest.
func (inv *Inventory) AwaitDesired(ctx context.Context, machine block.MachineID, after uint64, wait time.Duration) (desired.State, error) {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	for {
		changed := inv.Changed() // before the look, so that no change is missed
		s, err := inv.Desired(ctx, machine)
		if err != nil || s.Generation != after || wait <= 0 {
			return s, err
		}
		select {
		case <-changed:
		case <-deadline.C:
			return s, nil
		case <-ctx.Done():
			return s, ctx.Err()
		}
	}
}
