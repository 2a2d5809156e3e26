package relay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/understudy-dr/understudy/controlplane/relay/spool"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// take verifies a frame, gives it its place in the chain, and hands it to the spool,
// which recycles its memory.
func (s *Server) take(c *channel, raw []byte) error {
	e, refusal := s.judge(c, raw)
	if refusal != nil {
		s.spares.give(raw)
		return refusal
	}
	if err := s.spool.Reserve(c.ctx, len(raw)); err != nil {
		s.spares.give(raw)
		return err
	}
	replay, refusal := c.m.accept(e)
	if replay || refusal != nil {
		s.spool.Unreserve(len(raw))
		s.spares.give(raw)
		if replay {
			s.replayed(c, e)
			return nil
		}
		return refusal
	}
	s.spool.Append(raw, e, func(err error) {
		if err != nil {
			c.cancel(err)
			return
		}
		if c.m.durable(e, time.Now()) {
			s.spool.Free(e)
		}
		s.metrics.took(e)
		s.plan(c.m)
	})
	return nil
}

// judge verifies everything about a frame but its place in the chain.
func (s *Server) judge(c *channel, raw []byte) (*spool.Entry, *wire.Error) {
	f, err := frame.Parse(raw)
	if err != nil {
		return nil, corrupt(err)
	}
	var mark *frame.Mark
	if f.Kind == frame.KindMark {
		m, err := f.Mark()
		if err != nil {
			return nil, corrupt(err)
		}
		mark = &m
	}
	e := spool.NewEntry(f.Header, mark)
	if refusal := judgeOwner(e, c.m.id, c.kind); refusal != nil {
		return nil, refusal
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.received >= c.granted {
		return nil, wire.Refuse(wire.CodeCredit, remedyUpgrade, "frame %d..%d came after %d bytes, %d were allowed", e.Header.First, e.Header.Last, c.received, c.granted)
	}
	c.received += uint64(len(raw))
	return e, nil
}

// replayed tells of frames whose place is taken. What is there stays as it is.
func (s *Server) replayed(c *channel, e *spool.Entry) {
	s.metrics.ignored.Inc()
	c.wake()
	if s.mayTell(EventReplayIgnored, c.m.id) {
		s.event(Event{Machine: c.m.id, Type: EventReplayIgnored, Message: fmt.Sprintf("%s frame %d..%d of epoch %d is there already; the one that came was dropped", e.Header.Kind, e.Header.First, e.Header.Last, e.Header.Epoch),
			Remedy: "none after a cut connection; if it goes on, the machine may have been reset to a snapshot, or something replays its frames"})
	}
}

// readError tells a peer's end and a broken connection from bytes that are no message
// of this protocol, which are refused by name.
func readError(err error) error {
	var broken net.Error
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("the agent ended the connection")
	case errors.Is(err, frame.ErrTruncated), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the connection broke in the middle of a message")
	case errors.Is(err, wire.ErrUnknownType), errors.Is(err, wire.ErrTooLarge), errors.Is(err, wire.ErrMalformed):
		return wire.Refuse(wire.CodeBadMessage, remedyUpgrade, "%v", err)
	case errors.As(err, &broken):
		return err
	case isFrameError(err):
		return corrupt(err)
	}
	return err
}

func isFrameError(err error) bool {
	for _, e := range []error{frame.ErrNotFrame, frame.ErrVersion, frame.ErrHeaderChecksum, frame.ErrLimit, frame.ErrIndexChecksum, frame.ErrPayloadChecksum, frame.ErrMalformed} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func corrupt(err error) *wire.Error {
	return wire.Refuse(wire.CodeCorruptFrame, "the agent sends it again; if it happens again, check the machine's memory and upgrade the agent", "%v", err)
}
