package transport

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/agent/ship"
	"github.com/understudy-dr/understudy/controlplane/relay"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// TestSpoolFull: the vault is down for longer than the spool lasts. Agents are slowed
// down by credit and not cut, the relay stays within its bound, and when the vault is
// back everything goes on by itself.
func TestSpoolFull(t *testing.T) {
	t.Parallel() // it waits for a heartbeat's timeout
	s := newStage(t, func(c *relay.Config) { c.SpoolLimit, c.Segment, c.PerMachine = 160<<20, 40<<20, 64<<20 })
	var down atomic.Bool
	down.Store(true)
	s.vault.OnCommit(func(context.Context, block.MachineID) error {
		if down.Load() {
			return errors.New("down")
		}
		return nil
	})
	var journals []*journal
	var clients []*ship.Client
	for range 4 {
		j := newJournal(t)
		j.begin(frame.ReasonInitial)
		for range 80 {
			j.write(1 << 20)
		}
		c, _ := s.ship(j, nil)
		journals, clients = append(journals, j), append(clients, c)
	}
	stuck := func() bool {
		for i, c := range clients {
			// Before its first session an agent has no credit, either.
			if st := c.Stats(); st.Spooled == 0 || st.LogCredit > 0 || st.Spooled == journals[i].newest() {
				return false
			}
		}
		return true
	}
	eventually(t, "nobody has credit", stuck)
	time.Sleep(wire.HeartbeatTimeout + time.Second) // nobody is taken for dead either
	for i, c := range clients {
		st := c.Stats()
		if !st.Connected || st.Sessions != 1 {
			t.Errorf("agent %d was cut: %+v", i, st)
		}
	}
	if used := diskUse(t, s.conf.SpoolDir); used > s.conf.SpoolLimit || used < 80<<20 {
		t.Errorf("%d bytes in a spool of %d", used, s.conf.SpoolLimit)
	}
	down.Store(false)
	for _, j := range journals {
		s.arrived(j)
	}
}

// diskUse is the size of all files in a directory.
func diskUse(t *testing.T, dir string) (n int64) {
	t.Helper()
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if i, err := f.Info(); err == nil {
			n += i.Size()
		}
	}
	return n
}

// TestAutoTakesTheWayThatIsOpen: TCP where it connects, QUIC where it does not, and no
// second try with a relay that refused.
func TestAutoTakesTheWayThatIsOpen(t *testing.T) {
	s, j := newStage(t, nil), newJournal(t)
	link, err := wire.Dial(t.Context(), s.conf.Addr, s.ca.AgentTLS(j.machine), wire.Auto)
	if err != nil || link.Transport() != wire.TCP {
		t.Fatalf("got %v, %v", link, err)
	}
	_ = link.Close()

	// The same port by UDP only: a socket that passes datagrams on.
	addr := udpOnly(t, s.conf.Addr)
	link, err = wire.Dial(t.Context(), addr, s.ca.AgentTLS(j.machine), wire.Auto)
	if err != nil || link.Transport() != wire.QUIC {
		t.Fatalf("got %v, %v", link, err)
	}
	_ = link.Close()

	if _, err = wire.Dial(t.Context(), addr, s.ca.AgentTLS(j.machine), wire.TCP); err == nil || !strings.Contains(err.Error(), "by TCP") {
		t.Errorf("TCP alone: %v", err)
	}
	if _, err = wire.Dial(t.Context(), s.conf.Addr, s.ca.AgentTLS(j.machine), "pigeon"); err == nil {
		t.Error("an unknown transport was taken")
	}
}

// udpOnly is an address where only UDP is passed on to target.
func udpOnly(t *testing.T, target string) string {
	t.Helper()
	in, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out, err := net.Dial("udp", target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = out.Close() })
	var agent atomic.Value
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := in.ReadFrom(buf)
			if err != nil {
				return
			}
			agent.Store(from)
			_, _ = out.Write(buf[:n])
		}
	}()
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := out.Read(buf)
			if err != nil {
				return
			}
			_, _ = in.WriteTo(buf[:n], agent.Load().(net.Addr))
		}
	}()
	return in.LocalAddr().String()
}

// TestAThrottledAgent keeps to the relay's bound.
func TestAThrottledAgent(t *testing.T) {
	const rate = 2 << 20
	s := newStage(t, func(c *relay.Config) {
		c.Authorize = func(context.Context, block.MachineID, string) (relay.Policy, error) {
			return relay.Policy{RPOTarget: 100 * time.Millisecond, Throttle: rate}, nil
		}
	})
	j := newJournal(t)
	j.begin(frame.ReasonInitial)
	for range 40 {
		j.write(64 << 10)
	}
	start := time.Now()
	s.ship(j, nil)
	s.arrived(j)
	if took, least := time.Since(start), time.Second*(40*64<<10)/rate-400*time.Millisecond; took < least {
		t.Errorf("took %v, at this rate it takes %v at least", took, least)
	}
}

// TestManyMachines: each has its own log and all arrive.
func TestManyMachines(t *testing.T) {
	s := newStage(t, nil)
	var journals []*journal
	for range 60 {
		j := newJournal(t)
		j.begin(frame.ReasonInitial)
		s.ship(j, func(c *ship.Config) { c.Log = nil })
		journals = append(journals, j)
	}
	for range 5 {
		for _, j := range journals {
			j.write(4096)
		}
	}
	for _, j := range journals {
		s.arrived(j)
	}
}

// TestTwoOfOneIdentity: a clone of a protected machine stays outside with a reason, and
// the machine itself goes on undisturbed.
func TestTwoOfOneIdentity(t *testing.T) {
	s, j := newStage(t, nil), newJournal(t)
	j.begin(frame.ReasonInitial)
	first, _ := s.ship(j, nil)
	eventually(t, "the first is connected", func() bool { return first.Stats().Connected })
	clone, _ := s.ship(j, nil)
	eventually(t, "the clone knows why", func() bool {
		return strings.Contains(clone.Stats().LastError, string(wire.CodeIdentityInUse)) && strings.Contains(clone.Stats().LastError, "enrol")
	})
	for range 20 {
		j.write(4096)
	}
	s.arrived(j)
	if st := first.Stats(); st.Sessions != 1 || clone.Stats().Sessions != 0 {
		t.Errorf("the first had %d sessions, the clone %d", st.Sessions, clone.Stats().Sessions)
	}
}
