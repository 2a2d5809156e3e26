package journal

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/hrl"
)

// adopt decides which of the recovered frames are retained: the longest run without a
// gap that continues what was released. What lies beyond the run is cut off for good,
// since a frame is worthless without those before it and its numbers are used again.
//
// What was released is known exactly from the memory stage, or after a clean stop
// from the disk stage. After a crash of the machine only the disk stage is left, and
// how far it was released is not known: the newest run is retained then, and whether
// it continues what the relay has is for the relay to say.
func (j *Journal) adopt(memory, disk stage, rec *Recovered) {
	from := memory
	if !memory.sameBoot && disk.Ring != nil {
		from = disk
	}
	rec.State, rec.Found = from.saved.State, from.State != nil
	rec.SameBoot = memory.sameBoot
	rec.Clean = from.saved.CleanStop && from.Current
	rec.State.CleanStop = rec.Clean
	j.state, j.place, j.blocks = rec.State, from.saved.Place, from.saved.Blocks

	j.mark = from.Mark
	if items := j.merge(memory, disk); !memory.sameBoot && !rec.Clean && len(items) > 0 {
		j.mark = hrl.Mark{Seq: newestRun(items) - 1, RingPos: j.mark.RingPos}
	}
	for again := true; again; {
		j.retain(j.merge(memory, disk))
		a, b := j.cutBeyond(&memory, rec), j.cutBeyond(&disk, rec)
		again = a || b
	}
	j.setMark(j.mark)
	j.tell(rec)
}

// merge lists the unreleased frames of both stages in sequence. After a clean stop
// one may be in both: memory's copy serves.
func (j *Journal) merge(memory, disk stage) []item {
	var items []item
	for _, s := range []stage{memory, disk} {
		for _, e := range s.Entries {
			if e.Last > j.mark.Seq {
				items = append(items, item{Entry: e, ring: s.Ring})
			}
		}
	}
	slices.SortStableFunc(items, func(a, b item) int { return cmp.Compare(a.First, b.First) })
	return slices.CompactFunc(items, func(a, b item) bool { return a.First == b.First })
}

// newestRun is the first sequence number after the last gap of the items.
func newestRun(items []item) block.Seq {
	for i := len(items) - 1; i > 0; i-- {
		if items[i].First != items[i-1].Last+1 {
			return items[i].First
		}
	}
	return items[0].First
}

// retain keeps the run of items that continues the mark.
func (j *Journal) retain(items []item) {
	j.items, j.last = nil, j.mark.Seq
	for _, it := range items {
		if it.First != j.last+1 {
			return
		}
		j.items, j.last = append(j.items, it), it.Last
	}
}

// cutBeyond cuts off what follows the retained run in a stage, and tells whether there
// was anything: the cut may have taken a retained frame with it where a clean stop had
// moved frames behind newer ones.
func (j *Journal) cutBeyond(s *stage, rec *Recovered) bool {
	i := slices.IndexFunc(s.Entries, func(e hrl.Entry) bool { return e.Last > j.last })
	if i < 0 {
		return false
	}
	e := s.Entries[i]
	rec.Damage = append(rec.Damage, fmt.Sprintf("frames [%d..%d] and later in %s are lost: the frame after %d, which they continue, is missing or damaged", e.First, e.Last, s.Path(), j.last))
	if err := s.Cut(e); err != nil {
		rec.Damage = append(rec.Damage, fmt.Sprintf("they could not be cut off: %v", err))
	}
	s.Entries = s.Entries[:i]
	return true
}

func (j *Journal) tell(rec *Recovered) {
	rec.Released, rec.RingPos, rec.Frames = j.mark.Seq, j.mark.RingPos, len(j.items)
	if n := len(j.items); n > 0 {
		rec.First, rec.Last, rec.RingPos = j.items[0].First, j.last, j.items[n-1].RingPos
	}
	if !rec.SameBoot {
		rec.RingPos = 0 // of a kernel that is gone
	}
}
