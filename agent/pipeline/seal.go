package pipeline

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/block"
)

// ErrUnsealed says that the log of this boot cannot be sealed, and why: the next boot
// finds an unclean stop.
var ErrUnsealed = errors.New("pipeline: the log is not sealed, the next boot compares the disks by hash")

// Sealing is what Seal needs besides the pipeline.
type Sealing struct {
	// Found are the disks of the machine, Print looks at one of them.
	Found []capture.Disk
	Print func(capture.Disk) (capture.Print, error)
}

// Seal ends the log of this boot, in the place of Run, when no agent runs and nothing is
// written any more: it takes the rest out of the ring and writes all that the next boot
// must know into the journal's disk stage. The mark of the clean stop comes last.
func (p *Pipeline) Seal(ctx context.Context, s Sealing) error {
	err := p.start(ctx)
	if err == nil {
		err = p.settled()
	}
	if err == nil {
		err = p.drain(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsealed, err)
	}
	prints, err := p.prints(s)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnsealed, err)
	}
	p.State.Seal = &Seal{Prints: prints}
	if err := p.keep(true); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsealed, err)
	}
	if err := p.undisturbed(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsealed, errors.Join(err, p.keep(false)))
	}
	p.Log.InfoContext(ctx, "log sealed", "epoch", p.State.Epoch, "position", p.w.at)
	return nil
}

// settled is nil if the log goes on and holds all disks of its epoch.
func (p *Pipeline) settled() error {
	switch {
	case p.State.Epoch == 0:
		return errors.New("no disk is protected")
	case p.doubt != nil:
		return p.doubt.err()
	case !p.capturing():
		return fmt.Errorf("the capture is in the phase %q", p.phase)
	case !slices.Equal(p.tracked(), sortedIDs(p.State.Disks)):
		return errors.New("the disks of the epoch are not those that are captured")
	}
	return nil
}

func (d *doubt) err() error { return errors.New(d.String()) }

func sortedIDs(ids []block.DiskID) []block.DiskID {
	ids = slices.Clone(ids)
	sortIDs(ids)
	return ids
}

// drainPause is how long the ring is left alone while a write in it is not complete.
const drainPause = 10 * time.Millisecond

// drain moves all that is in the ring into frames.
func (p *Pipeline) drain(ctx context.Context) error {
	for {
		busy, err := p.take(p.Now())
		if err == nil {
			err = p.flush()
		}
		if err == nil {
			err = p.settled()
		}
		if err != nil {
			return err
		}
		switch {
		case busy:
		case !p.more && !p.w.open() && !p.Source.Behind():
			return nil
		default:
			select {
			case <-time.After(drainPause):
			case <-ctx.Done():
				return fmt.Errorf("a write in the ring is not complete: %w", ctx.Err())
			}
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the ring does not run empty: something still writes: %w", ctx.Err())
		}
	}
}

// undisturbed is nil if nothing was written since the ring ran empty.
func (p *Pipeline) undisturbed() error {
	n := 0
	_, lost, err := p.Source.Poll(func(capture.Record) bool { n++; return false })
	switch {
	case err != nil:
		return err
	case lost || n > 0 || p.Source.Behind():
		return errors.New("something wrote to a disk while the log was sealed")
	}
	return p.prove()
}

// prints are of the log's disks and of the one that the journal lies on, which tells of
// boots in between where no protected disk does.
func (p *Pipeline) prints(s Sealing) (map[block.DiskID]capture.Print, error) {
	_, dev, extents, err := p.where()
	if err != nil {
		return nil, err
	}
	prints := map[block.DiskID]capture.Print{}
	for _, d := range s.Found {
		holds := deviceNumber(d.Major, d.Minor) == dev
		if !holds && !slices.Contains(p.State.Disks, d.ID) {
			continue
		}
		print, err := s.Print(d)
		if err != nil {
			return nil, err
		}
		if holds {
			print = print.Without(extents)
		}
		prints[d.ID] = print
	}
	for _, id := range p.State.Disks {
		if prints[id] == nil {
			return nil, fmt.Errorf("disk %s is not there", id)
		}
	}
	return prints, nil
}

// keep writes down everything that the next boot must know.
func (p *Pipeline) keep(clean bool) error {
	s, err := p.memo()
	if err != nil {
		return err
	}
	s.CleanStop, s.Dirty = clean, map[block.DiskID][]block.Extent{}
	for _, id := range p.State.Disks {
		dirty, err := p.Source.Dirty(id)
		if err != nil {
			return err
		}
		s.Dirty[id] = dirty.Extents()
	}
	return p.Journal.SaveDurable(s)
}
