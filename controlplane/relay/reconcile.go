package relay

import (
	"errors"
	"fmt"
	"maps"

	"github.com/understudy-dr/understudy/controlplane/relay/spool"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// Whenever a writer is opened (the first frame, a restart, after every failed commit)
// the vault's State is the truth about what it holds:
//
//  1. Frames here that the vault has are dropped: a commit whose answer was lost.
//  2. The rest must begin right behind the vault's last. It always does, unless the
//     spool was lost or damaged, the vault was set back, or another relay has written.
//  3. If it does not, those frames can never be committed. The agent is disconnected,
//     everything of the machine here is dropped, and its positions become the
//     vault's. The agent sees them in the next Welcome and begins an epoch with the
//     reason relay-lost-spool.

// reconcile applies the above. asking is a channel that waits for the outcome to be
// welcomed by it. m.writing is held.
func (s *Server) reconcile(m *machine, st State, asking *channel) error {
	m.mu.Lock()
	same := m.sameHistory(st)
	dropped := m.dropCommitted(st)
	fits := same && m.fits(st)
	if fits {
		m.adopt(st)
		m.session.poke() // more may be committed than was told
	}
	m.mu.Unlock()
	s.spool.Free(dropped...)
	if fits {
		s.feed()
		return nil
	}
	return s.reset(m, st, asking)
}

// sameHistory reports whether the vault's last frame is the one that is here under that
// number, if one is. An agent that lost its memory before anything of it was in the vault
// numbers from 1 again, and another relay may have brought its first attempt there. mu is
// held.
func (m *machine) sameHistory(st State) bool {
	for _, w := range m.log {
		if h := w.Header; h.Epoch == st.Last.Epoch && h.First <= st.Last.Seq && st.Last.Seq <= h.Last {
			return h.Last == st.Last.Seq && h.Closed.Equal(st.Closed)
		}
	}
	return true
}

// dropCommitted takes out what the vault has. mu is held.
func (m *machine) dropCommitted(st State) []*spool.Entry {
	var out []*spool.Entry
	for len(m.log) > 0 && !st.Last.Before(m.log[0].Header.Position()) {
		out = append(out, m.log[0].Entry)
		m.logBytes -= int64(m.log[0].Size)
		m.log = m.log[1:]
	}
	out = append(out, m.dropBases(st.Last.Epoch)...)
	keep := m.base[:0:0]
	for _, w := range m.base {
		if uint64(w.Header.Last) <= st.base(w.Header.Epoch) {
			out = append(out, w.Entry)
			m.baseBytes -= int64(w.Size)
		} else {
			keep = append(keep, w)
		}
	}
	m.base = keep
	return out
}

// fits reports whether what is left continues what the vault has. mu is held.
func (m *machine) fits(st State) bool {
	if !m.known {
		return true
	}
	switch {
	case len(m.log) > 0:
		// A place that is taken by another history is no fit either.
		replay, refusal := judgeLog(spool.LogPosition{Position: st.Last}, m.log[0].Entry)
		if replay || refusal != nil {
			return false
		}
	case m.spooled.Before(st.Last):
		return false // another writer's, whatever is on its way to the spool's disk
	case m.accepted == m.spooled && m.spooled.Position != st.Last:
		return false
	}
	if len(m.base) == 0 {
		if m.baseSpooled.Epoch < st.Last.Epoch {
			return true // of an epoch that is over: no more of it will come
		}
		n := st.base(m.baseSpooled.Epoch)
		return m.baseSpooled.N == n || m.baseSpooled.N > n && m.baseAccepted != m.baseSpooled
	}
	for i, w := range m.base {
		first := i == 0 || m.base[i-1].Header.Epoch != w.Header.Epoch
		if first && uint64(w.Header.First) != st.base(w.Header.Epoch)+1 {
			return false
		}
	}
	return true
}

// adopt takes the vault's positions for committed, and for all where nothing was
// known. mu is held.
func (m *machine) adopt(st State) {
	m.committed = spool.LogPosition{Position: st.Last, Closed: st.Closed}
	m.baseCommitted = st.newestBase()
	m.bases = make(map[block.Epoch]uint64)
	maps.Copy(m.bases, st.Base)
	if !m.known {
		m.known = true
		m.accepted, m.spooled = m.committed, m.committed
		m.baseAccepted, m.baseSpooled = m.baseCommitted, m.baseCommitted
	}
}

// errUnsettled puts a reset off while frames are on their way to the disk.
var errUnsettled = errors.New("relay: frames are still being written to the spool")

// reset drops everything of the machine here and starts from the vault. Its session
// ends, but for the channel that asks: that one was told nothing yet. m.writing is held.
func (s *Server) reset(m *machine, st State, asking *channel) error {
	m.mu.Lock()
	ses, at := m.session, m.spooled
	m.mu.Unlock()
	if ses != nil {
		ses.end(asking, wire.Refuse(wire.CodeChainGap, "the agent begins a new epoch by itself", "the relay's spool does not continue the vault's history"))
	}
	if err := m.drain(s.ctx); err != nil {
		return err
	}
	m.mu.Lock()
	var out []*spool.Entry
	for _, w := range m.log {
		out = append(out, w.Entry)
	}
	for _, w := range m.base {
		out = append(out, w.Entry)
	}
	m.log, m.base, m.logBytes, m.baseBytes = nil, nil, 0, 0
	m.known = false
	m.adopt(st)
	m.mu.Unlock()
	s.spool.Free(out...)
	s.feed()
	if len(out) == 0 && at.Before(st.Last) {
		return nil // another relay went on where this one stopped
	}
	s.event(Event{Machine: m.id, Type: EventSpoolDiverged,
		Message: fmt.Sprintf("the vault's history of machine %s ends at %s; the %d frames in the spool (up to %s) do not continue it and were dropped", m.id, st.Last, len(out), at.Position),
		Remedy:  "none: the agent resyncs by itself with the reason relay-lost-spool; if it happens again, check the spool's disk and that no second relay writes for this machine"})
	return nil
}

// lost handles a frame that the spool cannot give back: from it on, nothing of the
// machine can be committed.
func (s *Server) lost(m *machine, err error) {
	s.event(Event{Machine: m.id, Type: EventSpoolDamaged, Message: err.Error(),
		Remedy: "check the spool's disk; the machine resyncs by itself with the reason relay-lost-spool"})
	if err := s.reset(m, m.writer.State(), nil); err != nil {
		s.failed(m, err)
	}
}
