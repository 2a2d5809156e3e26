package pipeline

import (
	"fmt"
	"maps"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// doubt is why the log cannot go on as it is, and what must be settled before it can.
// Several doubts that arise before an epoch begins become one.
type doubt struct {
	reason frame.Reason
	detail string
	// whole names the disks of which all is in doubt, not only their dirty maps.
	whole map[block.DiskID]bool
}

func (d *doubt) String() string { return fmt.Sprintf("%s: %s", d.reason, d.detail) }

// merge adds what a later doubt says. The first reason stands: what follows from it
// is its consequence.
func (d *doubt) merge(later doubt) {
	if d.whole == nil {
		d.whole = map[block.DiskID]bool{}
	}
	maps.Copy(d.whole, later.whole)
	if later.reason != d.reason {
		d.detail += "; then " + later.String()
	}
}

// maxDoubtExtents bounds the extents an epoch-begin mark names for one disk: 8192
// take about 350 KB of JSON, and coarser ranges only cost some reading.
const maxDoubtExtents = 8192

// coarsen joins neighbouring extents, closest first, until at most n are left. What it
// returns covers s; it is s itself where s is small enough.
func coarsen(s *block.Set, n int) *block.Set {
	for gap := int64(64 << 10); s.Count() > n; gap *= 2 {
		s = join(s, gap)
	}
	return s
}

// join covers every gap smaller than gap between two extents.
func join(s *block.Set, gap int64) *block.Set {
	joined := block.NewSet()
	var last block.Extent
	for e := range s.All() {
		if !last.Empty() && e.Off-last.End() < gap {
			e = block.Extent{Off: last.Off, Len: e.End() - last.Off}
		}
		joined.Add(e)
		last = e
	}
	return joined
}
