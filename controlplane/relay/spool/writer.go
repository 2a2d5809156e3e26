package spool

import "time"

const (
	// maxBatch bounds one group's bytes, so that no acknowledgement waits for more.
	maxBatch = 32 << 20
	// retryAfter is the pause before a failed write is tried again.
	retryAfter = time.Second
)

// run is the writer: the only one that touches the active segment.
func (s *Spool) run() {
	defer s.wg.Done()
	for {
		batch := s.take()
		if len(batch) == 0 {
			select {
			case <-s.wake:
				continue
			case <-s.stop:
				return
			}
		}
		s.store(batch)
	}
}

// take removes the next group from the queue.
func (s *Spool) take() []pending {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, bytes := 0, 0
	for n < len(s.queue) && (n == 0 || bytes+len(s.queue[n].raw) <= maxBatch) {
		bytes += len(s.queue[n].raw)
		n++
	}
	batch := s.queue[:n:n]
	if s.queue = s.queue[n:]; len(s.queue) == 0 {
		s.queue = nil
	}
	return batch
}

// store makes a group durable, trying again for as long as it takes.
func (s *Spool) store(batch []pending) {
	for len(batch) > 0 {
		n, kept, err := s.attempt(batch)
		for i, p := range batch[:n] {
			s.settle(p, i < kept, nil)
		}
		batch = batch[n:]
		if s.report(err); err != nil && !s.pause() {
			break
		}
	}
	for _, p := range batch {
		s.settle(p, false, ErrClosed)
	}
}

// settle gives the queue's room back, tells the outcome, and gives the memory back
// unless the entry keeps it.
func (s *Spool) settle(p pending, kept bool, err error) {
	s.room.Release(int64(len(p.raw)))
	p.done(err)
	if !kept {
		s.recycle(p.raw)
	}
}

// report tells of the first failure in a row, and of the first success after it.
func (s *Spool) report(err error) {
	s.mu.Lock()
	changed := s.failed != (err != nil)
	s.failed = err != nil
	s.mu.Unlock()
	if changed && s.opts.Trouble != nil {
		s.opts.Trouble(err)
	}
}

// pause waits until a retry makes sense; false means that the spool is closing.
func (s *Spool) pause() bool {
	t := time.NewTimer(retryAfter)
	defer t.Stop()
	select {
	case <-t.C:
	case <-s.wake:
		// Either something was freed, or more was queued: cheap to find out, but not
		// in a tight loop.
		select {
		case <-time.After(retryAfter / 20):
		case <-s.stop:
			return false
		}
	case <-s.stop:
		return false
	}
	return true
}

// attempt writes and syncs as many frames as the active segment takes and returns how
// many became durable, and how many of them, the first, stay in memory.
func (s *Spool) attempt(batch []pending) (n, kept int, err error) {
	if s.active == nil || !s.active.fits(len(batch[0].raw)) {
		if err := s.rotate(); err != nil {
			return 0, 0, err
		}
	}
	var frames [][]byte
	for room := s.active.room(); n < len(batch); n++ {
		if room -= entrySize(len(batch[n].raw)); room < 0 {
			break
		}
		frames = append(frames, batch[n].raw)
	}
	at, err := s.persist(frames)
	if err != nil {
		return 0, 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, p := range batch[:n] {
		s.place(p.entry, s.active, at[i])
		if kept == i && s.kept+int64(cap(p.raw)) <= maxKept {
			p.entry.raw, s.kept, kept = p.raw, s.kept+int64(cap(p.raw)), i+1
		}
	}
	s.left = s.active.room()
	return n, kept, nil
}

// place makes an entry live at a durable place. Spool.mu is held.
func (s *Spool) place(e *Entry, seg *segment, off int64) {
	e.seg, e.off = seg, off
	s.entries[e] = struct{}{}
	seg.live++
	seg.liveBytes += int64(e.Size)
	s.live += int64(e.Size)
}

// persist writes and syncs. A segment that failed is never written again: after a
// failed fsync nobody knows what the kernel still means to write.
func (s *Spool) persist(frames [][]byte) ([]int64, error) {
	start, before := time.Now(), s.active.used
	at, err := s.active.write(frames, s.stage)
	if err == nil {
		err = s.active.file.SyncData()
	}
	if err != nil {
		s.retire(before)
		return nil, err
	}
	if s.opts.Synced != nil {
		s.opts.Synced(time.Since(start), len(frames), s.active.used-before)
	}
	return at, nil
}

// retire ends the active segment behind its last synced byte. Should that fail, too, a
// restart finds a segment without an end, and perhaps entries that were never
// acknowledged: it names damage where there is none, and loses nothing.
func (s *Spool) retire(end int64) {
	s.mu.Lock()
	seg := s.active
	s.active, s.left = nil, 0
	s.mu.Unlock()
	if err := seg.end(end); err != nil {
		s.opts.Log.Warn("spool segment not ended", "path", seg.path, "err", err)
	}
}
