// Package ship sends a machine's frames to its relay: the log as the journal yields
// it, and base frames as a copy makes them. It goes on where a cut left off, keeps within
// the credit and the throttle, and says how far the relay has come.
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
	// OnWelcome is asked once a session, before the first frame: is the relay's position
	// one from which the log can go on, or must a new epoch begin there? It may take its
	// time, and returns the sequence number behind which Frames is to be asked. An error
	// ends the session and is tried again. Base frames that were not acknowledged are
	// forgotten behind it: the copy goes on from Welcome.SpooledBase.
	OnWelcome func(context.Context, wire.Welcome) (after block.Seq, err error)
	// OnLogAck and OnBaseAck are told of progress, in order. They should not block: the
	// channel's acknowledgements and credit wait for them.
	OnLogAck  func(ctx context.Context, spooled, committed block.Seq)
	OnBaseAck func(ctx context.Context, epoch block.Epoch, spooled uint64)

	Backoff  Backoff
	Throttle Throttle
	// BaseMemory bounds the base frames that wait to be sent, bytes.
	BaseMemory int64
	// Dial replaces wire.Dial in tests.
	Dial func(context.Context) (wire.Link, error)
	Log  *slog.Logger
}

// DefaultBaseMemory lets the disk be read while the wire is busy, and no more: memory of
// a protected machine is not ours.
const DefaultBaseMemory = 16 << 20

func (c *Config) fill() {
	if c.Newest == nil {
		c.Newest = func() block.Position { return block.Position{} }
	}
	if c.OnWelcome == nil {
		c.OnWelcome = func(_ context.Context, w wire.Welcome) (block.Seq, error) { return w.Spooled, nil }
	}
	if c.OnLogAck == nil {
		c.OnLogAck = func(context.Context, block.Seq, block.Seq) {}
	}
	if c.OnBaseAck == nil {
		c.OnBaseAck = func(context.Context, block.Epoch, uint64) {}
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

// Instance is this process as the relay knows it.
func (c *Client) Instance() wire.Instance { return c.instance }

// Run keeps sessions with the relay until ctx ends, and returns its error.
func (c *Client) Run(ctx context.Context) error {
	for attempt := 0; ; attempt++ {
		start, had := time.Now(), c.Stats()
		welcomed, err := c.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		// On a line that breaks often the log goes on in small steps, as long as each
		// step is not punished.
		if welcomed && (time.Since(start) > c.conf.Backoff.Max || c.Stats().further(had)) {
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

// SendBase queues a copy of base frame n of its epoch, for the base channel. It blocks
// while there is no relay, and while too many frames wait to be sent: that paces the
// copy. The frames of an epoch come in order from 1, or behind what the last Welcome
// called spooled: ErrBaseOrder otherwise.
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
func (c *Client) FlushBase(ctx context.Context) error { return c.base.flushed(ctx) }
