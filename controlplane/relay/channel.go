package relay

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/pkg/wire"
)

// channel is one channel of one session.
type channel struct {
	kind    wire.Channel
	conn    *wire.Conn
	m       *machine
	session *session
	ctx     context.Context // ends with the channel
	cancel  context.CancelCauseFunc
	poked   chan struct{}
	hashing chan struct{} // range hash requests under way
	done    chan struct{} // closed when nothing of the channel is left

	mu       sync.Mutex
	received uint64 // bytes of frames, since the channel began
	granted  uint64 // how many of them are allowed
}

func (c *channel) wake() {
	select {
	case c.poked <- struct{}{}:
	default:
	}
}

// refuse ends the channel from outside with a last word to the agent.
func (c *channel) refuse(why *wire.Error) { c.cancel(why) }

// serve runs one channel from its banner to its end.
func (s *Server) serve(stream wire.Stream) {
	conn, err := wire.Greet(stream, wire.RoleRelay, s.conf.Build)
	if err != nil {
		_ = stream.Close()
		s.bannerRefused(stream.Peer(), err)
		return
	}
	hello, policy, refusal := s.hello(conn)
	if refusal != nil {
		s.turnAway(conn, refusal)
		return
	}
	c := &channel{
		kind: hello.Channel, conn: conn, m: s.machine(hello.Machine),
		poked: make(chan struct{}, 1), hashing: make(chan struct{}, hashesEach), done: make(chan struct{}),
	}
	c.ctx, c.cancel = context.WithCancelCause(s.ctx)
	defer c.cancel(nil)
	if refusal = s.admit(c, hello); refusal != nil {
		s.turnAway(conn, refusal)
		return
	}
	c.m.mu.Lock()
	c.m.policy = policy
	c.m.mu.Unlock()
	why := s.run(c)
	s.drop(c)
	s.leave(c, why)
	close(c.done)
}

// hello reads and judges a channel's first message.
func (s *Server) hello(conn *wire.Conn) (wire.Hello, Policy, *wire.Error) {
	msg, err := conn.Read(nil)
	hello, ok := msg.(wire.Hello)
	if err != nil || !ok {
		return hello, Policy{}, wire.Refuse(wire.CodeBadMessage, remedyUpgrade, "want a hello, got %T: %v", msg, err)
	}
	peer := conn.Peer()
	if hello.Machine != peer.Machine {
		return hello, Policy{}, wire.Refuse(wire.CodeWrongMachine, remedyEnrol, "the hello is of machine %s, the certificate of machine %s", hello.Machine, peer.Machine)
	}
	policy := Policy{RPOTarget: DefaultRPOTarget}
	if s.conf.Authorize != nil {
		if policy, err = s.conf.Authorize(s.ctx, peer.Machine, peer.Serial); err != nil {
			return hello, policy, wire.Refuse(wire.CodeUnauthorised, "enrol the machine, or protect it again", "machine %s may not send: %v", peer.Machine, err)
		}
	}
	if policy.RPOTarget <= 0 {
		policy.RPOTarget = DefaultRPOTarget
	}
	return hello, policy, nil
}

// untold are refusals that are no news, or have an event of their own.
var untold = []wire.Code{wire.CodeIdentityInUse, wire.CodeVaultDown, wire.CodeReplaced, wire.CodeShuttingDown}

// turnAway ends a channel with a last word to its agent.
func (s *Server) turnAway(conn *wire.Conn, why *wire.Error) {
	peer := conn.Peer()
	s.metrics.refusals.WithLabelValues(string(why.Code)).Inc()
	s.conf.Log.Info("agent refused", "machine", peer.Machine, "remote", peer.Remote, "code", why.Code, "err", why.Message)
	if !slices.Contains(untold, why.Code) && s.mayTell(EventRefused, peer.Machine) {
		s.event(Event{Machine: peer.Machine, Type: EventRefused, Message: fmt.Sprintf("machine %s at %s: %s (%s)", peer.Machine, peer.Remote, why.Message, why.Code), Remedy: why.Remedy})
	}
	_ = conn.Refuse(why)
}

// run is a channel's life after its admission. It returns why it ended.
func (s *Server) run(c *channel) error {
	if refusal := s.welcome(c); refusal != nil {
		s.turnAway(c.conn, refusal)
		return refusal
	}
	// An agent must not outlive its certificate, however long its connection lives.
	expiry := time.AfterFunc(time.Until(c.conn.Peer().NotAfter), func() {
		c.cancel(wire.Refuse(wire.CodeCertExpired, "the agent renews it by itself; if it does not, enrol it again", "the machine's certificate has expired"))
	})
	defer expiry.Stop()
	var wg sync.WaitGroup
	wg.Go(func() { c.cancel(s.read(c)) })
	wg.Go(func() { c.cancel(s.acknowledge(c)) })
	<-c.ctx.Done()
	why := context.Cause(c.ctx)
	var refusal *wire.Error
	if errors.As(why, &refusal) {
		s.turnAway(c.conn, refusal)
	}
	_ = c.conn.Close()
	wg.Wait()
	return why
}

// settle is how long a Welcome, or a reset, waits for frames on their way to the disk.
const settle = 10 * time.Second

// drain waits until everything accepted of m is spooled: a Welcome must be exact, for
// the agent makes again what it does not cover.
func (m *machine) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, settle, errUnsettled)
	defer cancel()
	for !m.drained() {
		select {
		case <-time.After(settle / 1000):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// welcome tells the agent what the relay has. The machine's positions must be known
// for it: from the spool, else from the vault.
func (s *Server) welcome(c *channel) *wire.Error {
	if err := s.learn(c); err != nil {
		_, remedy := trouble(err)
		return wire.Refuse(wire.CodeVaultDown, remedy, "where machine %s stands cannot be told now: %v", c.m.id, err)
	}
	// The base channel joins a log that may be running: its own frames are what counts,
	// and of those none can be under way.
	if c.kind == wire.Log {
		if err := c.m.drain(c.ctx); err != nil {
			return wire.Refuse(wire.CodeBusy, "see the relay's events about its spool", "frames of machine %s wait for the relay's spool: %v", c.m.id, err)
		}
	}
	w := c.m.welcome(s.conf.Build)
	if c.kind != wire.Control {
		s.mu.Lock()
		s.channels[c] = struct{}{}
		s.mu.Unlock()
		w.Credit = s.grant(c)
	}
	if err := c.conn.Write(w); err != nil {
		return wire.Refuse(wire.CodeInternal, "", "sending the welcome: %v", err)
	}
	return nil
}

// drop takes c out of the accounts of credit.
func (s *Server) drop(c *channel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.channels, c)
	delete(s.starved, c)
}

// acknowledge sends an Ack whenever something changed, and as a heartbeat.
func (s *Server) acknowledge(c *channel) error {
	if c.kind == wire.Control {
		<-c.ctx.Done()
		return nil
	}
	beat := time.NewTicker(wire.HeartbeatInterval)
	defer beat.Stop()
	var last wire.Ack
	for {
		due := false
		select {
		case <-c.poked:
		case <-beat.C:
			due = true
		case <-c.ctx.Done():
			return nil
		}
		ack := c.m.ack(c.kind)
		ack.Credit = s.grant(c)
		if ack == last && !due {
			continue
		}
		if err := c.conn.Write(ack); err != nil {
			return err
		}
		last = ack
	}
}

// read takes messages until the channel ends.
func (s *Server) read(c *channel) error {
	for {
		msg, err := c.conn.ReadInto(s.spares.take)
		if err != nil {
			return readError(err)
		}
		c.session.touch()
		f, isFrame := msg.(wire.Frame)
		if isFrame && c.kind != wire.Control {
			err = s.take(c, f.Raw)
			// Each in turn: what is in the socket's buffer keeps a channel busy without a
			// pause, for as long as the scheduler lets it while a thousand others wait.
			runtime.Gosched()
		} else {
			err = s.answer(c, msg)
		}
		if err != nil {
			return err
		}
	}
}

// answer handles what is not a frame.
func (s *Server) answer(c *channel, msg wire.Message) error {
	switch msg := msg.(type) {
	case wire.Ping:
		if c.kind == wire.Control {
			return c.conn.Write(wire.Pong(msg))
		}
		return nil
	case wire.Pong:
		return nil // touching the session was all
	case *wire.Error:
		return fmt.Errorf("the agent said: %w", msg)
	case wire.HashRequest:
		if c.kind == wire.Control {
			return s.hashes(c, msg)
		}
	}
	return wire.Refuse(wire.CodeBadMessage, remedyUpgrade, "a %T has no place on the %s channel", msg, c.kind)
}
