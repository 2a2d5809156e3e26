package relay

import (
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// An object is closed, that is: put into the vault, when it is large enough, or when
// its oldest frame is as old as a third of the RPO target. A put costs money in the
// cloud, therefore an object that would hold nothing but ticks may grow as old as the
// whole target: nothing was written, so nothing would be lost. What gates protection
// (the marks around a base) does not wait at all.

// maxFrames bounds the frames of one object.
const maxFrames = 4096

// batch is an object to be.
type batch struct {
	frames []waiting
	base   bool
}

// next is the object to commit now, or else the time to ask again (zero: when
// something changes). mu is held.
func (m *machine) next(now time.Time, object int64) (batch, time.Time) {
	if now.Before(m.retryAt) {
		return batch{}, m.retryAt
	}
	logs, logAt := m.nextLog(object)
	if len(logs) > 0 && !logAt.After(now) {
		return batch{frames: logs}, time.Time{}
	}
	base, baseAt := m.nextBase(object)
	if len(base) > 0 && !baseAt.After(now) {
		return batch{frames: base, base: true}, time.Time{}
	}
	switch {
	case len(logs) == 0 && len(base) == 0:
		return batch{}, time.Time{}
	case len(base) == 0 || len(logs) > 0 && logAt.Before(baseAt):
		return batch{}, logAt
	}
	return batch{}, baseAt
}

// cut is how large an object may be: larger than usual where the machine is behind,
// because each costs the vault's latency.
func cut(backlog, object int64) int64 {
	if backlog >= 4*object {
		return max(object, maxBacklogObject)
	}
	return object
}

// nextLog is the longest run of log frames that may go into one object, and when.
// mu is held.
func (m *machine) nextLog(object int64) ([]waiting, time.Time) {
	if len(m.log) == 0 {
		return nil, time.Time{}
	}
	var bytes int64
	age, now := m.policy.RPOTarget, false
	n, limit := 0, cut(m.logBytes, object)
	for ; n < len(m.log); n++ {
		w := m.log[n]
		if wait, _ := m.held(w.Entry); wait {
			break
		}
		if w.Header.Epoch != m.log[0].Header.Epoch || bytes >= limit || n == maxFrames {
			now = true
			break
		}
		bytes += int64(w.Size)
		if !w.Header.Tick() {
			age = m.policy.RPOTarget / 3
		}
		now = now || w.Mark == frame.MarkEpochBegin || w.Mark == frame.MarkBaseComplete
	}
	if n == 0 {
		return nil, time.Time{}
	}
	if now || bytes >= object {
		return m.log[:n], time.Time{}
	}
	return m.log[:n], m.log[0].since.Add(age)
}

// nextBase is the same for base frames. They wait until their epoch has begun in the
// vault, and not at all when the log waits for them. mu is held.
func (m *machine) nextBase(object int64) ([]waiting, time.Time) {
	if len(m.base) == 0 || m.base[0].Header.Epoch > m.committed.Epoch {
		return nil, time.Time{}
	}
	var bytes int64
	n, limit := 0, cut(m.baseBytes, object)
	for n < len(m.base) && m.base[n].Header.Epoch == m.base[0].Header.Epoch && bytes < limit && n < maxFrames {
		bytes += int64(m.base[n].Size)
		n++
	}
	if bytes >= object || n < len(m.base) || m.awaited() {
		return m.base[:n], time.Time{}
	}
	return m.base[:n], m.base[0].since.Add(m.policy.RPOTarget / 3)
}

// awaited reports whether the log's next frames are behind a held mark. mu is held.
func (m *machine) awaited() bool {
	for i, w := range m.log {
		if wait, _ := m.held(w.Entry); wait {
			return true
		}
		if i == maxFrames {
			break
		}
	}
	return false
}

// SetPolicy has the machine follow another policy from now on: what waits is sealed by
// the new target. A machine that never connected learns its policy when it does.
func (s *Server) SetPolicy(id block.MachineID, p Policy) {
	if p.RPOTarget <= 0 {
		p.RPOTarget = DefaultRPOTarget
	}
	s.mu.Lock()
	m := s.machines[id]
	s.mu.Unlock()
	if m == nil {
		return
	}
	m.mu.Lock()
	m.policy = p
	m.mu.Unlock()
	s.plan(m)
}
