package ship

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
	"github.com/understudy-dr/understudy/pkg/wire/wiretest"
)

// fakeRelay answers on streams in memory, as its fields say.
type fakeRelay struct {
	t       testing.TB
	welcome wire.Welcome
	refuse  *wire.Error // instead of a welcome
	silent  bool        // no acknowledgements, pongs or answers
	dead    bool        // no welcome either
	hashes  func(wire.HashRequest) wire.HashReply

	mu     sync.Mutex
	dials  []time.Time
	hellos []wire.Hello
	got    map[wire.Channel][]frame.Header
	pings  map[wire.Channel]int
	pongs  int
	conns  map[wire.Channel]*wire.Conn
	ends   []wire.Stream
}

func newFakeRelay(t testing.TB) *fakeRelay {
	return &fakeRelay{
		t: t, welcome: wire.Welcome{Credit: 1 << 30},
		got: map[wire.Channel][]frame.Header{}, pings: map[wire.Channel]int{}, conns: map[wire.Channel]*wire.Conn{},
	}
}

// dial is Config.Dial.
func (r *fakeRelay) dial(context.Context) (wire.Link, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dials = append(r.dials, time.Now())
	return &fakeLink{r: r}, nil
}

type fakeLink struct {
	r       *fakeRelay
	mu      sync.Mutex
	streams []wire.Stream
}

func (l *fakeLink) Transport() wire.Transport { return wire.TCP }

func (l *fakeLink) Open(context.Context) (wire.Stream, error) {
	a, b := wiretest.Pipe(wire.Peer{Role: wire.RoleAgent})
	l.mu.Lock()
	l.streams = append(l.streams, a, b)
	l.mu.Unlock()
	l.r.mu.Lock()
	l.r.ends = append(l.r.ends, b)
	l.r.mu.Unlock()
	go l.r.serve(b)
	return a, nil
}

func (l *fakeLink) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.streams {
		_ = s.Close()
	}
	return nil
}

// cut ends all connections.
func (r *fakeRelay) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.ends {
		_ = s.Close()
	}
	r.ends = nil
}

func (r *fakeRelay) serve(s wire.Stream) {
	defer s.Close()
	c, err := wire.Greet(s, wire.RoleRelay, "fake")
	if err != nil {
		return
	}
	m, err := c.Read(nil)
	if err != nil {
		return
	}
	hello := m.(wire.Hello)
	r.mu.Lock()
	r.hellos = append(r.hellos, hello)
	r.conns[hello.Channel] = c
	welcome, refuse, dead := r.welcome, r.refuse, r.dead
	r.mu.Unlock()
	if dead {
		_, _ = c.Read(nil)
		return
	}
	if refuse != nil {
		_ = c.Write(refuse)
		return
	}
	if err := c.Write(welcome); err != nil {
		return
	}
	for {
		m, err := c.Read(nil)
		if err != nil {
			return
		}
		r.take(hello.Channel, c, m)
	}
}

func (r *fakeRelay) take(ch wire.Channel, c *wire.Conn, m wire.Message) {
	r.mu.Lock()
	silent, hashes := r.silent || r.dead, r.hashes
	switch m := m.(type) {
	case wire.Frame:
		h, err := frame.ParseHeader(m.Raw)
		if err != nil {
			r.t.Error(err)
		}
		r.got[ch] = append(r.got[ch], h)
	case wire.Ping:
		r.pings[ch]++
	case wire.Pong:
		r.pongs++
	}
	r.mu.Unlock()
	if silent {
		return
	}
	switch m := m.(type) {
	case wire.Ping:
		if ch == wire.Control {
			_ = c.Write(wire.Pong(m))
		} else {
			_ = c.Write(r.ack(ch))
		}
	case wire.Frame:
		_ = c.Write(r.ack(ch))
	case wire.HashRequest:
		if hashes != nil {
			_ = c.Write(hashes(m))
		}
	}
}

// ack acknowledges what has come.
func (r *fakeRelay) ack(ch wire.Channel) wire.Ack {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := wire.Ack{Epoch: r.welcome.Epoch, Spooled: uint64(r.welcome.Spooled), Credit: r.welcome.Credit}
	if ch == wire.Base {
		a.Epoch, a.Spooled = r.welcome.BaseEpoch, r.welcome.SpooledBase
	}
	if got := r.got[ch]; len(got) > 0 {
		a.Epoch, a.Spooled = got[len(got)-1].Epoch, uint64(got[len(got)-1].Last)
	}
	return a
}

func (r *fakeRelay) frames(ch wire.Channel) []frame.Header {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.got[ch]
}

// set changes the relay under its lock.
func (r *fakeRelay) set(f func()) { r.mu.Lock(); defer r.mu.Unlock(); f() }

var machine = block.MachineID{1, 2, 3}

// endless is a log whose frames are ticks, up to last.
type endless struct{ last block.Seq }

func (e endless) Next(ctx context.Context, after block.Seq) ([]byte, error) {
	if after >= e.last {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return frame.AppendTick(nil, machine, 1, after+1, time.Now())
}

// baseFrame is base frame n of an epoch.
func baseFrame(t testing.TB, epoch block.Epoch, n uint64, size int) []byte {
	b := frame.NewBuilder(machine)
	b.Reset(frame.KindBase, epoch, block.Seq(n), time.Now())
	if err := b.Add(block.DiskIDFromName("d"), frame.OpWrite, block.Extent{Len: int64(size)}, make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	raw, err := b.Append(nil, block.Seq(n), time.Now(), frame.CompressNever)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// run starts a client on r; it ends with the test's context.
func run(t *testing.T, r *fakeRelay, change func(*Config)) *Client {
	conf := Config{
		Machine: machine, Build: "test", Frames: endless{}, Dial: r.dial, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Backoff: Backoff{Rand: func() float64 { return 1 }},
	}
	if change != nil {
		change(&conf)
	}
	c := New(conf)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run ended with %v", err)
		}
	})
	return c
}
