package relay

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// session is one living agent process: its channels, all of one Instance. A machine
// has at most one.
type session struct {
	instance  wire.Instance
	remote    string
	transport wire.Transport
	build     string
	since     time.Time
	heard     atomic.Int64 // when the agent last said something, Unix ns

	mu       sync.Mutex
	channels map[wire.Channel]*channel
}

func (s *session) touch() { s.heard.Store(time.Now().UnixNano()) }

// poke wakes the channels' ackers. A machine without a session has none to wake.
func (s *session) poke() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.channels {
		c.wake()
	}
}

// all is the session's channels now.
func (s *session) all() []*channel {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*channel
	for _, c := range s.channels {
		all = append(all, c)
	}
	return all
}

// end refuses all channels but one (nil for all) and waits until they are gone.
func (s *session) end(spared *channel, why *wire.Error) {
	all := s.all()
	for _, c := range all {
		if c != spared {
			c.refuse(why)
		}
	}
	for _, c := range all {
		if c != spared {
			<-c.done
		}
	}
}

// probeTime is how long an agent has to answer when another claims its identity. A
// living one answers at once; waiting for its heartbeat instead would keep a
// restarted agent out for HeartbeatTimeout.
const probeTime = 3 * time.Second

// alive asks a session's agent whether it lives.
func (s *session) alive(ctx context.Context) bool {
	asked := time.Now().UnixNano()
	s.mu.Lock()
	control := s.channels[wire.Control]
	s.mu.Unlock()
	if control == nil {
		return false // control is opened first and ends last: without it the agent is going
	}
	go func() { _ = control.conn.Write(wire.Ping{ID: uint64(asked)}) }() // its connection may be stuck
	deadline := time.After(probeTime)
	for s.heard.Load() <= asked {
		select {
		case <-deadline:
			return false
		case <-control.done:
			return false
		case <-ctx.Done():
			return true
		case <-time.After(10 * time.Millisecond):
		}
	}
	return true
}

// admit makes c part of its machine's session. A second instance is refused while the
// first lives, and takes the place of a dead one. The same instance begins anew with
// its control channel: whatever was left of its last session is ended first, so that
// no frame of that one can follow the new one's Welcome.
func (s *Server) admit(c *channel, hello wire.Hello) *wire.Error {
	for range 3 {
		old, refusal := s.contest(c.m, hello)
		if refusal != nil {
			return refusal
		}
		if old != nil {
			old.end(nil, wire.Refuse(wire.CodeReplaced, "", "the agent has connected again"))
		}
		done, wait, refusal := s.join(c, hello)
		if done || refusal != nil {
			return refusal
		}
		if wait != nil {
			wait.refuse(wire.Refuse(wire.CodeReplaced, "", "the agent has dialled again"))
			<-wait.done
		}
	}
	return wire.Refuse(wire.CodeBusy, "", "machine %s connects from several places at once", c.m.id)
}

// contest returns the session that must end before this channel may join: the same
// instance's last one, or that of another instance which turned out to be dead.
func (s *Server) contest(m *machine, hello wire.Hello) (*session, *wire.Error) {
	m.mu.Lock()
	old := m.session
	m.mu.Unlock()
	switch {
	case old == nil:
		return nil, nil
	case old.instance == hello.Instance && hello.Channel == wire.Control:
		return old, nil
	case old.instance == hello.Instance:
		return nil, nil
	}
	if !old.alive(s.ctx) {
		return old, nil
	}
	remedy := "two machines have one identity, most likely one is a clone of the other: enrol the clone under an identity of its own (understudy-agent enrol --force)"
	if s.mayTell(EventIdentityConflict, m.id) {
		s.event(Event{Machine: m.id, Type: EventIdentityConflict, Remedy: remedy,
			Message: fmt.Sprintf("a second agent claims to be machine %s, which is connected from %s", m.id, old.remote)})
	}
	return nil, wire.Refuse(wire.CodeIdentityInUse, remedy, "machine %s is connected from %s", m.id, old.remote)
}

// join puts c into the session of its instance, made if there is none. It returns the
// channel that stands in its place, if one does.
func (s *Server) join(c *channel, hello wire.Hello) (done bool, inPlace *channel, refusal *wire.Error) {
	m := c.m
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.session == nil {
		if !s.count(1) {
			return false, nil, wire.Refuse(wire.CodeBusy, "spread the machines over more relays", "%d machines are connected, more are not allowed", s.conf.Machines)
		}
		p := c.conn.Peer()
		m.session = &session{
			instance: hello.Instance, remote: p.Remote, transport: p.Transport, build: hello.AgentVersion,
			since: time.Now(), channels: make(map[wire.Channel]*channel),
		}
		s.event(Event{Machine: m.id, Type: EventConnected, Message: fmt.Sprintf("connected from %s by %s, agent %s", p.Remote, p.Transport, hello.AgentVersion)})
	}
	if m.session.instance != hello.Instance {
		return false, nil, nil // lost a race against a third one: contest it
	}
	ses := m.session
	ses.mu.Lock()
	defer ses.mu.Unlock()
	if old := ses.channels[c.kind]; old != nil {
		return false, old, nil
	}
	ses.channels[c.kind] = c
	c.session = ses
	ses.touch()
	return true, nil, nil
}

// count adds to the number of sessions, unless it would pass the limit.
func (s *Server) count(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions+n > s.conf.Machines {
		return false
	}
	s.sessions += n
	return true
}

// leave takes c out of its session, and ends the session with its last channel.
func (s *Server) leave(c *channel, why error) {
	m, ses := c.m, c.session
	m.mu.Lock()
	ses.mu.Lock()
	delete(ses.channels, c.kind)
	last := len(ses.channels) == 0
	ses.mu.Unlock()
	if last && m.session == ses {
		m.session, m.away = nil, true
		s.count(-1)
	}
	m.mu.Unlock()
	if last {
		s.event(Event{Machine: m.id, Type: EventDisconnected, Message: fmt.Sprintf("disconnected from %s: %v", ses.remote, why)})
		s.idleLater(m)
	}
}

// closeSessions ends all sessions, in parallel: each waits for its agent a moment.
func (s *Server) closeSessions(why *wire.Error) {
	var wg sync.WaitGroup
	for _, m := range s.all() {
		m.mu.Lock()
		ses := m.session
		m.mu.Unlock()
		if ses != nil {
			wg.Go(func() { ses.end(nil, why) })
		}
	}
	wg.Wait()
}

// Disconnect ends the machine's session, for one that was unprotected or whose
// certificate was revoked. Authorize must refuse it, or it is back at once.
func (s *Server) Disconnect(id block.MachineID, message, remedy string) {
	s.mu.Lock()
	m := s.machines[id]
	s.mu.Unlock()
	if m == nil {
		return
	}
	m.mu.Lock()
	ses := m.session
	m.mu.Unlock()
	if ses != nil {
		ses.end(nil, wire.Refuse(wire.CodeUnauthorised, remedy, "%s", message))
	}
}
