package relay_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/relay"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
	"github.com/understudy-dr/understudy/pkg/wire/wiretest"
)

// TestOnlyTheNextFrameOfItsOwnLog: whatever else an agent sends is refused by name, and
// what is stored stays as it is. This is what keeps a machine's past safe from the
// machine.
func TestOnlyTheNextFrameOfItsOwnLog(t *testing.T) {
	damage := func(raw []byte, at int) []byte {
		raw = bytes.Clone(raw)
		raw[at] ^= 0x40
		return raw
	}
	for name, c := range map[string]struct {
		ch   wire.Channel
		make func(a *agent) []byte
		want wire.Code
	}{
		"another machine's frame": {wire.Log, func(a *agent) []byte {
			other := a.s.agent()
			return other.frame(frame.KindLog, 1, a.last+1, a.last+1, 512)
		}, wire.CodeWrongMachine},
		"another machine's base frame": {wire.Base, func(a *agent) []byte {
			return a.s.agent().frame(frame.KindBase, 1, 1, 1, 512)
		}, wire.CodeWrongMachine},
		"a base frame as log": {wire.Log, func(a *agent) []byte {
			return a.frame(frame.KindBase, 1, a.last+1, a.last+1, 512)
		}, wire.CodeWrongChannel},
		"a log frame as base": {wire.Base, func(a *agent) []byte {
			return a.frame(frame.KindLog, 1, 1, 1, 512)
		}, wire.CodeWrongChannel},
		"a gap": {wire.Log, func(a *agent) []byte {
			return a.frame(frame.KindLog, 1, a.last+2, a.last+2, 512)
		}, wire.CodeChainGap},
		"an overlap": {wire.Log, func(a *agent) []byte {
			return a.frame(frame.KindLog, 1, a.last, a.last+1, 512)
		}, wire.CodeChainOverlap},
		"a new epoch without its mark": {wire.Log, func(a *agent) []byte {
			return a.frame(frame.KindLog, 2, a.last+1, a.last+1, 512)
		}, wire.CodeEpochOrder},
		"a second mark for the same epoch": {wire.Log, func(a *agent) []byte {
			a.epoch--
			return a.begin()
		}, wire.CodeEpochOrder},
		"a base that begins in the middle": {wire.Base, func(a *agent) []byte {
			return a.frame(frame.KindBase, 1, 2, 2, 512)
		}, wire.CodeChainGap},
		"a flipped bit in the payload": {wire.Log, func(a *agent) []byte {
			return damage(a.frame(frame.KindLog, 1, a.last+1, a.last+1, 512), 400)
		}, wire.CodeCorruptFrame},
		"a flipped bit in the header": {wire.Log, func(a *agent) []byte {
			return damage(a.frame(frame.KindLog, 1, a.last+1, a.last+1, 512), 30)
		}, wire.CodeCorruptFrame},
		"no frame at all": {wire.Log, func(*agent) []byte { return bytes.Repeat([]byte("x"), 4096) }, wire.CodeCorruptFrame},
		"two frames in one message": {wire.Log, func(a *agent) []byte {
			f := a.frame(frame.KindLog, 1, a.last+1, a.last+1, 512)
			return append(f, f...)
		}, wire.CodeCorruptFrame},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, nil)
			a := s.agent()
			log := a.open(wire.Log)
			log.send(a.begin())
			log.send(a.write(512))
			a.arrived()
			before := s.vault.Log(a.machine)
			target := log
			if c.ch == wire.Base {
				target = a.join(wire.Base)
			}
			target.send(c.make(a))
			target.refused(c.want)
			if e := s.event(relay.EventRefused); e.Machine != a.machine || e.Remedy == "" {
				t.Errorf("event %+v", e)
			}
			after := s.vault.Log(a.machine)
			if len(after) != len(before) || len(s.vault.Base(a.machine, 1)) != 0 {
				t.Error("something was stored")
			}
		})
	}
}

// TestARewrittenPastIsIgnored: frames under taken numbers, whatever they hold, change
// nothing, and the session goes on.
func TestARewrittenPastIsIgnored(t *testing.T) {
	s := newStage(t, nil)
	a := s.agent()
	log := a.open(wire.Log)
	log.send(a.begin())
	log.send(a.write(512))
	log.send(a.write(512))
	a.arrived()
	log.send(a.sent[1])                                                   // a replay
	log.send(a.frame(frame.KindLog, 1, 2, 2, 4096))                       // other data under an old number
	log.send(a.frame(frame.KindLog, 1, 1, 3, 4096))                       // over everything
	log.send(must(t)(frame.AppendTick(nil, a.machine, 7, 3, time.Now()))) // of a future epoch
	log.send(a.write(1024))
	a.arrived() // compares every byte
	if e := s.event(relay.EventReplayIgnored); e.Machine != a.machine {
		t.Errorf("event %+v", e)
	}
}

func TestTheHelloMustBeTheCertificates(t *testing.T) {
	s := newStage(t, nil)
	a, victim := s.agent(), s.agent()
	_, err := a.dialAs(wire.Hello{Machine: victim.machine, Instance: a.instance, Channel: wire.Log}, false)
	if !errors.Is(err, &wire.Error{Code: wire.CodeWrongMachine}) {
		t.Errorf("got %v", err)
	}
	if _, known := s.server.Status(victim.machine); known {
		t.Error("the relay took notice of the machine that was named")
	}
}

// TestNoOtherVerb: what is not an append or a question about its own hashes has no
// place, and there is no message for it either.
func TestNoOtherVerb(t *testing.T) {
	for name, c := range map[string]struct {
		ch  wire.Channel
		msg wire.Message
	}{
		"hashes on the log channel":   {wire.Log, wire.HashRequest{Disk: block.DiskIDFromName("d"), Len: 4096, Granule: 4096}},
		"a frame on the control":      {wire.Control, nil},
		"a welcome to the relay":      {wire.Log, wire.Welcome{}},
		"an acknowledgement to it":    {wire.Log, wire.Ack{}},
		"a second hello":              {wire.Control, wire.Hello{Machine: block.NewMachineID(), Instance: "x", Channel: wire.Control}},
		"a hash reply from the agent": {wire.Control, wire.HashReply{}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, nil)
			a := s.agent()
			k, err := a.dial(c.ch, false)
			if err != nil {
				t.Fatal(err)
			}
			msg := c.msg
			if msg == nil {
				msg = wire.Frame{Raw: a.begin()}
			}
			if err := k.Write(msg); err != nil {
				t.Fatal(err)
			}
			k.refused(wire.CodeBadMessage)
		})
	}
}

// TestBytesThatAreNoMessage: unknown types and announced lengths beyond every limit end
// the channel by name.
func TestBytesThatAreNoMessage(t *testing.T) {
	for name, head := range map[string][]byte{
		"unknown type":       {99, 1, 0, 0, 0, 0},
		"type zero":          {0, 0, 0, 0, 0},
		"oversized frame":    binary.LittleEndian.AppendUint32([]byte{byte(wire.TypeFrame)}, wire.MaxFrame+1),
		"four GiB of hello":  {byte(wire.TypeHello), 0xff, 0xff, 0xff, 0xff},
		"a ping of one byte": {byte(wire.TypePing), 1, 0, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, nil)
			a := s.agent()
			l, err := wire.Dial(t.Context(), s.server.Addr().String(), s.ca.AgentTLS(a.machine), wire.TCP)
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			stream, err := l.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			c, err := wire.Greet(stream, wire.RoleAgent, "hand")
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Write(wire.Hello{Machine: a.machine, Instance: a.instance, Channel: wire.Log}); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(nil); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Write(head); err != nil {
				t.Fatal(err)
			}
			if err := stream.Flush(); err != nil {
				t.Fatal(err)
			}
			msg, err := c.Read(nil)
			for ; err == nil; msg, err = c.Read(nil) {
				if refusal, ok := msg.(*wire.Error); ok {
					if refusal.Code != wire.CodeBadMessage {
						t.Errorf("refused with %v", refusal)
					}
					return
				}
			}
			t.Errorf("ended with %v", err)
		})
	}
}

// TestOtherVersions: an agent of another version is told this relay's, and the operator
// is told of the agent.
func TestOtherVersions(t *testing.T) {
	for line, words := range map[string]string{
		"UNDERSTUDY 2 agent 9.9 and more\n": "newer",
		"GET / HTTP/1.1\r\n":                "does not speak",
	} {
		s := newStage(t, nil)
		a := s.agent()
		l, err := wire.Dial(t.Context(), s.server.Addr().String(), s.ca.AgentTLS(a.machine), wire.TCP)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		stream, err := l.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(stream, line); err != nil {
			t.Fatal(err)
		}
		if err := stream.Flush(); err != nil {
			t.Fatal(err)
		}
		said, _ := io.ReadAll(stream)
		if words == "newer" && string(said) != "UNDERSTUDY 1 relay test\n" {
			t.Errorf("the relay said %q", said)
		}
		if e := s.event(relay.EventRefused); e.Machine != a.machine || !strings.Contains(e.Message, words) || e.Remedy == "" {
			t.Errorf("event %+v", e)
		}
	}
}

func TestCreditIsALimit(t *testing.T) {
	s := newStage(t, func(c *relay.Config) { c.PerMachine = 1 << 20 })
	s.vault.OnCommit(func(ctx context.Context, _ block.MachineID) error { <-ctx.Done(); return ctx.Err() })
	a := s.agent()
	log := a.open(wire.Log)
	if log.welcome.Credit == 0 || log.welcome.Credit > 1<<20 {
		t.Fatalf("credit %d", log.welcome.Credit)
	}
	log.send(a.begin())
	for range 3 {
		log.send(a.write(700 << 10)) // the second oversteps, which is allowed, the third begins beyond
	}
	log.refused(wire.CodeCredit)
}

func TestUnauthorisedAndUnprotected(t *testing.T) {
	allowed := make(chan bool, 8)
	s := newStage(t, func(c *relay.Config) {
		c.Authorize = func(_ context.Context, _ block.MachineID, serial string) (relay.Policy, error) {
			if serial == "" || !<-allowed {
				return relay.Policy{}, errors.New("it is not protected")
			}
			return relay.Policy{RPOTarget: time.Minute, Throttle: 12345}, nil
		}
	})
	a := s.agent()
	allowed <- false
	if _, err := a.dial(wire.Log, false); !errors.Is(err, &wire.Error{Code: wire.CodeUnauthorised}) || !strings.Contains(err.Error(), "not protected") {
		t.Fatalf("got %v", err)
	}
	allowed <- true
	k, err := a.dial(wire.Log, false)
	if err != nil {
		t.Fatal(err)
	}
	if k.welcome.RPOTarget != time.Minute || k.welcome.Throttle != 12345 {
		t.Errorf("welcome %+v", k.welcome)
	}
	s.server.Disconnect(a.machine, "it was unprotected", "protect it again")
	k.refused(wire.CodeUnauthorised)
}

func TestASessionEndsWithItsCertificate(t *testing.T) {
	s := newStage(t, nil)
	a := s.agent()
	a.cert = []wiretest.Option{wiretest.Valid(-time.Hour, 2500*time.Millisecond)}
	log := a.open(wire.Log)
	log.send(a.begin())
	a.arrived()
	log.refused(wire.CodeCertExpired)
}

// TestAClone: while an agent lives, nobody else may speak for its machine; when it is
// dead, its successor need not wait for a timeout.
func TestAClone(t *testing.T) {
	s := newStage(t, nil)
	a := s.agent()
	log := a.open(wire.Log)
	clone := *a
	clone.instance = wire.NewInstance()
	for _, ch := range []wire.Channel{wire.Control, wire.Log, wire.Base} {
		_, err := clone.dial(ch, false)
		if !errors.Is(err, &wire.Error{Code: wire.CodeIdentityInUse}) {
			t.Fatalf("the clone's %s channel: %v", ch, err)
		}
	}
	if e := s.event(relay.EventIdentityConflict); e.Machine != a.machine || e.Remedy == "" {
		t.Errorf("event %+v", e)
	}
	log.send(a.begin())
	a.arrived() // the first was not disturbed

	dead := s.agent()
	if _, err := dead.dial(wire.Control, true); err != nil {
		t.Fatal(err)
	}
	old, err := dead.dial(wire.Log, true)
	if err != nil {
		t.Fatal(err)
	}
	dead.instance = wire.NewInstance()
	dead.open(wire.Log)
	old.refused(wire.CodeReplaced)
}

// TestAnAgentThatDialsAgain replaces its own session, whatever is left of it.
func TestAnAgentThatDialsAgain(t *testing.T) {
	s := newStage(t, nil)
	a := s.agent()
	log := a.open(wire.Log)
	base := a.join(wire.Base)
	log.send(a.begin())
	a.arrived()
	again := a.open(wire.Log)
	log.refused(wire.CodeReplaced)
	base.refused(wire.CodeReplaced)
	if again.welcome.Spooled != 1 || again.welcome.Epoch != 1 {
		t.Errorf("welcome %+v", again.welcome)
	}
}

func TestTooManyMachines(t *testing.T) {
	s := newStage(t, func(c *relay.Config) { c.Machines = 2 })
	s.agent().open(wire.Log)
	b := s.agent()
	b.open(wire.Log)
	if _, err := s.agent().dial(wire.Control, false); !errors.Is(err, &wire.Error{Code: wire.CodeBusy}) {
		t.Errorf("got %v", err)
	}
	b.join(wire.Base) // a session that is there is not hurt
}

func TestHashesAreOfItsOwnMachine(t *testing.T) {
	s := newStage(t, nil)
	a := s.agent()
	disk := block.DiskIDFromName("d")
	s.vault.OnHashes(func(m block.MachineID, at block.Position, d block.DiskID, off, n, granule int64) ([]block.Hash16, error) {
		if m != a.machine {
			t.Errorf("hashes of machine %s were asked", m)
		}
		if d != disk {
			return nil, errors.New("no such disk")
		}
		return make([]block.Hash16, (n+granule-1)/granule), nil
	})
	k, err := a.dial(wire.Control, false)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		r    wire.HashRequest
		want wire.Code
		n    int
	}{
		"three granules":     {wire.HashRequest{Disk: disk, Off: 8192, Len: 3 * 4096, Granule: 4096}, "", 3},
		"a short last one":   {wire.HashRequest{Disk: disk, Len: 65536 + 512, Granule: 65536}, "", 2},
		"too many":           {wire.HashRequest{Disk: disk, Len: (wire.MaxHashes + 1) * 4096, Granule: 4096}, wire.CodeHashesRefused, 0},
		"another granule":    {wire.HashRequest{Disk: disk, Len: 512, Granule: 512}, wire.CodeHashesRefused, 0},
		"zero granule":       {wire.HashRequest{Disk: disk, Len: 512}, wire.CodeHashesRefused, 0},
		"overflowing range":  {wire.HashRequest{Disk: disk, Off: 1 << 62, Len: 1 << 62, Granule: 4096}, wire.CodeHashesRefused, 0},
		"negative":           {wire.HashRequest{Disk: disk, Off: -4096, Len: 4096, Granule: 4096}, wire.CodeHashesRefused, 0},
		"a disk not there":   {wire.HashRequest{Disk: block.DiskIDFromName("e"), Len: 4096, Granule: 4096}, wire.CodeHashesFailed, 0},
		"nobody's disk":      {wire.HashRequest{Len: 4096, Granule: 4096}, wire.CodeHashesRefused, 0},
		"in between granule": {wire.HashRequest{Disk: disk, Off: 512, Len: 4096, Granule: 4096}, wire.CodeHashesRefused, 0},
	} {
		c.r.ID = uint64(len(name))
		if err := k.Write(c.r); err != nil {
			t.Fatal(err)
		}
		if r := <-k.replies; r.ID != c.r.ID || r.Code != c.want || len(r.Hashes) != c.n {
			t.Errorf("%s: %d hashes, code %q", name, len(r.Hashes), r.Code)
		}
	}
}

func TestStrangersAreNamed(t *testing.T) {
	s := newStage(t, nil)
	foreign := wiretest.NewCA(t)
	conf := wire.AgentTLS(wire.Fixed(foreign.Agent(block.NewMachineID())), s.ca.Roots())
	if l, err := wire.Dial(t.Context(), s.server.Addr().String(), conf, wire.TCP); err == nil {
		stream, err := l.Open(t.Context())
		if err == nil {
			_, err = wire.Greet(stream, wire.RoleAgent, "stranger")
		}
		if !errors.Is(err, wire.ErrPeerRefusedUs) {
			t.Errorf("the stranger is told %v", err)
		}
		_ = l.Close()
	}
	if e := s.event(relay.EventHandshakeRefused); !strings.Contains(e.Message, "not from this control plane") {
		t.Errorf("event %+v", e)
	}
}
