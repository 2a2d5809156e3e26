package pipeline

import (
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/agent/journal"
)

// placeEvery is how often it is looked whether the journal's disk stage lies where
// capture leaves it out.
const placeEvery = 10 * time.Second

// checkPlace ends the pipeline when something has moved the stage while it was open
// (defragmentation, LVM), or made something of its volume that has no place: what others
// write to where it lay is seen by nobody. The next agent finds it moved, leaves out the
// new place if there is one, and has everything compared.
func (p *Pipeline) checkPlace(now time.Time) error {
	if !p.hidden || now.Sub(p.placed).Abs() < placeEvery {
		return nil
	}
	p.placed = now
	_, _, _, err := p.where()
	if errors.Is(err, journal.ErrMoved) || errors.Is(err, journal.ErrNoPlace) {
		return fmt.Errorf("pipeline: machine %s: %w: keep what defragments, or changes its volume, away from it; the agent begins anew and has the disks compared", p.Machine, err)
	}
	return nil
}
