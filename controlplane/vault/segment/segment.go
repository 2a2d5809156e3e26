// Package segment computes which record holds the newest bytes of each stretch of a
// disk. A List is the outcome for some run of records; laying a newer list over an
// older one is associative, so that a long history is folded pairwise, in the way of
// a merge sort: n records cost O(n log n) however they overlap.
package segment

import (
	"cmp"
	"slices"
)

// Segment is a stretch of a disk whose bytes have one source: 24 bytes of memory.
type Segment struct {
	Off, End int64 // on the disk, bytes; End is behind the last
	Src      int32 // the caller's number of the source; negative means zeros
	At       int32 // where the stretch's first byte lies in the source
}

// Zero is the source of stretches that were zeroed or discarded.
const Zero int32 = -1

// from is the segment without the bytes before off.
func (s Segment) from(off int64) Segment {
	if off > s.Off {
		if s.Src >= 0 {
			s.At += int32(off - s.Off)
		}
		s.Off = off
	}
	return s
}

// to is the segment without the bytes from end on.
func (s Segment) to(end int64) Segment {
	s.End = min(s.End, end)
	return s
}

// continues reports whether b carries a on, on the disk and in its source.
func (s Segment) continues(b Segment) bool {
	if s.End != b.Off || s.Src != b.Src {
		return false
	}
	return s.Src < 0 || int64(s.At)+s.End-s.Off == int64(b.At)
}

// List is sorted by offset, without overlaps. Stretches in no segment are unknown to
// the records it was made of.
type List []Segment

// push appends a segment that begins at or after the list's end.
func (l List) push(s Segment) List {
	if s.End <= s.Off {
		return l
	}
	if n := len(l); n > 0 && l[n-1].continues(s) {
		l[n-1].End = s.End
		return l
	}
	return append(l, s)
}

// Over lays a newer list over an older one: where both know a stretch, newer wins.
// Neither is changed; the result may share memory with one of them.
func Over(newer, older List) List {
	switch {
	case len(newer) == 0:
		return older
	case len(older) == 0:
		return newer
	}
	out := make(List, 0, len(newer)+len(older))
	i := 0
	pos := older[0].Off // bytes of older before pos are done with
	for _, n := range newer {
		for i < len(older) && older[i].Off < n.Off {
			if s := older[i].from(pos).to(n.Off); s.Off < s.End {
				out = out.push(s)
			}
			if older[i].End > n.Off {
				break // the rest of it lies under or behind n
			}
			i++
		}
		out = out.push(n)
		pos = n.End
		for i < len(older) && older[i].End <= pos {
			i++
		}
	}
	for ; i < len(older); i++ {
		out = out.push(older[i].from(pos))
	}
	return out
}

// Fold lays lists over each other, the oldest first.
func Fold(lists []List) List {
	switch len(lists) {
	case 0:
		return nil
	case 1:
		return lists[0]
	}
	mid := len(lists) / 2
	return Over(Fold(lists[mid:]), Fold(lists[:mid]))
}

// FromRecords is the list of single records given in the order in which they were
// applied. It is cheap where they do not overlap, whatever their order.
func FromRecords(records []Segment) List {
	sorted := slices.Clone(records)
	slices.SortFunc(sorted, func(a, b Segment) int { return cmp.Compare(a.Off, b.Off) })
	out := make(List, 0, len(sorted))
	for _, s := range sorted {
		if n := len(out); n > 0 && s.Off < out[n-1].End {
			return fromOverlapping(records)
		}
		out = out.push(s)
	}
	return out
}

func fromOverlapping(records []Segment) List {
	if len(records) == 1 {
		return List{}.push(records[0])
	}
	mid := len(records) / 2
	return Over(FromRecords(records[mid:]), FromRecords(records[:mid]))
}

// Clip is the part of the list within [off, end).
func (l List) Clip(off, end int64) List {
	i, j := l.Find(off), l.Find(end-1)
	if j < len(l) && l[j].Off < end {
		j++
	}
	if off >= end || i == j {
		return nil
	}
	out := slices.Clone(l[i:j])
	out[0] = out[0].from(off)
	out[len(out)-1] = out[len(out)-1].to(end)
	return out
}

// Find is the index of the first segment that ends behind off.
func (l List) Find(off int64) int {
	i, _ := slices.BinarySearchFunc(l, off, func(s Segment, off int64) int { return cmp.Compare(s.End, off+1) })
	return i
}

// Stack folds lists given newest first, in O(n log n) over all: equal neighbours are
// folded at once, as the digits of a counter carry. Count bounds its memory.
type Stack struct {
	lists []List // newest first
}

// Push adds a list older than all before it.
func (s *Stack) Push(l List) {
	if len(l) == 0 {
		return
	}
	s.lists = append(s.lists, l)
	for n := len(s.lists); n > 1 && len(s.lists[n-1])*2 > len(s.lists[n-2]); n = len(s.lists) {
		s.fold()
	}
}

func (s *Stack) fold() {
	n := len(s.lists)
	s.lists[n-2] = Over(s.lists[n-2], s.lists[n-1])
	s.lists = s.lists[:n-1]
}

// Count is the number of segments held.
func (s *Stack) Count() (n int) {
	for _, l := range s.lists {
		n += len(l)
	}
	return n
}

// Clip drops everything outside [off, end).
func (s *Stack) Clip(off, end int64) {
	for i := range s.lists {
		s.lists[i] = s.lists[i].Clip(off, end)
	}
}

// List folds everything into one list.
func (s *Stack) List() List {
	for len(s.lists) > 1 {
		s.fold()
	}
	if len(s.lists) == 0 {
		return nil
	}
	return s.lists[0]
}
