package spool

import (
	"maps"
	"slices"
	"time"
)

// Segments without live frames are kept for use again, a few of them.
const (
	maxSpares   = 4
	spareSuffix = ".spare"
)

// rotate begins a new segment. Every frame before it is durable and handed over, so
// that the positions at its head cover the older segments.
func (s *Spool) rotate() error {
	if s.active != nil {
		if err := s.active.end(s.active.used); err != nil {
			s.retire(s.active.used)
			return err
		}
	}
	s.mu.Lock()
	s.reclaim()
	id, spare := s.nextID, ""
	full := s.disk+s.opts.Segment > s.opts.Limit
	if k := len(s.spares); k > 0 && !full {
		spare, s.spares = s.spares[k-1], s.spares[:k-1]
	}
	s.mu.Unlock()
	if full {
		return ErrFull
	}
	var positions []Positions
	if s.opts.Positions != nil {
		positions = s.opts.Positions()
	}
	seg, err := createSegment(s.files, s.dir, id, s.opts.Segment, spare, positions, time.Now())
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.active, s.left = seg, seg.room()
	s.segments[id] = seg
	s.nextID++
	s.disk += seg.size
	s.reclaim()
	s.mu.Unlock()
	return s.compact()
}

// reclaim puts segments without live entries aside. Spool.mu is held. The active one
// stays, or the newest as long as there is none: the positions at its head, and the
// frames behind them, are all that is known of machines without live frames.
func (s *Spool) reclaim() {
	stays := s.active
	if stays == nil && len(s.segments) > 0 {
		stays = s.segments[slices.Max(slices.Collect(maps.Keys(s.segments)))]
	}
	for id, seg := range s.segments {
		if seg == stays || seg.live > 0 {
			continue
		}
		_ = seg.file.Close()
		s.disk -= seg.size
		delete(s.segments, id)
		if err := s.putAside(seg); err != nil {
			s.opts.Log.Warn("spool segment not removed", "path", seg.path, "err", err)
		}
	}
}

// putAside makes a spare of a segment, or removes it. Neither is synced: should the
// file come back with its old name, the vault has all that is in it.
func (s *Spool) putAside(seg *segment) error {
	if seg.size != s.opts.Segment || len(s.spares) >= maxSpares || s.disk+int64(len(s.spares)+1)*s.opts.Segment > s.opts.Limit {
		return s.files.Remove(seg.path)
	}
	spare := seg.path + spareSuffix
	if err := s.files.Rename(seg.path, spare); err != nil {
		return err
	}
	s.spares = append(s.spares, spare)
	return nil
}

// A few frames that cannot be committed (one machine's vault writer fails) must not
// hold whole segments. When the spool is more than half full, the segment with the
// least live bytes is moved into the new one, if that is cheap.
const (
	compactAbove = 2 // disk bytes > Limit / compactAbove
	compactBelow = 4 // live bytes < segment size / compactBelow
)

// compact moves the live entries of the emptiest segment into the active one.
func (s *Spool) compact() error {
	victim, entries := s.victim()
	if victim == nil {
		return nil
	}
	var frames [][]byte
	var moved []*Entry
	for _, e := range entries {
		raw, err := s.readBack(e, nil) // a free one's memory may be in use again
		if err != nil {
			continue // freed meanwhile, or unreadable: then it stays where it is
		}
		frames, moved = append(frames, raw), append(moved, e)
	}
	at, err := s.persist(frames)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, e := range moved {
		if e.seg != victim {
			continue
		}
		s.displace(e) // and not free: its memory may be being read
		s.place(e, s.active, at[i])
	}
	s.reclaim()
	return nil
}

// victim chooses the segment to empty and lists its live entries.
func (s *Spool) victim() (*segment, []*Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.disk <= s.opts.Limit/compactAbove {
		return nil, nil
	}
	var least *segment
	for _, seg := range s.segments {
		if seg != s.active && seg.liveBytes < seg.size/compactBelow && (least == nil || seg.liveBytes < least.liveBytes) {
			least = seg
		}
	}
	if least == nil {
		return nil, nil
	}
	var entries []*Entry
	for e := range s.entries {
		if e.seg == least {
			entries = append(entries, e)
		}
	}
	return least, entries
}
