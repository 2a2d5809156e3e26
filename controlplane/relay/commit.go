package relay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/controlplane/relay/spool"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// Retries of a failed commit: doubling from the first to the last, half of it random.
const (
	firstRetry = 250 * time.Millisecond
	lastRetry  = 30 * time.Second
	// learnTimeout is less than an agent waits for its welcome.
	learnTimeout = 10 * time.Second
)

// plan has the machine's next object committed when it is due: now by a worker, or
// later by a timer.
func (s *Server) plan(m *machine) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.queued || s.ctx.Err() != nil {
		return
	}
	now := time.Now()
	b, at := m.next(now, s.conf.Object)
	switch {
	case len(b.frames) > 0, at.IsZero() && m.failures > 0 && len(m.log)+len(m.base) > 0:
		// The latter: all that is here waits for a base that the vault may have long since,
		// and could not be asked about when this relay started.
		m.queued = true
		s.ready.push(m)
	case !at.IsZero():
		if m.timer == nil {
			m.timer = time.AfterFunc(at.Sub(now), func() { s.plan(m) })
		} else {
			m.timer.Reset(at.Sub(now))
		}
	}
}

// commitWorker commits objects, one at a time.
func (s *Server) commitWorker() {
	var arena []byte
	for m := s.ready.pop(); m != nil; m = s.ready.pop() {
		arena = s.commitOnce(m, arena)
		m.mu.Lock()
		m.queued = false
		m.mu.Unlock()
		s.plan(m)
	}
}

// commitOnce commits one object of m, if one is due. arena is the worker's memory.
func (s *Server) commitOnce(m *machine, arena []byte) []byte {
	m.writing <- struct{}{}
	defer func() { <-m.writing }()
	ctx, cancel := context.WithTimeout(s.ctx, commitTimeout)
	defer cancel()
	if err := s.openWriter(ctx, m, nil); err != nil {
		s.failed(m, err)
		return arena
	}
	m.mu.Lock()
	b, _ := m.next(time.Now(), s.conf.Object)
	b.frames = slices.Clone(b.frames) // m's slices move on
	failures := m.failures
	m.mu.Unlock()
	if len(b.frames) == 0 {
		if failures > 0 { // the vault had it all, only its answers were lost
			s.recovered(m)
		}
		return arena
	}
	s.noteHopeless(m, b)
	frames, arena, err := s.load(b, arena)
	if err != nil {
		s.lost(m, err)
		return arena
	}
	start := time.Now()
	if err := m.writer.Commit(ctx, frames); err != nil {
		if damage := proveAll(frames); isFrameError(err) && damage != nil {
			s.lost(m, damage)
			return arena
		}
		m.dropWriter() // whether they are in the vault, only a new writer's State can tell
		s.failed(m, err)
		return arena
	}
	s.metrics.committed(b, time.Since(start))
	s.finish(m, b)
	return arena
}

// load takes a batch from memory, and what is not there from the spool. Payloads are
// not proved again here: the vault's Commit does.
func (s *Server) load(b batch, arena []byte) (frames [][]byte, _ []byte, err error) {
	total := 0
	for _, w := range b.frames {
		if !s.spool.Kept(w.Entry) {
			total += w.Size
		}
	}
	if cap(arena) < total {
		arena = make([]byte, total)
	}
	rest := arena[:cap(arena)]
	for _, w := range b.frames {
		var dst []byte
		if !s.spool.Kept(w.Entry) {
			dst, rest = rest[:0:w.Size], rest[w.Size:]
		}
		raw, err := s.spool.Read(w.Entry, dst)
		if err != nil {
			return nil, arena, err
		}
		h, err := frame.ParseHeader(raw)
		if err != nil || h != w.Header {
			return nil, arena, damaged(w.Header, err)
		}
		frames = append(frames, raw)
	}
	return frames, arena, nil
}

// proveAll finds the frame that came back damaged from the spool, if one did.
func proveAll(frames [][]byte) error {
	for _, raw := range frames {
		if _, err := frame.Parse(raw); err != nil {
			h, _ := frame.ParseHeader(raw)
			return damaged(h, err)
		}
	}
	return nil
}

func damaged(h frame.Header, err error) error {
	return fmt.Errorf("spool: frame %d..%d of machine %s came back damaged: %w", h.First, h.Last, h.Machine, errors.Join(err))
}

// finish notes what the vault took, gives the spool its room back and tells the agent.
func (s *Server) finish(m *machine, b batch) {
	last := b.frames[len(b.frames)-1].Header
	entries := make([]*spool.Entry, len(b.frames))
	var bytes int64
	for i, w := range b.frames {
		entries[i] = w.Entry
		bytes += int64(w.Size)
	}
	m.mu.Lock()
	if b.base {
		m.base = m.base[len(b.frames):]
		m.baseBytes -= bytes
		m.baseCommitted = spool.BasePosition{Epoch: last.Epoch, N: uint64(last.Last)}
		m.bases[last.Epoch] = uint64(last.Last)
	} else {
		m.log = m.log[len(b.frames):]
		m.logBytes -= bytes
		m.committed = spool.LogPosition{Position: last.Position(), Closed: last.Closed}
		entries = append(entries, m.dropBases(last.Epoch)...)
	}
	m.session.poke()
	m.mu.Unlock()
	s.spool.Free(entries...)
	s.feed()
	s.recovered(m)
}

// failed puts the machine off and says why.
func (s *Server) failed(m *machine, err error) {
	if s.ctx.Err() != nil {
		return
	}
	kind, remedy := trouble(err)
	s.metrics.commitErrors.WithLabelValues(string(kind)).Inc()
	m.mu.Lock()
	wait := min(lastRetry, firstRetry<<min(m.failures, 10))
	m.failures++
	m.retryAt = time.Now().Add(wait/2 + rand.N(wait/2+1))
	m.lastErr, m.lastErrs = err, time.Now()
	m.mu.Unlock()
	s.mu.Lock()
	fresh := s.failing[m.id] != kind
	s.failing[m.id] = kind
	s.mu.Unlock()
	if fresh && s.mayTell(kind, block.MachineID{}) {
		s.event(Event{Machine: m.id, Type: kind, Message: fmt.Sprintf("the vault does not take frames of machine %s: %v", m.id, err), Remedy: remedy})
	}
}

// recovered forgets m's failures, and tells when it was the last machine that had some.
func (s *Server) recovered(m *machine) {
	m.mu.Lock()
	m.failures, m.retryAt, m.lastErr = 0, time.Time{}, nil
	m.mu.Unlock()
	s.mu.Lock()
	_, was := s.failing[m.id]
	delete(s.failing, m.id)
	well := was && len(s.failing) == 0
	if well {
		maps.DeleteFunc(s.told, func(n news, _ time.Time) bool { return n.machine.IsZero() }) // the next failure is news
	}
	s.mu.Unlock()
	if well {
		s.event(Event{Machine: m.id, Type: EventVaultRecovered, Message: "the vault takes frames of every machine again"})
	}
}

// noteHopeless tells of a base-complete mark whose base never came whole.
func (s *Server) noteHopeless(m *machine, b batch) {
	for _, w := range b.frames {
		m.mu.Lock()
		_, hopeless := m.held(w.Entry)
		have := m.bases[w.Header.Epoch]
		m.mu.Unlock()
		if hopeless {
			s.event(Event{Machine: m.id, Type: EventBaseMissing, Message: fmt.Sprintf("epoch %d was declared complete with %d base frames and only %d came", w.Header.Epoch, w.BaseFrames, have),
				Remedy: "none: no recovery point of that epoch is offered, and the epoch after it has begun"})
		}
	}
}

// learn makes sure that the machine's positions are known and, where the agent has been
// away, that no other relay has moved them. A vault that cannot be asked keeps only
// those out of whom nothing is known at all.
func (s *Server) learn(c *channel) error {
	m := c.m
	m.mu.Lock()
	known, away := m.known, m.away
	m.mu.Unlock()
	if known && !away {
		return nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, learnTimeout)
	defer cancel()
	select {
	case m.writing <- struct{}{}:
		defer func() { <-m.writing }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	m.mu.Lock()
	pending := len(m.log)+len(m.base) > 0
	m.mu.Unlock()
	if !pending { // with frames waiting, the next commit finds out
		m.dropWriter()
	}
	err := s.openWriter(ctx, m, c)
	switch {
	case err != nil && !errors.Is(err, context.Canceled):
		s.failed(m, err)
		s.plan(m)
	case err == nil:
		m.mu.Lock()
		m.away = false
		m.mu.Unlock()
		s.recovered(m)
	}
	if known {
		return nil
	}
	return err
}

// openWriter takes the machine's lease, unless it is held, and compares what the vault
// has with what is here. asking is the channel that waits for it, if one does. m.writing
// is held.
func (s *Server) openWriter(ctx context.Context, m *machine, asking *channel) error {
	if m.writer != nil {
		return nil
	}
	w, err := s.conf.Vault.OpenWriter(ctx, m.id)
	if err != nil {
		return err
	}
	if err := s.reconcile(m, w.State(), asking); err != nil {
		_ = w.Close()
		return err
	}
	m.writer = w
	return nil
}

// dropWriter closes a writer that failed. m.writing is held.
func (m *machine) dropWriter() {
	if m.writer != nil {
		_ = m.writer.Close()
		m.writer = nil
	}
}

// closeWriter gives the lease back.
func (m *machine) closeWriter() {
	m.writing <- struct{}{}
	m.dropWriter()
	<-m.writing
}

// idleLater gives the lease back when the machine stays away and has nothing left.
func (s *Server) idleLater(m *machine) {
	time.AfterFunc(writerIdle, func() {
		m.mu.Lock()
		idle := m.session == nil && len(m.log) == 0 && len(m.base) == 0 && !m.queued
		m.mu.Unlock()
		if idle {
			m.closeWriter()
		}
	})
}

// newestBase is the newest epoch with base frames in the vault, and their number.
func (st State) newestBase() spool.BasePosition {
	var p spool.BasePosition
	for epoch, n := range st.Base {
		if q := (spool.BasePosition{Epoch: epoch, N: n}); p.Before(q) {
			p = q
		}
	}
	return p
}

// base is the number of an epoch's base frames in the vault.
func (st State) base(e block.Epoch) uint64 { return st.Base[e] }
