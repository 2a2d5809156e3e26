package relay

import (
	"slices"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/controlplane/relay/spool"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// waiting is a frame that is durable here and not in the vault yet.
type waiting struct {
	*spool.Entry
	since time.Time
}

// machine is all a relay knows of one machine. Frames of its log and of its bases go
// through the same stations: accepted (its place in the chain is taken), spooled
// (durable here, acknowledged), committed (in the vault, freed here).
type machine struct {
	id block.MachineID

	mu sync.Mutex
	// known says that the positions come from the spool or the vault. Until then
	// nobody can be welcomed.
	known bool
	// away says that the agent was disconnected since the vault was last asked: it may
	// have been with another relay.
	away bool

	accepted, spooled, committed             spool.LogPosition
	baseAccepted, baseSpooled, baseCommitted spool.BasePosition
	// bases counts the committed base frames by epoch, for base-complete marks.
	bases map[block.Epoch]uint64

	log, base           []waiting // spooled, not committed, in order
	logBytes, baseBytes int64     // accepted, not committed

	session *session
	policy  Policy
	counts  counts

	// commit's part
	queued   bool // in the ready queue or in a worker's hands
	timer    *time.Timer
	failures int
	retryAt  time.Time
	lastErr  error
	lastErrs time.Time

	// writing is held by whoever uses writer: a commit worker, or a Welcome that must
	// learn the positions.
	writing chan struct{}
	writer  Writer
}

func newMachine(id block.MachineID) *machine {
	return &machine{id: id, bases: make(map[block.Epoch]uint64), writing: make(chan struct{}, 1), policy: Policy{RPOTarget: DefaultRPOTarget}}
}

// restore takes what the spool found after a restart.
func (m *machine) restore(r spool.Machine, now time.Time) {
	m.known, m.away = true, true
	m.spooled, m.committed = r.Spooled, r.Committed
	m.baseSpooled, m.baseCommitted = r.BaseSpooled, r.BaseCommitted
	m.accepted, m.baseAccepted = m.spooled, m.baseSpooled
	m.bases[m.baseCommitted.Epoch] = m.baseCommitted.N
	for _, e := range r.Log {
		m.log = append(m.log, waiting{e, now})
		m.logBytes += int64(e.Size)
	}
	for _, e := range r.Base {
		m.base = append(m.base, waiting{e, now})
		m.baseBytes += int64(e.Size)
	}
}

// positions is the machine's row in a new segment's head.
func (m *machine) positions() spool.Positions {
	m.mu.Lock()
	defer m.mu.Unlock()
	return spool.Positions{Machine: m.id, Spooled: m.spooled, Committed: m.committed, BaseSpooled: m.baseSpooled, BaseCommitted: m.baseCommitted}
}

// accept takes a frame's place in its chain, or says why not. The caller hands an
// accepted frame to the spool next, in the same order.
func (m *machine) accept(e *spool.Entry) (replay bool, refusal *wire.Error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h := e.Header
	if e.Base() {
		if replay, refusal = judgeBase(m.baseAccepted, e); !replay && refusal == nil {
			m.baseAccepted = spool.BasePosition{Epoch: h.Epoch, N: uint64(h.Last)}
			m.baseBytes += int64(e.Size)
		}
	} else if replay, refusal = judgeLog(m.accepted, e); !replay && refusal == nil {
		m.accepted = spool.LogPosition{Position: h.Position(), Closed: h.Closed}
		m.logBytes += int64(e.Size)
	}
	return replay, refusal
}

// durable notes that an accepted frame is spooled. It reports whether the frame is of no
// use: its epoch is over (see dropBases). The agent is told of it all the same.
func (m *machine) durable(e *spool.Entry, now time.Time) (stale bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counts.add(e, now)
	if e.Base() {
		m.baseSpooled = spool.BasePosition{Epoch: e.Header.Epoch, N: uint64(e.Header.Last)}
		if stale = e.Header.Epoch < m.committed.Epoch; stale {
			m.baseBytes -= int64(e.Size)
		} else {
			m.base = append(m.base, waiting{e, now})
		}
	} else {
		m.spooled = spool.LogPosition{Position: e.Header.Position(), Closed: e.Header.Closed}
		m.log = append(m.log, waiting{e, now})
	}
	m.session.poke()
	return stale
}

// dropBases takes out the base frames of all epochs before this one, which has begun in
// the vault. What the vault has of them must not change any more: the copies of the new
// epoch compare the disks with it and send what differs. mu is held.
func (m *machine) dropBases(before block.Epoch) (out []*spool.Entry) {
	keep := m.base[:0:0]
	for _, w := range m.base {
		if w.Header.Epoch < before {
			out = append(out, w.Entry)
			m.baseBytes -= int64(w.Size)
		} else {
			keep = append(keep, w)
		}
	}
	m.base = keep
	return out
}

// ack is what a channel's agent should know now; credit is the channel's own.
func (m *machine) ack(ch wire.Channel) wire.Ack {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ch == wire.Base {
		a := wire.Ack{Epoch: m.baseSpooled.Epoch, Spooled: m.baseSpooled.N}
		if m.baseCommitted.Epoch == a.Epoch {
			a.Committed = m.baseCommitted.N
		}
		return a
	}
	return wire.Ack{Epoch: m.spooled.Epoch, Spooled: uint64(m.spooled.Seq), Committed: uint64(m.committed.Seq)}
}

// welcome answers a Hello, but for the channel's credit.
func (m *machine) welcome(build string) wire.Welcome {
	base := m.ack(wire.Base)
	m.mu.Lock()
	defer m.mu.Unlock()
	return wire.Welcome{
		Epoch: m.spooled.Epoch, Spooled: m.spooled.Seq, Committed: m.committed.Seq, Closed: m.spooled.Closed,
		BaseEpoch: base.Epoch, SpooledBase: base.Spooled, CommittedBase: base.Committed,
		RPOTarget: m.policy.RPOTarget, Throttle: m.policy.Throttle, RelayVersion: build,
	}
}

// drained reports whether everything accepted is spooled.
func (m *machine) drained() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.accepted.Position == m.spooled.Position && m.baseAccepted == m.baseSpooled
}

// held reports whether a mark must wait: one that begins an epoch until what is here of
// the bases before it is in the vault, for after it they are of no use (see dropBases); a
// base-complete mark is never committed before the base frames it counts. The exception is a mark whose base can no longer come,
// because not all of it was spooled and a newer epoch has begun behind it: the vault
// offers no point of such an epoch, and the log must go on. mu is held.
func (m *machine) held(e *spool.Entry) (wait, hopeless bool) {
	if e.Mark == frame.MarkEpochBegin {
		return len(m.base) > 0 && m.base[0].Header.Epoch < e.Header.Epoch && m.begun(m.base[0].Header.Epoch), false
	}
	if e.Mark != frame.MarkBaseComplete || m.bases[e.Header.Epoch] >= e.BaseFrames {
		return false, false
	}
	have := m.bases[e.Header.Epoch]
	for _, w := range m.base {
		if w.Header.Epoch == e.Header.Epoch {
			have = max(have, uint64(w.Header.Last))
		}
	}
	hopeless = have < e.BaseFrames && m.accepted.Epoch > e.Header.Epoch
	return !hopeless, hopeless
}

// begun reports whether the epoch has begun in the vault, or will with what is here. mu
// is held.
func (m *machine) begun(e block.Epoch) bool {
	return e <= m.committed.Epoch || slices.ContainsFunc(m.log, func(w waiting) bool {
		return w.Mark == frame.MarkEpochBegin && w.Header.Epoch == e
	})
}
