package pipeline

import (
	"fmt"
	"slices"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// # Across a reboot
//
// An epoch goes on over a reboot if there is no doubt about any link of this chain:
//
//  1. When nothing wrote any more Seal put the rest of the ring, the dirty maps and a
//     mark of the clean stop into the journal on the disk.
//  2. The journal was not opened since, by whatever boot, and all its frames are there.
//  3. No disk of the seal looks otherwise than it did then: no other system mounted it.
//  4. capture.Early began the capture of this boot, and of each disk the kernel counted no
//     write before.
//  5. That stretch of capture is not broken (as ever: what is lost has its own name).
//
// Where one of the first three is missing all is in doubt, by the name unclean-stop; where
// the fourth is missing for a disk, that disk is.

// Seal is what a disk looked like when nothing wrote to it any more.
type Seal struct {
	Prints map[block.DiskID]capture.Print `json:"prints"`
}

// fresh reports whether Early began the capture, and the log does not know of it yet.
func (p *Pipeline) fresh(armed capture.Armed) bool {
	o := p.Resume.Origin
	return p.Resume.Intact && o != nil && o.Armed.Ring == armed.Ring && armed.Ring != p.State.Stretch.Ring
}

// dropUnknown lets go of the disks that Early tracked and that are not of the log. A
// disk that is wanted and not of it yet is tracked anew, as one that was added.
func (p *Pipeline) dropUnknown() error {
	for _, d := range p.Source.Disks() {
		if slices.Contains(p.State.Disks, d.ID) {
			continue
		}
		if err := p.Source.Untrack(d.ID); err != nil {
			return fmt.Errorf("pipeline: machine %s: letting go of disk %s (%s): %w", p.Machine, d.Name, d.Path, err)
		}
	}
	if len(p.State.Disks) == 0 {
		return p.Source.Disarm()
	}
	return nil
}

// gap is what of the chain over the reboot is missing; nil if nothing.
func (p *Pipeline) gap() *doubt {
	all := func(format string, args ...any) *doubt {
		return &doubt{reason: frame.ReasonUncleanStop, detail: fmt.Sprintf(format, args...), whole: p.all()}
	}
	seal, saved := p.State.Seal, p.Recovered.State
	last := max(p.Recovered.Last, p.Recovered.Released)
	switch {
	case !p.Recovered.Clean || seal == nil:
		return all("the machine did not stop in order: no clean stop is written down since the journal was last used")
	case last != saved.LastSeq:
		return all("the clean stop was at %d, the journal holds the log up to %d", saved.LastSeq, last)
	}
	for id, before := range seal.Prints {
		now, tracked := p.Resume.Origin.Disks[id]
		if off, differs := before.Differs(now.Print); tracked && now.Missed == "" && differs {
			return all("disk %s was written to at %d after the clean stop, before this boot: another system has used it", id, off)
		}
	}
	return p.missed(seal)
}

// missed names the disks that were not captured from the first write of this boot on.
func (p *Pipeline) missed(seal *Seal) *doubt {
	d := &doubt{reason: frame.ReasonUncleanStop, whole: map[block.DiskID]bool{}}
	for _, id := range p.State.Disks {
		why := "not tracked when the boot began"
		if b, tracked := p.Resume.Origin.Disks[id]; tracked {
			why = b.Missed
		}
		if seal.Prints[id] == nil {
			why = "nothing is known of how it was when the machine stopped"
		}
		if why != "" {
			d.whole[id] = true
			d.detail += fmt.Sprintf("disk %s: %s; ", id, why)
		}
	}
	if len(d.whole) == 0 {
		return nil
	}
	d.detail += "its writes of this boot are not all captured"
	return d
}

// cross takes this boot's stretch of capture for the one that goes on. What was in doubt
// when the machine stopped the kernel knows again before it is written down.
func (p *Pipeline) cross() error {
	for _, d := range p.Source.Disks() {
		if err := p.Source.MarkDirty(d.ID, block.NewSet(p.Recovered.State.Dirty[d.ID]...)); err != nil {
			return fmt.Errorf("pipeline: machine %s: disk %s (%s): %w", p.Machine, d.Name, d.Path, err)
		}
	}
	p.State.Stretch, p.State.Crossed = p.Resume.Origin.Armed, p.w.at.Seq
	p.w.ringPos = p.State.Stretch.Pos
	return nil
}

// afterReboot takes up a capture that Early began. It returns what is in doubt for it,
// nil if the epoch goes on.
func (p *Pipeline) afterReboot() (*doubt, error) {
	gap := p.gap()
	if gap == nil || len(gap.whole) < len(p.all()) {
		if err := p.cross(); err != nil {
			return nil, err
		}
	}
	p.State.Seal = nil
	if err := p.save(); err != nil {
		return nil, err
	}
	if gap == nil {
		p.event(desired.Event{
			Type: "clean-reboot", Severity: desired.Info,
			Message: fmt.Sprintf("the machine was rebooted at %s: the epoch goes on", p.w.at),
			Remedy:  "nothing: its disks were captured from the first write on",
		})
	}
	return gap, nil
}

// position is where the ring stands after the log's last frame. The frames of an earlier
// boot name positions of another ring.
func (s *State) position(at block.Position, recovered uint64) uint64 {
	if s.Crossed > 0 && s.Crossed == at.Seq {
		return s.Stretch.Pos
	}
	return recovered
}

// unclean is why the log of an earlier run cannot simply go on.
func (p *Pipeline) unclean() doubt {
	if p.Scan {
		return doubt{reason: frame.ReasonNotCaptured, detail: p.whyUnclean(), whole: p.all()}
	}
	return doubt{reason: frame.ReasonUncleanStop, detail: p.whyUnclean(), whole: p.all()}
}

// whyUnclean says why the capture of the last run does not go on.
func (p *Pipeline) whyUnclean() string {
	switch {
	case p.Resume.Detail != "":
		return p.Resume.Detail
	case p.Recovered.Clean && p.State.Seal != nil:
		return "the machine stopped in order, but its writes were not captured from the boot on: neither the initramfs nor understudy-agent-early.service began that (understudy-agent probe says why)"
	}
	return "the capture of the last run is gone, as after a reboot or a crash"
}
