// Package transport tests the way of a frame from the agent's shipper over 9443 to the
// relay's vault, both sides as they are.
package transport

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/agent/ship"
	"github.com/understudy-dr/understudy/controlplane/relay"
	"github.com/understudy-dr/understudy/controlplane/relay/relaytest"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
	"github.com/understudy-dr/understudy/pkg/wire/wiretest"
)

// journal is a log in memory that makes its own frames.
type journal struct {
	t       testing.TB
	machine block.MachineID
	builder *frame.Builder

	mu     sync.Mutex
	epoch  block.Epoch
	last   block.Seq
	frames [][]byte
	gone   block.Seq // released up to here; kept only for the comparison at the end
	more   chan struct{}
}

func newJournal(t testing.TB) *journal {
	m := block.NewMachineID()
	return &journal{t: t, machine: m, builder: frame.NewBuilder(m), more: make(chan struct{})}
}

func (j *journal) put(raw []byte, err error) {
	if err != nil {
		j.t.Fatal(err)
	}
	h, err := frame.ParseHeader(raw)
	if err != nil {
		j.t.Fatal(err)
	}
	j.last = h.Last
	j.frames = append(j.frames, raw)
	close(j.more)
	j.more = make(chan struct{})
}

// begin opens an epoch.
func (j *journal) begin(reason frame.Reason) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.epoch++
	j.put(frame.AppendMark(nil, j.machine, j.epoch, j.last+1, time.Now(), frame.Mark{Type: frame.MarkEpochBegin, Reason: reason}))
}

// complete says that the epoch's base has n frames.
func (j *journal) complete(n uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.put(frame.AppendMark(nil, j.machine, j.epoch, j.last+1, time.Now(), frame.Mark{Type: frame.MarkBaseComplete, BaseFrames: n}))
}

// write appends a log frame of size bytes that spans three sequence numbers.
func (j *journal) write(size int) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.put(j.build(frame.KindLog, j.last+1, j.last+3, size), nil)
}

func (j *journal) build(kind frame.Kind, first, last block.Seq, size int) []byte {
	j.builder.Reset(kind, j.epoch, first, time.Now())
	data := make([]byte, size)
	for i := 0; i+8 <= size; i += 4096 {
		data[i] = byte(rand.Int())
	}
	if err := j.builder.Add(block.DiskIDFromName("disk"), frame.OpWrite, block.Extent{Off: int64(first) << 20, Len: int64(size)}, data); err != nil {
		j.t.Fatal(err)
	}
	raw, err := j.builder.Append(nil, last, time.Now(), frame.CompressNever)
	if err != nil {
		j.t.Fatal(err)
	}
	return raw
}

// base makes base frame n of the epoch.
func (j *journal) base(n uint64, size int) []byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.build(frame.KindBase, block.Seq(n), block.Seq(n), size)
}

// Next implements ship.Frames.
func (j *journal) Next(ctx context.Context, after block.Seq) ([]byte, error) {
	for {
		j.mu.Lock()
		more := j.more
		if after < j.gone {
			j.mu.Unlock()
			return nil, fmt.Errorf("the frame after %d was acknowledged as spooled and is gone", after)
		}
		for _, raw := range j.frames {
			if h, _ := frame.ParseHeader(raw); h.First == after+1 {
				j.mu.Unlock()
				return raw, nil
			}
		}
		gap := after > j.last
		j.mu.Unlock()
		if gap {
			return nil, fmt.Errorf("no frame follows %d", after)
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// release forgets frames that are spooled.
func (j *journal) release(upto block.Seq) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.gone = max(j.gone, upto)
}

// retained fails if the relay is behind what was released: it lost what it had
// acknowledged.
func (j *journal) retained(spooled block.Seq) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if spooled < j.gone {
		j.t.Errorf("the relay has %d and had acknowledged %d", spooled, j.gone)
	}
	return nil
}

// waiting is how many sequence numbers are not spooled.
func (j *journal) waiting() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return int(j.last - j.gone)
}

func (j *journal) newest() block.Seq {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last
}

// stage is a relay with a vault in memory and a control plane's certificates.
type stage struct {
	t      testing.TB
	ca     *wiretest.CA
	vault  *relaytest.Vault
	conf   relay.Config
	server *relay.Server

	mu     sync.Mutex
	events []relay.Event
}

func newStage(t testing.TB, change func(*relay.Config)) *stage {
	s := &stage{t: t, ca: wiretest.NewCA(t), vault: &relaytest.Vault{}}
	s.conf = relay.Config{
		Addr: "127.0.0.1:0", TLS: s.ca.RelayTLS(), Vault: s.vault, SpoolDir: t.TempDir(),
		SpoolLimit: 1 << 30, Segment: 64 << 20, Build: "test", Event: s.note, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Authorize: func(context.Context, block.MachineID, string) (relay.Policy, error) {
			return relay.Policy{RPOTarget: 300 * time.Millisecond}, nil
		},
	}
	if change != nil {
		change(&s.conf)
	}
	s.start()
	t.Cleanup(func() { s.stop() })
	return s
}

// start opens the relay; after a stop it gets the address it had.
func (s *stage) start() {
	s.t.Helper()
	server, err := relay.Open(s.t.Context(), s.conf)
	if err != nil {
		s.t.Fatal(err)
	}
	s.server = server
	s.conf.Addr = server.Addr().String()
}

func (s *stage) stop() {
	if s.server != nil {
		_ = s.server.Close()
		s.server = nil
	}
}

func (s *stage) note(e relay.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

// ship runs a client for j until the test, or the returned function, ends it.
func (s *stage) ship(j *journal, change func(*ship.Config)) (*ship.Client, func()) {
	conf := ship.Config{
		Addr: s.conf.Addr, TLS: s.ca.AgentTLS(j.machine), Transport: wire.TCP, Machine: j.machine, Build: "test", Frames: j,
		Backoff: ship.Backoff{Min: 5 * time.Millisecond, Max: 100 * time.Millisecond}, Log: slog.New(slog.NewTextHandler(s.t.Output(), nil)),
	}
	if change != nil {
		change(&conf)
	}
	c := ship.New(conf)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = c.Run(ctx) }()
	stop := func() { cancel(); <-done }
	s.t.Cleanup(stop)
	return c, stop
}

// eventually waits for what another process does; nothing depends on how long it took.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	limit := 2 * time.Minute // for a busy machine; who passes does not wait for it
	if _, bench := t.(*testing.B); bench {
		limit = 10 * time.Minute
	}
	for end := time.Now().Add(limit); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// arrived waits until the vault has the journal's whole log and proves it is the same,
// nothing lost and nothing doubled.
func (s *stage) arrived(j *journal) {
	s.t.Helper()
	eventually(s.t, "the vault has the whole log", func() bool { return s.vault.State(j.machine).Last.Seq == j.newest() })
	got := s.vault.Log(j.machine)
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(got) != len(j.frames) {
		s.t.Fatalf("%d frames in the vault, %d in the journal", len(got), len(j.frames))
	}
	for i := range got {
		if !bytes.Equal(got[i], j.frames[i]) {
			s.t.Fatalf("frame %d differs", i)
		}
	}
}
