package ship

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// channel is one open channel and its credit.
type channel struct {
	kind wire.Channel
	conn *wire.Conn

	mu     sync.Mutex
	sent   uint64 // bytes of frames begun
	credit uint64
	raised chan struct{} // closed when credit grows
}

// open makes a channel, says hello on it and takes the relay's welcome.
func (c *Client) open(ctx context.Context, link wire.Link, kind wire.Channel) (*channel, wire.Welcome, error) {
	fail := func(err error) (*channel, wire.Welcome, error) {
		return nil, wire.Welcome{}, fmt.Errorf("ship: opening the %s channel: %w", kind, err)
	}
	stream, err := link.Open(ctx)
	if err != nil {
		return fail(err)
	}
	conn, err := wire.Greet(stream, wire.RoleAgent, c.conf.Build)
	if err != nil {
		return fail(err)
	}
	newest := c.conf.Newest()
	err = conn.Write(wire.Hello{
		Machine: c.conf.Machine, Instance: c.instance, Channel: kind,
		Epoch: newest.Epoch, LastSeq: newest.Seq, AgentVersion: c.conf.Build,
	})
	if err != nil {
		return fail(err)
	}
	for {
		msg, err := conn.Read(nil)
		if err != nil {
			return fail(err)
		}
		switch msg := msg.(type) {
		case wire.Welcome:
			return &channel{kind: kind, conn: conn, credit: msg.Credit, raised: make(chan struct{})}, msg, nil
		case *wire.Error:
			return fail(msg)
		case wire.Ack:
			// The relay's acknowledger may be faster than its welcome.
		case wire.Ping:
			// As may be its question whether this instance lives.
			if err := conn.Write(wire.Pong(msg)); err != nil {
				return fail(err)
			}
		default:
			return fail(fmt.Errorf("want a welcome, got %T", msg))
		}
	}
}

// raise takes a new credit.
func (ch *channel) raise(credit uint64) {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	if credit > ch.credit {
		ch.credit = credit
		close(ch.raised)
		ch.raised = make(chan struct{})
	}
}

// ready waits until a frame may begin.
func (ch *channel) ready(ctx context.Context) error {
	for {
		ch.mu.Lock()
		ok, raised := ch.sent < ch.credit, ch.raised
		ch.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-raised:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// room is the credit left, bytes.
func (ch *channel) room() int64 {
	ch.mu.Lock()
	defer ch.mu.Unlock()
	return int64(ch.credit - ch.sent)
}

// send writes one frame; ready was asked before.
func (ch *channel) send(raw []byte) error {
	ch.mu.Lock()
	ch.sent += uint64(len(raw))
	ch.mu.Unlock()
	return ch.conn.Write(wire.Frame{Raw: raw})
}

// beat says that this side lives, whatever else is said.
func beat(ctx context.Context, conn *wire.Conn) error {
	t := time.NewTicker(wire.HeartbeatInterval)
	defer t.Stop()
	for {
		if err := conn.Write(wire.Ping{ID: uint64(time.Now().UnixNano())}); err != nil {
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// readAcks takes what the relay says on a channel that sends frames.
func (c *Client) readAcks(ctx context.Context, ch *channel) error {
	var last wire.Ack
	for {
		msg, err := ch.conn.Read(nil)
		if err != nil {
			return fmt.Errorf("ship: the %s channel: %w", ch.kind, err)
		}
		switch msg := msg.(type) {
		case wire.Ack:
			ch.raise(msg.Credit)
			if msg.Credit = 0; msg != last {
				last = msg
				c.acked(ctx, ch, msg)
			}
		case *wire.Error:
			return fmt.Errorf("ship: the relay ended the %s channel: %w", ch.kind, msg)
		default:
			return fmt.Errorf("ship: a %T has no place on the %s channel", msg, ch.kind)
		}
	}
}

// acked passes an acknowledgement on.
func (c *Client) acked(ctx context.Context, ch *channel, a wire.Ack) {
	c.note(ch, a)
	if ch.kind == wire.Base {
		c.base.acked(a.Epoch, a.Spooled)
		c.conf.OnBaseAck(ctx, a.Epoch, a.Spooled)
		return
	}
	c.conf.OnLogAck(ctx, block.Seq(a.Spooled), block.Seq(a.Committed))
}

// sendLog sends the log behind after.
func (c *Client) sendLog(ctx context.Context, ch *channel, after block.Seq) error {
	for {
		if err := ch.ready(ctx); err != nil {
			return err
		}
		raw, err := c.conf.Frames.Next(ctx, after)
		if err != nil {
			return fmt.Errorf("ship: the frame after %d: %w", after, err)
		}
		h, err := frame.ParseHeader(raw)
		if err != nil {
			return fmt.Errorf("ship: the frame after %d: %w", after, err)
		}
		if err := c.limit.wait(ctx, len(raw), false); err != nil {
			return err
		}
		if err := ch.send(raw); err != nil {
			return err
		}
		c.logBytes.Add(uint64(len(raw)))
		c.logFrames.Add(1)
		after = h.Last
	}
}

// runBase opens the base channel when there are base frames, and sends them.
func (c *Client) runBase(ctx context.Context, link wire.Link) error {
	if err := c.base.waiting(ctx); err != nil {
		return err
	}
	ch, _, err := c.open(ctx, link, wire.Base)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	wg.Go(func() { cancel(c.readAcks(ctx, ch)) })
	wg.Go(func() {
		if err := beat(ctx, ch.conn); err != nil {
			cancel(err)
		}
	})
	err = c.sendBase(ctx, ch)
	_ = ch.conn.Close()
	return err
}

func (c *Client) sendBase(ctx context.Context, ch *channel) error {
	for {
		if err := ch.ready(ctx); err != nil {
			return err
		}
		raw, err := c.base.take(ctx)
		if err != nil {
			return err
		}
		if err := c.limit.wait(ctx, len(raw), true); err != nil {
			return err
		}
		if err := ch.send(raw); err != nil {
			return err
		}
		c.baseBytes.Add(uint64(len(raw)))
		c.baseFrames.Add(1)
		c.base.sent(raw)
	}
}
