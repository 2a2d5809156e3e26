package block

import (
	"fmt"
	"iter"
	"slices"
	"sort"
)

// SectorSize is the unit in which the kernel addresses disks, in bytes. Every
// offset and length in a record is a multiple of it.
const SectorSize = 512

// Extent is a stretch of one disk, in bytes.
type Extent struct {
	Off int64 `json:"off"`
	Len int64 `json:"len"`
}

// End is the first byte after the extent.
func (e Extent) End() int64 { return e.Off + e.Len }

// Empty reports whether the extent holds no byte.
func (e Extent) Empty() bool { return e.Len <= 0 }

// Contains reports whether o lies wholly within e, also where o would end beyond what
// an int64 can say.
func (e Extent) Contains(o Extent) bool { return o.Off >= e.Off && o.Len <= e.End()-o.Off }

// Overlaps reports whether the two share a byte.
func (e Extent) Overlaps(o Extent) bool { return e.Off < o.End() && o.Off < e.End() }

// Intersect is what both share; empty if nothing.
func (e Extent) Intersect(o Extent) Extent {
	off, end := max(e.Off, o.Off), min(e.End(), o.End())
	if end <= off {
		return Extent{}
	}
	return Extent{Off: off, Len: end - off}
}

// Align grows the extent outwards to multiples of unit (a power of two, bytes).
func (e Extent) Align(unit int64) Extent {
	off := e.Off &^ (unit - 1)
	return Extent{Off: off, Len: (e.End()+unit-1)&^(unit-1) - off}
}

func (e Extent) String() string { return fmt.Sprintf("[%d+%d)", e.Off, e.Len) }

// DiskExtent is a stretch of a named disk.
type DiskExtent struct {
	Disk DiskID `json:"disk"`
	Extent
}

// Set is a set of bytes of one disk, kept as sorted, disjoint, non-adjacent
// extents. The zero Set is empty and ready. It is not safe for concurrent use.
type Set struct {
	x []Extent
}

// NewSet is the union of the given extents.
func NewSet(extents ...Extent) *Set {
	s := &Set{}
	for _, e := range extents {
		s.Add(e)
	}
	return s
}

// at is the index of the first extent that ends at or after off.
func (s *Set) at(off int64) int {
	return sort.Search(len(s.x), func(i int) bool { return s.x[i].End() >= off })
}

// Add puts the extent's bytes into the set.
func (s *Set) Add(e Extent) {
	if e.Empty() {
		return
	}
	i := s.at(e.Off)
	j, off, end := i, e.Off, e.End()
	for ; j < len(s.x) && s.x[j].Off <= end; j++ {
		off, end = min(off, s.x[j].Off), max(end, s.x[j].End())
	}
	s.x = slices.Replace(s.x, i, j, Extent{Off: off, Len: end - off})
}

// Remove takes the extent's bytes out of the set.
func (s *Set) Remove(e Extent) {
	if e.Empty() {
		return
	}
	i := s.at(e.Off)
	j := i
	var keep []Extent
	for ; j < len(s.x) && s.x[j].Off < e.End(); j++ {
		if x := s.x[j]; x.Off < e.Off {
			keep = append(keep, Extent{Off: x.Off, Len: e.Off - x.Off})
		}
		// An extent that only touches e.Off ends here with nothing to keep on the right.
		if x := s.x[j]; x.End() > e.End() {
			keep = append(keep, Extent{Off: e.End(), Len: x.End() - e.End()})
		}
	}
	s.x = slices.Replace(s.x, i, j, keep...)
}

// Union adds every extent of o.
func (s *Set) Union(o *Set) {
	for e := range o.All() {
		s.Add(e)
	}
}

// Covers reports whether every byte of e is in the set.
func (s *Set) Covers(e Extent) bool {
	if e.Empty() {
		return true
	}
	i := s.at(e.Off + 1)
	return i < len(s.x) && s.x[i].Contains(e)
}

// Overlaps reports whether some byte of e is in the set.
func (s *Set) Overlaps(e Extent) bool {
	i := s.at(e.Off + 1)
	return !e.Empty() && i < len(s.x) && s.x[i].Overlaps(e)
}

// Within yields the parts of the set inside e, in ascending order.
func (s *Set) Within(e Extent) iter.Seq[Extent] {
	return func(yield func(Extent) bool) {
		for i := s.at(e.Off + 1); i < len(s.x) && s.x[i].Off < e.End(); i++ {
			if x := s.x[i].Intersect(e); !x.Empty() && !yield(x) {
				return
			}
		}
	}
}

// All yields the extents in ascending order.
func (s *Set) All() iter.Seq[Extent] { return slices.Values(s.x) }

// Extents is a copy of the set's extents, ascending, disjoint, non-adjacent.
func (s *Set) Extents() []Extent { return slices.Clone(s.x) }

// Bytes is the number of bytes in the set.
func (s *Set) Bytes() (n int64) {
	for _, e := range s.x {
		n += e.Len
	}
	return n
}

// Count is the number of extents.
func (s *Set) Count() int { return len(s.x) }

// Clone is an independent copy.
func (s *Set) Clone() *Set { return &Set{x: slices.Clone(s.x)} }
