package recovery

import (
	"fmt"
	"os"

	"github.com/understudy-dr/understudy/pkg/block"
)

// action is what must happen to a target to bring it to a point.
type action string

const (
	actNothing action = "nothing" // it is there already
	actFill    action = "fill"    // from nothing, or from where an interrupted fill stopped
	actPatch   action = "patch"   // only where it differs from the positions it holds
)

// plan is the decision about one target, made without touching anything.
type plan struct {
	disk   Disk
	target Target
	act    action
	found  *Sidecar         // nil: none
	file   string           // where the data lies now; empty: nowhere
	inode  uint64           // of file
	holds  []block.Position // actPatch: what the file's blocks may be at
	from   int64            // actFill: bytes before this are in place
	have   int64            // bytes the file takes already
}

// survey looks at what lies at the target and decides. It changes nothing, so that
// all disks of a machine are surveyed before the first is touched.
func survey(d Disk, t Target, opts Options) (*plan, error) {
	if err := d.Check(); err != nil {
		return nil, err
	}
	p := &plan{disk: d, target: t, act: actFill}
	final, err := stat(t.Path)
	if err != nil {
		return nil, failed(t.Path, d.Origin, err)
	}
	partial, err := stat(t.partial())
	if err != nil {
		return nil, failed(t.Path, d.Origin, err)
	}
	p.found, err = ReadSidecar(t.Path)
	switch {
	case missing(err):
		return p, p.unclaimed(final, partial)
	case err != nil:
		return nil, refuse(t.Path, d.Origin, fmt.Errorf("%w: %w", ErrForeign, err), "move the target and its sidecar away, or choose another directory")
	}
	if err := p.owned(); err != nil {
		return nil, err
	}
	if p.found.State == StateComplete {
		return p, p.complete(final, opts)
	}
	return p, p.interrupted(final, partial, opts)
}

// stat is os.Lstat for which absence is no error but nil.
func stat(path string) (os.FileInfo, error) {
	fi, err := os.Lstat(path)
	if missing(err) {
		return nil, nil
	}
	return fi, err
}

func (p *plan) refuse(err error, remedy string, args ...any) error {
	return refuse(p.target.Path, p.disk.Origin, err, remedy, args...)
}

// unclaimed is for a target without a sidecar: nothing may be there. The one
// exception is the empty file that a crash leaves between making the file and
// writing its sidecar.
func (p *plan) unclaimed(final, partial os.FileInfo) error {
	if final != nil {
		return p.refuse(ErrForeign, "move %s away, or choose another directory", p.target.Path)
	}
	if partial == nil {
		return nil
	}
	if !partial.Mode().IsRegular() || partial.Size() > 0 {
		return p.refuse(ErrForeign, "move %s away, or choose another directory", p.target.partial())
	}
	p.at(p.target.partial(), partial)
	return nil
}

// owned checks that the sidecar is about the disk in question.
func (p *plan) owned() error {
	if !p.found.sameDisk(p.disk.Origin) {
		return p.refuse(ErrOtherDisk, "it is disk %s of machine %s: choose another directory", p.found.Name, p.found.Machine)
	}
	if p.found.Format != p.target.Format {
		return p.refuse(ErrOtherDisk, "it has format %s, not %s: remove it with its verb, or choose another directory", p.found.Format, p.target.Format)
	}
	return nil
}

// complete is for a target that is whole at some point.
func (p *plan) complete(final os.FileInfo, opts Options) error {
	s := p.found
	switch {
	case final == nil:
		return nil // deleted by hand, the sidecar forgotten: fill anew
	case !final.Mode().IsRegular() || inode(final) != s.Inode:
		return p.refuse(ErrForeign, "another file has taken the place of the one Understudy made: move %s away", p.target.Path)
	case !s.unaltered(final):
		if !opts.DiscardChanges {
			return p.refuse(ErrAltered, "changed at %s: keep it by choosing another directory, or discard what was written to it",
				final.ModTime().UTC().Format("2006-01-02 15:04:05Z"))
		}
		p.at(p.target.Path, final)
		return nil
	}
	p.at(p.target.Path, final)
	if s.Position == p.disk.Position {
		p.act = actNothing
		return nil
	}
	if !opts.advance {
		return p.refuse(ErrOtherPoint, "it is at %s, not %s: advance it, or choose another directory", s.Position, p.disk.Position)
	}
	p.act, p.holds = actPatch, []block.Position{s.Position}
	return nil
}

// unaltered reports whether the file is as it was when its sidecar said complete.
func (s *Sidecar) unaltered(fi os.FileInfo) bool {
	return fi.Size() == s.Format.fileSize(s.Size) && fi.ModTime().Equal(s.Modified)
}

// interrupted is for a target that was being made or advanced.
func (p *plan) interrupted(final, partial os.FileInfo, opts Options) error {
	s := p.found
	switch {
	case partial != nil && final != nil:
		return p.refuse(ErrForeign, "move %s away: the unfinished target is %s", p.target.Path, p.target.partial())
	case partial != nil:
		p.at(p.target.partial(), partial)
	case final != nil:
		p.at(p.target.Path, final) // a crash just before or just after a rename
	default:
		return nil // deleted by hand: fill anew
	}
	if p.inode != s.Inode {
		return p.refuse(ErrForeign, "another file has taken the place of the one Understudy made: move %s away", p.file)
	}
	switch {
	case len(s.Holds) == 0 && s.Position == p.disk.Position && s.Size == p.disk.Image.Size():
		p.from = min(s.Done, s.Size)
	case len(s.Holds) == 0: // a fill for another point is worth nothing: fill anew
	case s.Position != p.disk.Position && !opts.advance:
		return p.refuse(ErrOtherPoint, "it was being advanced to %s, not %s: advance it, or choose another directory", s.Position, p.disk.Position)
	default:
		p.act, p.holds = actPatch, s.Holds
	}
	return nil
}

// at notes where the data lies.
func (p *plan) at(path string, fi os.FileInfo) {
	p.file, p.inode, p.have = path, inode(fi), allocated(fi)
}
