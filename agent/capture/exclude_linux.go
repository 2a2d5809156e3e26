package capture

import (
	"fmt"
	"sync/atomic"

	"github.com/cilium/ebpf"

	"github.com/understudy-dr/understudy/agent/capture/bpf"
	"github.com/understudy-dr/understudy/pkg/block"
)

// maxExcludes is the number of ranges that the programs search, per disk.
const maxExcludes = 4096 - 1

// sectorRange is an element of the excludes map: first and last sector. Element 0 is
// unused.
type sectorRange struct{ First, Last uint64 }

func (s *source) Exclude(id block.DiskID, extents []block.Extent) error {
	unlock, err := s.hold()
	if err != nil {
		return err
	}
	defer unlock()
	t, err := s.disk(id)
	if err != nil {
		return err
	}
	ranges, err := sectorRanges(t.Disk, extents)
	if err != nil {
		return err
	}
	d := &s.disks[t.slot]
	atomic.StoreUint32(&d.Excludes, 0)
	if err := s.installExcludes(t.slot, ranges); err != nil {
		return fmt.Errorf("capture: excluding %d ranges of %s: %w", len(ranges)-1, t.Name, err)
	}
	if n := len(ranges) - 1; n > 0 {
		atomic.StoreUint64(&d.ExcludeFirst, ranges[1].First)
		atomic.StoreUint64(&d.ExcludeLast, ranges[n].Last)
		atomic.StoreUint32(&d.Excludes, uint32(n))
	}
	return s.settle()
}

// sectorRanges is the extents as the programs want them: sorted, disjoint, from 1 on.
func sectorRanges(d Disk, extents []block.Extent) ([]sectorRange, error) {
	set := block.NewSet(extents...)
	if set.Count() > maxExcludes {
		return nil, fmt.Errorf("capture: %d ranges to exclude on %s, at most %d fit: the file is too fragmented, make it anew on an emptier file system", set.Count(), d.Name, maxExcludes)
	}
	ranges := []sectorRange{{}}
	for e := range set.All() {
		if e.Off%block.SectorSize != 0 || e.Len%block.SectorSize != 0 || e.Off < 0 || e.End() > d.Size {
			return nil, fmt.Errorf("capture: excluding %v: not whole sectors of %s, which has %d bytes", e, d.Name, d.Size)
		}
		ranges = append(ranges, sectorRange{uint64(e.Off / block.SectorSize), uint64(e.End()/block.SectorSize - 1)})
	}
	return ranges, nil
}

func (s *source) installExcludes(slot uint32, ranges []sectorRange) error {
	spec := innerOf(s.spec, bpf.CaptureMapExcludes).Copy()
	spec.MaxEntries = uint32(len(ranges))
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }()
	for i, r := range ranges {
		if err := m.Put(uint32(i), r); err != nil {
			return err
		}
	}
	return s.maps["excludes"].Put(slot, m)
}
