package pipeline

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// Wish tells the pipeline how the machine shall be protected. It is level-triggered:
// calling it again with the same wish does nothing but try again what failed.
// found are the disks the machine has.
func (p *Pipeline) Wish(ctx context.Context, s desired.State, found []capture.Disk) {
	p.post(ctx, func() error { return p.wish(ctx, s, found) })
}

func (p *Pipeline) wish(ctx context.Context, s desired.State, found []capture.Disk) error {
	if s.Point.Once != p.wished.Point.Once {
		p.asked = time.Now()
	}
	p.wished = s
	p.verifyRate.Store(s.Verify.Rate)
	p.dropUnwanted(p.Now())
	p.throttle.Store(s.Policy.ThrottleAt(p.Now()))
	removed, err := p.untrackOthers(s.Disks)
	if err != nil {
		return err
	}
	added := p.trackAll(ctx, s.Disks, found)
	switch {
	case len(p.tracked()) == 0:
		return p.idle()
	case p.State.Epoch == 0 && p.doubt == nil:
		p.raise(doubt{reason: frame.ReasonInitial, detail: "protection begins"})
	case len(added) > 0, p.doubt == nil && !p.capturing():
		p.raise(doubt{reason: frame.ReasonDiskAdded, detail: strings.Join(added, ", ")})
	case len(removed) > 0:
		p.raise(doubt{reason: frame.ReasonDiskRemoved, detail: strings.Join(removed, ", ")})
	case s.Resync > p.State.Resync && p.doubt == nil:
		p.raise(doubt{reason: frame.ReasonOperator, detail: "a resync was asked for", whole: p.all()})
	}
	return nil
}

// idle ends the protection: nothing is left to capture.
func (p *Pipeline) idle() error {
	if p.phase == desired.PhaseEnabling {
		return nil
	}
	p.stopCopies()
	p.stopProof()
	p.breakCut()
	p.breakScan(errLetGo)
	p.w.drop()
	p.doubt, p.phase = nil, desired.PhaseEnabling
	return p.Source.Disarm()
}

// untrackOthers ends the tracking of every disk that is not wanted any more.
func (p *Pipeline) untrackOthers(wanted []block.DiskID) (removed []string, err error) {
	for id, d := range p.disks {
		if slices.Contains(wanted, id) {
			continue
		}
		if d.problem == nil {
			// With its maps goes what a restarted agent would know of what it missed.
			if err := p.noteDoubt(frame.ReasonDiskRemoved, map[block.DiskID]bool{id: true}); err != nil {
				return nil, err
			}
			if err := p.Source.Untrack(id); err != nil {
				return nil, fmt.Errorf("pipeline: machine %s: ending the tracking of disk %s (%s): %w", p.Machine, d.Name, d.Path, err)
			}
			removed = append(removed, d.Name)
		}
		delete(p.disks, id)
		// The vault still knows it: protected again, what it holds of it is compared.
		p.State.Settled = slices.DeleteFunc(p.State.Settled, func(k block.DiskID) bool { return k == id })
	}
	return removed, nil
}

// trackAll begins to track what is wanted and not tracked yet. A disk that cannot be
// tracked keeps the reason, for the report.
func (p *Pipeline) trackAll(ctx context.Context, wanted []block.DiskID, found []capture.Disk) (added []string) {
	for _, id := range wanted {
		if d := p.disks[id]; d != nil && d.problem == nil {
			continue
		}
		i := slices.IndexFunc(found, func(f capture.Disk) bool { return f.ID == id })
		if i < 0 {
			p.disks[id] = &disk{Disk: capture.Disk{ID: id}, problem: problem.New(problem.DiskGone,
				"attach it again, or unprotect it", "disk %s is not on this machine", id)}
			continue
		}
		d := &disk{Disk: found[i]}
		if d.problem = p.Source.Track(ctx, d.Disk); d.problem == nil {
			d.problem = p.exclude(d.Disk)
			added = append(added, fmt.Sprintf("%s (%s)", d.Name, d.Path))
		}
		p.disks[id] = d
	}
	return added
}

// retrack takes up disks that have another size or are gone, before an epoch begins.
func (p *Pipeline) retrack(ctx context.Context) error {
	h, err := p.Source.Health()
	if err != nil {
		return fmt.Errorf("pipeline: machine %s: %w", p.Machine, err)
	}
	for _, k := range h.Disks {
		d := p.disks[k.Disk]
		if d == nil || !k.Gone && !k.Resized {
			continue
		}
		// With the disk's maps goes the kernel's knowledge that it is in doubt.
		whole := map[block.DiskID]bool{k.Disk: true}
		p.doubt.merge(doubt{reason: p.doubt.reason, whole: whole})
		if err := p.noteDoubt(p.doubt.reason, whole); err != nil {
			return err
		}
		if err := p.Source.Untrack(k.Disk); err != nil {
			return fmt.Errorf("pipeline: machine %s: disk %s (%s): %w", p.Machine, d.Name, d.Path, err)
		}
		d.problem = problem.New(problem.DiskGone, "attach it again, or unprotect it", "disk %s (%s) is gone", d.Name, d.Path)
		if k.Gone {
			continue // Wish looks for it
		}
		d.Size = k.Size
		if d.problem = p.Source.Track(ctx, d.Disk); d.problem == nil {
			d.problem = p.exclude(d.Disk)
		}
	}
	return nil
}

// exclude keeps the journal's own writes out of the log of the disk they go to: they
// would feed themselves. Whatever was left out of the disk before is not any more.
func (p *Pipeline) exclude(d capture.Disk) error {
	path, dev, extents, err := p.where()
	switch {
	case err != nil:
		extents = nil
		p.event(desired.Event{
			Type: "journal-place", Severity: desired.Warning, Message: err.Error(),
			Remedy: "put the journal's disk stage (--spill) on a disk that is not protected, or on ext4 or xfs on a partition, or on a plain LVM volume or encryption of one disk",
		})
	case dev != deviceNumber(d.Major, d.Minor):
		extents = nil
	case len(extents) > 0:
		p.hidden = true
		p.Log.Info("journal excluded from capture", "path", path, "disk", d.Name, "extents", len(extents))
	}
	return p.Source.Exclude(d.ID, extents)
}

// deviceNumber joins both parts as Linux's stat does.
func deviceNumber(major, minor uint32) uint64 {
	ma, mi := uint64(major), uint64(minor)
	return mi&0xff | ma&0xfff<<8 | mi&^0xff<<12 | ma&^0xfff<<32
}

// tracked are the disks being captured, in a stable order.
func (p *Pipeline) tracked() []block.DiskID {
	var ids []block.DiskID
	for id, d := range p.disks {
		if d.problem == nil {
			ids = append(ids, id)
		}
	}
	sortIDs(ids)
	return ids
}

func sortIDs(ids []block.DiskID) {
	slices.SortFunc(ids, func(a, b block.DiskID) int { return bytes.Compare(a[:], b[:]) })
}
