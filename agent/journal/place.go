package journal

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Errors of a disk stage's place.
var (
	// ErrNoPlace says that it cannot be told where on a disk the file lies.
	ErrNoPlace = errors.New("journal: the disk stage's place on its disk cannot be told")
	// ErrMoved says that the file no longer lies where it lay at Open.
	ErrMoved = errors.New("journal: the disk stage has moved on its disk")
)

// Place is where a file lies.
type Place struct {
	Path    string
	Dev     uint64         // device number of the whole disk
	Extents []block.Extent // bytes of that disk, ascending
}

// digest tells one place from another; blocks does so in another boot, in which the disk
// may have another number.
func (p Place) digest() string { return digest(p.Dev, p.Extents) }
func (p Place) blocks() string { return digest(p.Extents) }

func digest(what ...any) string {
	h := sha256.New()
	fmt.Fprintln(h, what...)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// locate finds the disk stage and compares with where the saved state knew it.
func (j *Journal) locate(rec *Recovered) {
	before, blocks := j.place, j.blocks
	j.place, j.blocks = "", ""
	if j.spill != nil {
		p, err := placeOf(j.spill.Path())
		if err != nil {
			j.log.Warn("journal cannot be excluded from capture: its disk must not be protected", "path", j.spill.Path(), "err", err)
		} else {
			j.place, j.blocks = p.digest(), p.blocks()
		}
	}
	rec.Moved = before != "" && before != j.place
	if !rec.SameBoot && blocks != "" {
		rec.Moved = blocks != j.blocks
	}
}

// SpillExtents says where the disk stage lies: its path, the device number of the
// whole disk and the bytes on it, so that capture can leave them out. They stay the
// same for the file's life: every block was written before it came into use. Without
// a disk stage the path is empty. ErrNoPlace means that the file's disk must not be
// protected; ErrMoved that something moved the file while it was open (defragmentation):
// writes of others may have been taken for the journal's, which is a doubt.
func (j *Journal) SpillExtents() (path string, dev uint64, extents []block.Extent, err error) {
	if j.spill == nil {
		return "", 0, nil, nil
	}
	p, err := placeOf(j.spill.Path())
	if err != nil {
		return j.spill.Path(), 0, nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.place != p.digest() {
		err = fmt.Errorf("%w: %s", ErrMoved, p.Path)
	}
	return p.Path, p.Dev, p.Extents, err
}
