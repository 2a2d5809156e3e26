package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/hrl"
)

// ErrNoDiskStage says that nothing can be kept for after a reboot.
var ErrNoDiskStage = errors.New("journal: no disk stage configured, the state does not survive a reboot")

// State is what the agent remembers of itself.
type State struct {
	Machine   block.MachineID `json:"machine,omitzero"`
	Epoch     block.Epoch     `json:"epoch"`
	LastSeq   block.Seq       `json:"lastSeq"` // when this was saved; the journal may hold newer frames
	Spooled   block.Seq       `json:"spooled"`
	Committed block.Seq       `json:"committed"`
	Log       json.RawMessage `json:"log,omitempty"` // the pipeline's own
	// Dirty is what is in doubt if nothing but this state is left, by disk. SaveDurable
	// rounds it outwards where it is too long.
	Dirty     map[block.DiskID][]block.Extent `json:"dirty,omitempty"`
	CleanStop bool                            `json:"cleanStop,omitempty"`
	// Filled in by the journal.
	BootID  string    `json:"bootID"` // the boot in which this was saved
	SavedAt time.Time `json:"savedAt"`
}

// saved is a state as it stands in a file.
type saved struct {
	State
	// Place tells the disk stage's place on its disk; empty if it cannot be told.
	Place string `json:"place,omitempty"`
	// Blocks tells it without the disk's number, which may be another in the next boot.
	Blocks string `json:"blocks,omitempty"`
}

// decodeState reads a saved state; one that cannot be read is none.
func decodeState(b []byte) (s saved, err error) {
	if b == nil {
		return saved{}, nil
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return saved{}, fmt.Errorf("the saved state cannot be read: %w", err)
	}
	return s, nil
}

// carried encodes the state for a new file. It is a clean stop's no more if the file
// was opened since.
func (s saved) carried(current bool) []byte {
	s.CleanStop = s.CleanStop && current
	b, err := json.Marshal(s)
	if err != nil {
		return nil // it was decoded from JSON: cannot fail
	}
	return b
}

// State is the state last saved, or recovered; zero if there is none.
func (j *Journal) State() State {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.state
}

// SaveState replaces the state. It survives kill -9 from then on, whole; a reboot it
// does not survive.
func (j *Journal) SaveState(s State) error {
	_, err := j.saveState(s)
	return err
}

func (j *Journal) saveState(s State) (saved, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	s.BootID, s.SavedAt = j.boot.String(), time.Now().UTC()
	v := saved{State: s, Place: j.place, Blocks: j.blocks}
	b, err := v.fit()
	if err != nil {
		return v, err
	}
	if err := j.memory.SaveState(b); err != nil {
		return v, fmt.Errorf("journal: %w", err)
	}
	j.state = s
	return v, nil
}

// SaveDurable ends a clean stop: no frame is taken any more, those in the memory stage
// are copied to the disk stage as far as they fit, oldest first, and the state is
// saved in both. All of it survives a reboot when it returns. Next and Release still
// work.
func (j *Journal) SaveDurable(s State) error {
	j.appending.Lock()
	defer j.appending.Unlock()
	j.mu.Lock()
	first := !j.closed
	if first {
		j.stop()
	}
	items := j.items
	j.mu.Unlock()
	v, err := j.saveState(s)
	if err != nil || j.spill == nil {
		return errors.Join(err, j.noDisk())
	}
	if first {
		err = j.drain(items)
	}
	if err == nil {
		err = j.spill.Sync()
	}
	b, errFit := v.fit()
	if err = errors.Join(err, errFit); err == nil {
		// Only after the frames are on stable storage may the state speak of them.
		err = errors.Join(j.spill.SaveState(b), j.spill.Sync())
	}
	if err != nil {
		return fmt.Errorf("journal: saving for after a reboot: %w", err)
	}
	return nil
}

func (j *Journal) noDisk() error {
	if j.spill == nil {
		return ErrNoDiskStage
	}
	return nil
}

// drain copies the memory stage's frames to the disk stage until it is full.
func (j *Journal) drain(items []item) error {
	for _, it := range items {
		if it.ring != j.memory {
			continue
		}
		b, err := it.read()
		if err == nil {
			_, err = j.spill.Append(it.First, it.Last, it.RingPos, b)
		}
		switch {
		case errors.Is(err, hrl.ErrFull), errors.Is(err, hrl.ErrTooLarge):
			j.log.Warn("journal cannot keep all frames for after a reboot", "path", j.spill.Path(), "first_lost", it.First)
			return nil
		case err != nil:
			return err
		}
	}
	return nil
}

// fit encodes the state. Where its dirty maps are too long they are rounded outwards
// to larger and larger units: more in doubt than need be, never less.
func (s saved) fit() ([]byte, error) {
	const limit = maxState - hrl.StateSize
	for unit := int64(64 << 10); ; unit *= 4 {
		b, err := json.Marshal(s)
		if err != nil {
			return nil, fmt.Errorf("journal: %w", err)
		}
		if len(b) <= limit {
			return b, nil
		}
		if unit > 1<<50 {
			return nil, fmt.Errorf("journal: a state of %d bytes, of which dirty maps are not the cause: %w", len(b), hrl.ErrTooLarge)
		}
		s.Dirty = maps.Clone(s.Dirty)
		for disk, extents := range s.Dirty {
			var set block.Set
			for _, e := range extents {
				set.Add(e.Align(unit))
			}
			s.Dirty[disk] = set.Extents()
		}
	}
}
