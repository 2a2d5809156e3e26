package spool

import (
	"cmp"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/semaphore"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Recovered is what an earlier process left in the spool.
type Recovered struct {
	Machines []Machine
	// Torn says that a write which was never acknowledged had begun.
	Torn bool
	// Damaged names what was acknowledged once and cannot be read any more.
	Damaged []string
}

// Machine is one machine's part of a recovered spool: how far it had come, and its
// live frames in order. Frames the vault has already may be among them.
type Machine struct {
	Positions
	Log, Base []*Entry
}

// Open opens the spool in dir, which is created if need be, and recovers it:
//
//  1. Delete *.tmp: segments that never got their name hold nothing. Neither do spares,
//     which are kept for use.
//  2. Read every segment in the order of its number. A file that is no segment, or of
//     another version, ends Open with an error: somebody must look.
//  3. The newest segment ends at its first entry that does not verify: it and all behind
//     it may be of a group that was never synced and so never acknowledged. Mark its
//     end, so that the next recovery does not take the rest for damage. In an older
//     segment such an entry, or the lack of an end, is damage, and named.
//  4. Positions: the highest that any segment's head gives a machine.
//  5. Frames: where compaction left two copies, the one in the newer segment. Of a
//     machine's log the newest run without a gap is live; what lies before a gap was
//     committed and freed (frames are committed in order), or is lost by damage, and
//     the comparison with the vault will tell which. The same for a base, by epoch.
//  6. Nothing is written until the first Append makes a new segment; until then the
//     old heads stay.
func Open(dir string, opts Options) (*Spool, Recovered, error) {
	if opts.Segment == 0 {
		opts.Segment = DefaultSegment
	}
	if opts.Segment < MinSegment || opts.Limit < 2*opts.Segment {
		return nil, Recovered{}, fmt.Errorf("spool: a limit of %d bytes in segments of %d: a segment has at least %d, the limit is at least two segments", opts.Limit, opts.Segment, int64(MinSegment))
	}
	if opts.Files == nil {
		opts.Files = system{}
	}
	if err := opts.Files.MkdirAll(dir); err != nil {
		return nil, Recovered{}, fmt.Errorf("spool: %w", err)
	}
	s := &Spool{
		dir: dir, opts: opts, files: opts.Files, room: semaphore.NewWeighted(maxQueue), nextID: 1, stage: newStage(),
		segments: make(map[uint64]*segment), entries: make(map[*Entry]struct{}),
		wake: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	rec, err := s.recover()
	if err != nil {
		for _, seg := range s.segments {
			_ = seg.file.Close()
		}
		return nil, Recovered{}, fmt.Errorf("spool: opening %s: %w", dir, err)
	}
	s.wg.Add(1)
	go s.run()
	return s, rec, nil
}

func (s *Spool) recover() (Recovered, error) {
	var rec Recovered
	paths, err := s.list()
	if err != nil {
		return rec, err
	}
	r := &replay{spool: s, machines: make(map[block.MachineID]*Machine)}
	for i, path := range paths {
		seg, err := openSegment(s.files, path)
		if err != nil {
			return rec, err
		}
		s.segments[seg.id] = seg
		s.nextID = max(s.nextID, seg.id+1)
		if err := r.segment(seg, i == len(paths)-1, &rec); err != nil {
			return rec, fmt.Errorf("%s: %w", path, err)
		}
		s.disk += seg.size
	}
	for _, m := range r.machines {
		r.settle(m)
		rec.Machines = append(rec.Machines, *m)
	}
	slices.SortFunc(rec.Machines, func(a, b Machine) int { return slices.Compare(a.Machine[:], b.Machine[:]) })
	return rec, nil
}

// list removes unfinished files and returns the segments in order: their names are
// their numbers in hexadecimal of fixed width.
func (s *Spool) list() ([]string, error) {
	files, err := s.files.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, f := range files {
		path := filepath.Join(s.dir, f.Name())
		switch {
		case strings.HasSuffix(f.Name(), ".spool.tmp"):
			if err := s.files.Remove(path); err != nil {
				return nil, err
			}
		case strings.HasSuffix(f.Name(), spareSuffix):
			// Its old entries must never look like ones of a new segment's number.
			if id, err := strconv.ParseUint(f.Name()[:min(16, len(f.Name()))], 16, 64); err == nil {
				s.nextID = max(s.nextID, id+1)
			}
			if st, err := f.Info(); err == nil && st.Size() == s.opts.Segment && len(s.spares) < maxSpares {
				s.spares = append(s.spares, path)
			} else if err := s.files.Remove(path); err != nil {
				return nil, err
			}
		case strings.HasSuffix(f.Name(), ".spool"):
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	return paths, nil
}

// replay gathers what the segments hold.
type replay struct {
	spool    *Spool
	machines map[block.MachineID]*Machine
}

func (r *replay) machine(id block.MachineID) *Machine {
	m := r.machines[id]
	if m == nil {
		m = &Machine{Positions: Positions{Machine: id}}
		r.machines[id] = m
	}
	return m
}

func (r *replay) segment(seg *segment, newest bool, rec *Recovered) error {
	f, err := seg.scan(newest)
	if err != nil {
		return err
	}
	seg.used = f.end
	switch {
	case newest && !f.ended:
		if rec.Torn = f.bad != nil; rec.Torn {
			r.spool.opts.Log.Info("spool tail cut off", "path", seg.path, "at", f.end, "err", f.bad)
		}
		if err := seg.end(f.end); err != nil {
			return fmt.Errorf("marking its end: %w", err)
		}
	case f.bad != nil:
		rec.Damaged = append(rec.Damaged, fmt.Sprintf("%s: %v", seg.path, f.bad))
	case !f.ended:
		rec.Damaged = append(rec.Damaged, fmt.Sprintf("%s: ends at byte %d without an end", seg.path, f.end))
	}
	for _, p := range f.positions {
		r.machine(p.Machine).raise(p)
	}
	for _, ff := range f.frames {
		e := NewEntry(ff.header, ff.mark)
		r.spool.place(e, seg, ff.off)
		m := r.machine(ff.header.Machine)
		if e.Base() {
			m.Base = append(m.Base, e)
		} else {
			m.Log = append(m.Log, e)
		}
	}
	return nil
}

// raise takes what is higher of two tables.
func (m *Machine) raise(p Positions) {
	if m.Spooled.Before(p.Spooled.Position) {
		m.Spooled = p.Spooled
	}
	if m.Committed.Before(p.Committed.Position) {
		m.Committed = p.Committed
	}
	if m.BaseSpooled.Before(p.BaseSpooled) {
		m.BaseSpooled = p.BaseSpooled
	}
	if m.BaseCommitted.Before(p.BaseCommitted) {
		m.BaseCommitted = p.BaseCommitted
	}
}

// settle orders a machine's frames, frees those that are not live, and lets the newest
// frame raise what is spooled.
func (r *replay) settle(m *Machine) {
	m.Log = r.newestRun(m.Log, func(e *Entry) bool { return !m.Committed.Before(e.Header.Position()) })
	m.Base = r.newestRun(m.Base, func(e *Entry) bool { return !m.BaseCommitted.Before(e.basePosition()) })
	if n := len(m.Log); n > 0 && m.Spooled.Before(m.Log[n-1].Header.Position()) {
		m.Spooled = m.Log[n-1].position()
	}
	if n := len(m.Base); n > 0 && m.BaseSpooled.Before(m.Base[n-1].basePosition()) {
		m.BaseSpooled = m.Base[n-1].basePosition()
	}
}

// newestRun sorts entries, drops duplicates and committed ones, and keeps the newest
// run without a gap.
func (r *replay) newestRun(all []*Entry, committed func(*Entry) bool) []*Entry {
	// Stable, so that of two copies the one of the newer segment comes last.
	slices.SortStableFunc(all, func(a, b *Entry) int {
		return cmp.Or(cmp.Compare(a.Header.Epoch, b.Header.Epoch), cmp.Compare(a.Header.First, b.Header.First))
	})
	live := all[:0:0]
	for i, e := range all {
		copied := i+1 < len(all) && all[i+1].Header.Epoch == e.Header.Epoch && all[i+1].Header.First == e.Header.First
		if copied || committed(e) {
			r.spool.free(e)
			continue
		}
		if n := len(live); n > 0 && !follows(live[n-1], e) {
			r.spool.free(live...)
			live = live[:0]
		}
		live = append(live, e)
	}
	return live
}

// follows reports whether b is the direct successor of a in its chain.
func follows(a, b *Entry) bool {
	if a.Base() && a.Header.Epoch != b.Header.Epoch {
		return b.Header.First == 1
	}
	return b.Header.First == a.Header.Last+1
}
