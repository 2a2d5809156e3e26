package spool

import (
	"os"
	"time"
)

// rotate begins a new segment. Every frame before it is durable and handed over, so
// that the positions at its head cover the older segments.
func (s *Spool) rotate() error {
	s.shrink()
	s.mu.Lock()
	s.reclaim()
	full := s.disk+s.opts.Segment > s.opts.Limit
	id := s.nextID
	s.mu.Unlock()
	if full {
		return ErrFull
	}
	var positions []Positions
	if s.opts.Positions != nil {
		positions = s.opts.Positions()
	}
	seg, err := createSegment(s.dir, id, s.opts.Segment, positions, time.Now())
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.active = seg
	s.segments[id] = seg
	s.nextID++
	s.disk += seg.size
	s.reclaim()
	s.mu.Unlock()
	return s.compact()
}

// shrink gives back what the active segment allocated and did not use.
func (s *Spool) shrink() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == nil || s.active.used == s.active.size {
		return
	}
	// Without a sync: if power fails, the zeros are back and end the segment as well.
	if err := s.active.file.Truncate(s.active.used); err == nil {
		s.disk -= s.active.size - s.active.used
		s.active.size = s.active.used
	}
}

// reclaim deletes segments without live entries. Spool.mu is held. The active one
// stays, and as long as there is none, all stay: the positions at the newest head are
// all that is known of machines without live frames.
func (s *Spool) reclaim() {
	if s.active == nil {
		return
	}
	for id, seg := range s.segments {
		if seg == s.active || seg.live > 0 {
			continue
		}
		_ = seg.file.Close()
		if err := os.Remove(seg.path); err != nil {
			s.opts.Log.Warn("spool segment not removed", "path", seg.path, "err", err)
		}
		s.disk -= seg.size
		delete(s.segments, id)
	}
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
		raw, err := s.Read(e, nil)
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
		s.free(e)
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
