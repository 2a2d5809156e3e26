package relay

import (
	"math"
	"time"

	"github.com/understudy-dr/understudy/controlplane/relay/spool"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// Status is what a relay knows of a machine now.
type Status struct {
	Machine block.MachineID
	// Connected says that an agent is; the four below hold then only.
	Connected    bool
	Since        time.Time
	Remote       string
	Transport    wire.Transport
	AgentVersion string
	LastHeard    time.Time // zero if it has never been connected to this process

	// Spooled and Committed are the newest log frames here and in the vault. While a
	// machine is idle its ticks keep Spooled's closing time fresh each second, and
	// Committed's once an RPO target.
	Spooled, Committed         spool.LogPosition
	BaseSpooled, BaseCommitted spool.BasePosition
	SpoolBytes                 int64 // accepted and not committed
	SpoolFrames                int

	Frames, Bytes uint64  // received, log and base, since this process began
	BytesPerSec   float64 // over the last ten seconds or so

	LastError   string // of the vault's writer; empty while it works
	LastErrorAt time.Time
}

// counts are a machine's traffic. Machine.mu guards them.
type counts struct {
	frames, bytes uint64
	rate          float64 // bytes a second, exponentially weighted
	at            time.Time
	heard         time.Time
}

// rateTime is the time in which the weight of traffic falls to 1/e.
const rateTime = 10 * time.Second

func (c *counts) decayed(now time.Time) float64 {
	if c.at.IsZero() {
		return 0
	}
	return c.rate * math.Exp(-now.Sub(c.at).Seconds()/rateTime.Seconds())
}

func (c *counts) add(e *spool.Entry, now time.Time) {
	c.frames++
	c.bytes += uint64(e.Size)
	c.rate = c.decayed(now) + float64(e.Size)/rateTime.Seconds()
	c.at, c.heard = now, now
}

// Status is the machine's; ok is false if this relay has never heard of it.
func (s *Server) Status(id block.MachineID) (st Status, ok bool) {
	s.mu.Lock()
	m := s.machines[id]
	s.mu.Unlock()
	if m == nil {
		return Status{Machine: id}, false
	}
	return m.status(time.Now()), true
}

// Statuses are those of all machines this relay has heard of, in no order.
func (s *Server) Statuses() []Status {
	now := time.Now()
	var all []Status
	for _, m := range s.all() {
		all = append(all, m.status(now))
	}
	return all
}

// Spool is the state of the relay's spool.
func (s *Server) Spool() spool.Usage { return s.spool.Usage() }

func (m *machine) status(now time.Time) Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := Status{
		Machine: m.id, Spooled: m.spooled, Committed: m.committed, BaseSpooled: m.baseSpooled, BaseCommitted: m.baseCommitted,
		SpoolBytes: m.logBytes + m.baseBytes, SpoolFrames: len(m.log) + len(m.base),
		Frames: m.counts.frames, Bytes: m.counts.bytes, BytesPerSec: m.counts.decayed(now), LastHeard: m.counts.heard,
	}
	if m.lastErr != nil {
		st.LastError, st.LastErrorAt = m.lastErr.Error(), m.lastErrs
	}
	if s := m.session; s != nil {
		st.Connected, st.Since, st.Remote, st.Transport, st.AgentVersion = true, s.since, s.remote, s.transport, s.build
		st.LastHeard = time.Unix(0, s.heard.Load())
	}
	return st
}
