package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/agent/enrol"
	"github.com/understudy-dr/understudy/agent/ship"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// simulated is an agent without a disk: its frames hold random bytes.
type simulated struct {
	id     *enrol.Identity
	client *ship.Client
	data   []byte

	mu    sync.Mutex
	wake  chan struct{} // closed when what follows has changed
	size  int           // of the next frames' data; 0 while it pauses
	every time.Duration // between two frames; 0 for none
	next  time.Time     // when the next one is due
	b     *frame.Builder
	raw   []byte // of the frame made last
	sent  map[block.Seq]sending
	took  []float64 // seconds until spooled
	bytes int64     // spooled since mark
}

type sending struct {
	at   time.Time
	size int64
}

// enrolMany makes n agents known to the control plane, as an operator would.
func (s *stage) enrolMany(ctx context.Context, n int) ([]*simulated, error) {
	agents := make([]*simulated, n)
	data := newPool(false)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i := range agents {
		g.Go(func() error {
			token, err := s.newToken(ctx)
			if err != nil {
				return err
			}
			id, err := enrol.Enrol(ctx, enrol.Options{
				Dir: s.Path("fleet", fmt.Sprint(i)), Server: s.site.API, Token: token, Host: desired.Host{Hostname: fmt.Sprintf("fleet-%d", i)}, Now: time.Now,
			})
			if err != nil {
				return err
			}
			a := &simulated{id: id, data: data, wake: make(chan struct{}), b: frame.NewBuilder(id.Machine), sent: map[block.Seq]sending{}}
			a.client = ship.New(ship.Config{
				Addr: s.site.Relay, TLS: wire.AgentTLS(id.Certificate, id.Roots()), Transport: wire.TCP, Machine: id.Machine, Build: "bench",
				Frames: a, OnLogAck: a.acked,
			})
			agents[i] = a
			return nil
		})
	}
	return agents, g.Wait()
}

// connect starts the agents and returns when the beginning of each log is in the vault,
// and what ends them.
func connect(ctx context.Context, agents []*simulated) (stop func(), err error) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	stop = func() { cancel(); wg.Wait() }
	for _, a := range agents {
		wg.Go(func() { _ = a.client.Run(ctx) }) // it runs until it is stopped
	}
	for deadline := time.Now().Add(2 * time.Minute); ; {
		up := 0
		for _, a := range agents {
			if st := a.client.Stats(); st.Connected && st.Committed > 0 {
				up++
			}
		}
		if up == len(agents) {
			return stop, nil
		}
		if time.Now().After(deadline) || ctx.Err() != nil {
			stop()
			return nil, fmt.Errorf("only %d of %d agents have begun: %s", up, len(agents), agents[len(agents)-1].client.Stats().LastError)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Next implements ship.Frames. The first frame begins the log.
func (a *simulated) Next(ctx context.Context, after block.Seq) ([]byte, error) {
	if after == 0 {
		return frame.AppendMark(nil, a.id.Machine, 1, 1, time.Now(), frame.Mark{Type: frame.MarkEpochBegin, Reason: frame.ReasonInitial, Method: frame.MethodFull,
			Disks: []frame.MarkDisk{{ID: fleetDisk, Name: "fleet", Size: gib, SectorSize: 512, Whole: true}}})
	}
	for {
		a.mu.Lock()
		due := time.Until(a.next)
		if a.size > 0 && due <= 0 {
			defer a.mu.Unlock()
			return a.frame(after + 1)
		}
		if a.size == 0 || due > time.Hour {
			due = time.Hour
		}
		wake := a.wake
		a.mu.Unlock()
		select {
		case <-wake:
		case <-time.After(due):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

var fleetDisk = block.DiskIDFromName("fleet")

// frame makes the next one. The lock is held.
func (a *simulated) frame(seq block.Seq) ([]byte, error) {
	now := time.Now()
	a.b.Reset(frame.KindLog, 1, seq, now)
	off := int64(seq) * int64(a.size) % (gib - mostFrame) / blockSize * blockSize
	data := a.data[off%(poolSize-mostFrame)/blockSize*blockSize:][:a.size]
	if err := a.b.Add(fleetDisk, frame.OpWrite, block.Extent{Off: off, Len: int64(a.size)}, data); err != nil {
		return nil, err
	}
	var err error
	if a.raw, err = a.b.Append(a.raw[:0], seq, now, frame.CompressNever); err != nil {
		return nil, err
	}
	at := now
	if a.every > 0 { // a frame that is late has waited since it was due
		at = a.next
	}
	a.sent[seq] = sending{at, int64(a.size)}
	a.next = a.next.Add(a.every)
	return a.raw, nil
}

func (a *simulated) acked(_ context.Context, spooled, _ block.Seq) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	for seq, s := range a.sent {
		if seq <= spooled {
			a.took = append(a.took, now.Sub(s.at).Seconds())
			a.bytes += s.size
			delete(a.sent, seq)
		}
	}
}

// begin has it send frames of this size from now on.
func (a *simulated) begin(size int, every time.Duration, first time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.size, a.every, a.next, a.took = size, every, first, nil
	close(a.wake)
	a.wake = make(chan struct{})
}

func (a *simulated) pause() { a.mu.Lock(); defer a.mu.Unlock(); a.size = 0 }

// mark begins to count what is spooled; spooled is the count, bytes.
func (a *simulated) mark()          { a.mu.Lock(); defer a.mu.Unlock(); a.bytes = 0 }
func (a *simulated) spooled() int64 { a.mu.Lock(); defer a.mu.Unlock(); return a.bytes }

// waits is how long the frames since begin took until they were spooled, in seconds;
// for those that are not yet, how long it has been.
func (a *simulated) waits() []float64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	waits := slices.Clone(a.took)
	for _, s := range a.sent {
		waits = append(waits, time.Since(s.at).Seconds())
	}
	return waits
}

// newToken makes an enrolment token.
func (s *stage) newToken(ctx context.Context) (string, error) {
	var made struct {
		Token string `json:"token"`
	}
	err := s.call(ctx, "POST", "/v1/tokens", &made)
	return made.Token, err
}
