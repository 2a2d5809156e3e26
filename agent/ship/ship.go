// Package ship sends a machine's frames to its relay: the log as the journal yields
// it, and base frames as the resync makes them. It goes on where a cut left off, keeps
// within the credit and the throttle, and says how far the relay has come.
//
// It decides nothing about the log: whether the relay's position continues it is for
// OnWelcome to say.
package ship

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// Frames is where the log comes from.
type Frames interface {
	// Next waits for the frame that begins at after+1 and returns its bytes, which stay
	// valid until the next call. An error ends the session; the next one begins with
	// OnWelcome, which is where a gap is settled.
	Next(ctx context.Context, after block.Seq) ([]byte, error)
}

// Verdict is what OnWelcome makes of the relay's position.
type Verdict struct {
	// NewEpoch names why the log cannot go on from there; empty means that it can.
	// The client drops the base frames it still keeps and sends what Frames yields
	// behind the relay's position: the new epoch, as soon as the pipeline has begun it.
	NewEpoch frame.Reason
}

// Ack is how far the relay has come: sequence numbers on the log channel, base frames
// of Epoch on the base channel.
type Ack struct {
	Channel   wire.Channel
	Epoch     block.Epoch
	Spooled   uint64
	Committed uint64
}

// Config shapes a Client. Zero values mean the defaults.
type Config struct {
	Addr      string // host:port of the relay
	TLS       *tls.Config
	Transport wire.Transport
	Machine   block.MachineID
	Build     string
	Frames    Frames
	// Newest is the newest position in the journal, told to the relay.
	Newest func() block.Position
	// OnWelcome is asked once a session, before the first frame. It may take its time.
	// An error ends the session and is tried again.
	OnWelcome func(context.Context, wire.Welcome) (Verdict, error)
	// OnAck is told of progress, in order for each channel. It must not block.
	OnAck func(Ack)

	Backoff  Backoff
	Throttle Throttle
	// BaseMemory bounds the base frames kept until they are spooled, bytes.
	BaseMemory int64
	// Dial replaces wire.Dial in tests.
	Dial func(context.Context) (wire.Link, error)
	Log  *slog.Logger
}

// DefaultBaseMemory holds a few base frames in flight and some for the next cut.
const DefaultBaseMemory = 32 << 20

func (c *Config) fill() {
	if c.Newest == nil {
		c.Newest = func() block.Position { return block.Position{} }
	}
	if c.OnWelcome == nil {
		c.OnWelcome = func(context.Context, wire.Welcome) (Verdict, error) { return Verdict{}, nil }
	}
	if c.OnAck == nil {
		c.OnAck = func(Ack) {}
	}
	if c.BaseMemory == 0 {
		c.BaseMemory = DefaultBaseMemory
	}
	if c.Dial == nil {
		c.Dial = func(ctx context.Context) (wire.Link, error) {
			return wire.Dial(ctx, c.Addr, c.TLS, c.Transport)
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Backoff.fill()
}

// Client keeps a machine connected to its relay. Make one for the life of the process.
type Client struct {
	conf     Config
	instance wire.Instance
	limit    *limiter
	base     *baseQueue
	hashes   *hashCalls

	logBytes, baseBytes   atomic.Uint64
	logFrames, baseFrames atomic.Uint64
	rtt                   atomic.Int64

	mu    sync.Mutex
	stats Stats
}

// New makes a client. Run does the work.
func New(conf Config) *Client {
	conf.fill()
	return &Client{
		conf: conf, instance: wire.NewInstance(), limit: newLimiter(conf.Throttle),
		base: newBaseQueue(conf.BaseMemory), hashes: newHashCalls(),
	}
}

// Run keeps sessions with the relay until ctx ends, and returns its error.
func (c *Client) Run(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		start := time.Now()
		welcomed, err := c.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if welcomed && time.Since(start) > c.conf.Backoff.Max {
			attempt = 0
		}
		wait := c.conf.Backoff.wait(attempt, err)
		c.disconnected(err, wait)
		c.conf.Log.Warn("relay session ended", "relay", c.conf.Addr, "err", err, "retry", wait)
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// SetThrottle replaces the throttle, for a policy that changed.
func (c *Client) SetThrottle(t Throttle) { c.limit.set(t) }

// SendBase queues base frame n of its epoch. It copies raw and blocks while too many
// base frames wait for the relay: that paces the resync. A frame is kept and sent
// again after a cut until the relay has it on stable storage.
func (c *Client) SendBase(ctx context.Context, raw []byte, n uint64) error {
	h, err := frame.ParseHeader(raw)
	if err != nil {
		return fmt.Errorf("ship: base frame %d: %w", n, err)
	}
	if h.Kind != frame.KindBase || uint64(h.First) != n {
		return fmt.Errorf("ship: a %s frame with number %d was given as base frame %d", h.Kind, h.First, n)
	}
	return c.base.push(ctx, h.Epoch, n, raw)
}

// FlushBase waits until the relay has every base frame sent so far on stable storage.
// Only then may the base be called complete: the mark stands in the journal, the base
// frames do not.
func (c *Client) FlushBase(ctx context.Context) error { return c.base.drained(ctx) }

// DropBase forgets the base frames that were not acknowledged.
func (c *Client) DropBase() { c.base.clear() }
