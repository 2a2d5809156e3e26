package relay_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/relay"
	"github.com/understudy-dr/understudy/controlplane/relay/relaytest"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
	"github.com/understudy-dr/understudy/pkg/wire/wiretest"
)

// stage is a relay with its surroundings.
type stage struct {
	t      testing.TB
	ca     *wiretest.CA
	vault  *relaytest.Vault
	conf   relay.Config
	server *relay.Server

	mu     sync.Mutex
	events []relay.Event
}

const testRPO = 90 * time.Millisecond

func newStage(t testing.TB, change func(*relay.Config)) *stage {
	s := &stage{t: t, ca: wiretest.NewCA(t), vault: &relaytest.Vault{}}
	s.conf = relay.Config{
		Addr: "127.0.0.1:0", TLS: s.ca.RelayTLS(), Vault: s.vault, SpoolDir: t.TempDir(), SpoolLimit: 512 << 20, Build: "test",
		Event: s.note, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Authorize: func(context.Context, block.MachineID, string) (relay.Policy, error) {
			return relay.Policy{RPOTarget: testRPO}, nil
		},
	}
	if change != nil {
		change(&s.conf)
	}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *stage) start() {
	s.t.Helper()
	server, err := relay.Open(s.t.Context(), s.conf)
	if err != nil {
		s.t.Fatal(err)
	}
	s.server = server
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

// event waits for one of this type.
func (s *stage) event(kind relay.EventType) (e relay.Event) {
	s.t.Helper()
	s.eventually("event "+string(kind), func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, e = range s.events {
			if e.Type == kind {
				return true
			}
		}
		return false
	})
	return e
}

// eventually waits for what happens beside the test; no result depends on how long.
func (s *stage) eventually(what string, cond func() bool) {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// agent speaks the wire by hand, so that it can also lie.
type agent struct {
	s        *stage
	machine  block.MachineID
	instance wire.Instance
	cert     []wiretest.Option
	builder  *frame.Builder

	epoch block.Epoch
	last  block.Seq
	sent  [][]byte // log frames that must arrive
}

func (s *stage) agent() *agent {
	m := block.NewMachineID()
	return &agent{s: s, machine: m, instance: wire.NewInstance(), builder: frame.NewBuilder(m)}
}

// link is one open channel of an agent. A goroutine reads it.
type link struct {
	*wire.Conn
	t       testing.TB
	welcome wire.Welcome
	mu      sync.Mutex
	ack     wire.Ack
	replies chan wire.HashReply
	end     chan struct{}
	why     error // after end
}

// dial opens a channel; mute links never answer a Ping.
func (a *agent) dial(ch wire.Channel, mute bool) (*link, error) {
	return a.dialAs(wire.Hello{Machine: a.machine, Instance: a.instance, Channel: ch, AgentVersion: "hand"}, mute)
}

func (a *agent) dialAs(hello wire.Hello, mute bool) (*link, error) {
	t := a.s.t
	l, err := wire.Dial(t.Context(), a.s.server.Addr().String(), a.s.ca.AgentTLS(a.machine, a.cert...), wire.TCP)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = l.Close() })
	stream, err := l.Open(t.Context())
	if err != nil {
		return nil, err
	}
	c, err := wire.Greet(stream, wire.RoleAgent, "hand")
	if err != nil {
		return nil, err
	}
	if err := c.Write(hello); err != nil {
		return nil, err
	}
	msg, err := c.Read(nil)
	if err != nil {
		return nil, err
	}
	w, ok := msg.(wire.Welcome)
	if !ok {
		_ = c.Close()
		return nil, msg.(*wire.Error)
	}
	k := &link{Conn: c, t: t, welcome: w, end: make(chan struct{}), replies: make(chan wire.HashReply, 16)}
	go k.read(mute)
	return k, nil
}

func (k *link) read(mute bool) {
	defer close(k.end)
	for {
		msg, err := k.Read(nil)
		if err != nil {
			k.why = err
			return
		}
		switch msg := msg.(type) {
		case wire.Ack:
			k.mu.Lock()
			k.ack = msg
			k.mu.Unlock()
		case wire.Ping:
			if !mute {
				_ = k.Write(wire.Pong(msg))
			}
		case wire.HashReply:
			k.replies <- msg
		case *wire.Error:
			k.why = msg
			_ = k.Close()
			return
		}
	}
}

// acked is the newest acknowledgement.
func (k *link) acked() wire.Ack { k.mu.Lock(); defer k.mu.Unlock(); return k.ack }

// refused waits for the relay's last word.
func (k *link) refused(code wire.Code) {
	k.t.Helper()
	select {
	case <-k.end:
	case <-time.After(20 * time.Second):
		k.t.Fatalf("not refused with %s", code)
	}
	if !errors.Is(k.why, &wire.Error{Code: code}) {
		k.t.Fatalf("ended with %v, want %s", k.why, code)
	}
}

// open is join with the session's control channel before it.
func (a *agent) open(ch wire.Channel) *link {
	a.s.t.Helper()
	if _, err := a.dial(wire.Control, false); err != nil {
		a.s.t.Fatal(err)
	}
	return a.join(ch)
}

// join opens one more channel of the session; it must work.
func (a *agent) join(ch wire.Channel) *link {
	a.s.t.Helper()
	k, err := a.dial(ch, false)
	if err != nil {
		a.s.t.Fatal(err)
	}
	return k
}

// send writes frames. That it fails where the relay has hung up is the test's to see.
func (k *link) send(raws ...[]byte) {
	k.t.Helper()
	for _, raw := range raws {
		if err := k.Write(wire.Frame{Raw: raw}); err != nil {
			k.t.Logf("sending: %v", err)
		}
	}
}

// must is the frame or the end of the test.
func must(t testing.TB) func([]byte, error) []byte {
	return func(raw []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
}

// keep remembers a log frame that the agent makes in good order.
func (a *agent) keep(raw []byte) []byte {
	h, err := frame.ParseHeader(raw)
	if err != nil {
		a.s.t.Fatal(err)
	}
	a.last = h.Last
	a.sent = append(a.sent, raw)
	return raw
}

func (a *agent) mark(m frame.Mark) []byte {
	return a.keep(must(a.s.t)(frame.AppendMark(nil, a.machine, a.epoch, a.last+1, time.Now(), m)))
}

func (a *agent) begin() []byte {
	a.epoch++
	return a.mark(frame.Mark{Type: frame.MarkEpochBegin, Reason: frame.ReasonInitial})
}

func (a *agent) complete(n uint64) []byte {
	return a.mark(frame.Mark{Type: frame.MarkBaseComplete, BaseFrames: n})
}

func (a *agent) write(size int) []byte {
	return a.keep(a.frame(frame.KindLog, a.epoch, a.last+1, a.last+1, size))
}

func (a *agent) tick() []byte {
	return a.keep(must(a.s.t)(frame.AppendTick(nil, a.machine, a.epoch, a.last+1, time.Now())))
}

func (a *agent) frame(kind frame.Kind, epoch block.Epoch, first, last block.Seq, size int) []byte {
	a.builder.Reset(kind, epoch, first, time.Now())
	if err := a.builder.Add(block.DiskIDFromName("d"), frame.OpWrite, block.Extent{Len: int64(size)}, bytes.Repeat([]byte{byte(last)}, size)); err != nil {
		a.s.t.Fatal(err)
	}
	return must(a.s.t)(a.builder.Append(nil, last, time.Now(), frame.CompressNever))
}

// base is base frame n of the present epoch.
func (a *agent) base(n uint64, size int) []byte {
	return a.frame(frame.KindBase, a.epoch, block.Seq(n), block.Seq(n), size)
}

// arrived waits until the vault has the machine's whole log and checks each byte.
func (a *agent) arrived() {
	t := a.s.t
	t.Helper()
	a.s.eventually("the whole log in the vault", func() bool { return a.s.vault.State(a.machine).Last.Seq == a.last })
	got := a.s.vault.Log(a.machine)
	if len(got) != len(a.sent) {
		t.Fatalf("%d frames in the vault, %d were sent", len(got), len(a.sent))
	}
	for i := range got {
		if !bytes.Equal(got[i], a.sent[i]) {
			t.Fatalf("frame %d is not what was sent", i)
		}
	}
}
