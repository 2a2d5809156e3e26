package relay_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-dr/understudy/controlplane/relay"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// TestVaultDownThenUp: frames are acknowledged as spooled while the vault refuses them,
// the operator is told what to do, and everything is committed when it is back.
func TestVaultDownThenUp(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want relay.EventType
	}{
		"unreachable": {errors.New("connection refused"), relay.EventVaultUnreachable},
		"full":        {fmt.Errorf("disk: %w", relay.ErrVaultFull), relay.EventVaultFull},
		"read-only":   {fmt.Errorf("mount: %w", relay.ErrVaultReadOnly), relay.EventVaultReadOnly},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, nil)
			var down atomic.Bool
			s.vault.OnCommit(func(context.Context, block.MachineID) error {
				if down.Load() {
					return c.err
				}
				return nil
			})
			a := s.agent()
			log := a.open(wire.Log)
			log.send(a.begin())
			a.arrived()
			down.Store(true)
			log.send(a.write(512), a.write(512))
			s.eventually("spooled", func() bool { return log.acked().Spooled == uint64(a.last) })
			if e := s.event(c.want); e.Remedy == "" || e.Machine != a.machine {
				t.Errorf("event %+v", e)
			}
			if log.acked().Committed != 1 {
				t.Errorf("committed %d", log.acked().Committed)
			}
			if st, _ := s.server.Status(a.machine); st.LastError == "" || st.SpoolFrames != 2 || st.Committed.Seq != 1 || st.Spooled.Seq != 3 {
				t.Errorf("status %+v", st)
			}
			down.Store(false)
			a.arrived()
			s.event(relay.EventVaultRecovered)
			s.eventually("committed is told", func() bool { return log.acked().Committed == uint64(a.last) })
			if st, _ := s.server.Status(a.machine); st.LastError != "" || st.SpoolBytes != 0 {
				t.Errorf("status %+v", st)
			}
		})
	}
}

// TestAVaultThatCannotSayWhere keeps a machine out that nothing is known of, with a
// reason, until it can.
func TestAVaultThatCannotSayWhere(t *testing.T) {
	s := newStage(t, nil)
	var down atomic.Bool
	down.Store(true)
	s.vault.OnOpen(func(block.MachineID) error {
		if down.Load() {
			return errors.New("no route to host")
		}
		return nil
	})
	a := s.agent()
	if _, err := a.dial(wire.Control, false); !errors.Is(err, &wire.Error{Code: wire.CodeVaultDown}) {
		t.Fatalf("got %v", err)
	}
	s.event(relay.EventVaultUnreachable)
	down.Store(false)
	log := a.open(wire.Log)
	log.send(a.begin())
	a.arrived()
	s.event(relay.EventVaultRecovered)
}

// TestAnAnswerThatWasLost: the vault took the frames and the relay did not hear it.
func TestAnAnswerThatWasLost(t *testing.T) {
	s := newStage(t, nil)
	var n atomic.Int32
	s.vault.AfterCommit(func(block.MachineID) error {
		if n.Add(1)%2 == 1 {
			return errors.New("timeout")
		}
		return nil
	})
	a := s.agent()
	log := a.open(wire.Log)
	log.send(a.begin())
	for range 5 {
		log.send(a.write(512))
		a.arrived()
	}
	s.eventually("committed is told", func() bool { return log.acked().Committed == uint64(a.last) })
}

// TestASlowMachineStallsNobody: one machine's vault hangs; others commit on.
func TestASlowMachineStallsNobody(t *testing.T) {
	s := newStage(t, func(c *relay.Config) { c.Workers = 2 })
	slow, fast := s.agent(), s.agent()
	release := make(chan struct{})
	s.vault.OnCommit(func(_ context.Context, m block.MachineID) error {
		if m == slow.machine {
			<-release
		}
		return nil
	})
	stuck := slow.open(wire.Log)
	stuck.send(slow.begin(), slow.write(512))
	log := fast.open(wire.Log)
	log.send(fast.begin())
	for range 20 {
		log.send(fast.write(64 << 10))
		fast.arrived()
	}
	s.eventually("the slow one is spooled", func() bool { return stuck.acked().Spooled == 2 })
	if s.vault.State(slow.machine).Last.Seq != 0 {
		t.Error("the slow one was not slow")
	}
	close(release)
	slow.arrived()
}

func TestALostLeaseIsTakenBack(t *testing.T) {
	s := newStage(t, nil)
	a := s.agent()
	log := a.open(wire.Log)
	log.send(a.begin())
	a.arrived()
	if _, err := s.vault.OpenWriter(t.Context(), a.machine); err != nil { // another relay
		t.Fatal(err)
	}
	log.send(a.write(512))
	a.arrived()
	if e := s.event(relay.EventLeaseLost); e.Remedy == "" {
		t.Errorf("event %+v", e)
	}
}

// TestAVaultSetBack ends behind nothing the spool continues: the agent is told the
// vault's position and begins anew.
func TestAVaultSetBack(t *testing.T) {
	s := newStage(t, nil)
	a := s.agent()
	log := a.open(wire.Log)
	log.send(a.begin(), a.write(512), a.write(512))
	a.arrived()
	s.vault.Rollback(a.machine, 2)
	log.send(a.write(512))
	log.refused(wire.CodeChainGap)
	if e := s.event(relay.EventSpoolDiverged); e.Machine != a.machine {
		t.Errorf("event %+v", e)
	}
	again := a.open(wire.Log)
	if w := again.welcome; w.Spooled != 2 || w.Committed != 2 || w.Epoch != 1 {
		t.Fatalf("welcome %+v", w)
	}
	a.sent, a.last = a.sent[:2], 2
	again.send(a.begin(), a.write(512))
	a.arrived()
}

// TestBaseCompleteWaitsForItsBase sends the mark first. The vault double panics if the
// relay lets it through.
func TestBaseCompleteWaitsForItsBase(t *testing.T) {
	s := newStage(t, nil)
	a := s.agent()
	log := a.open(wire.Log)
	log.send(a.begin(), a.write(512), a.complete(3), a.write(512))
	s.eventually("what may be committed is", func() bool { return s.vault.State(a.machine).Last.Seq == 2 })
	base := a.join(wire.Base)
	base.send(a.base(1, 512), a.base(2, 512))
	s.eventually("the base so far", func() bool { return base.acked().Committed == 2 })
	if at := s.vault.State(a.machine).Last.Seq; at != 2 {
		t.Fatalf("the log went on to %d without its base", at)
	}
	base.send(a.base(3, 512))
	a.arrived()
	if ack := base.acked(); ack.Epoch != 1 {
		t.Errorf("base ack %+v", ack)
	}
}

// TestBaseWaitsForItsEpoch sends base frames before the log says that the epoch began.
func TestBaseWaitsForItsEpoch(t *testing.T) {
	s := newStage(t, nil)
	a := s.agent()
	base := a.open(wire.Base)
	begin := a.begin()
	base.send(a.base(1, 512))
	s.eventually("spooled", func() bool { return base.acked().Spooled == 1 })
	a.join(wire.Log).send(begin)
	s.eventually("committed", func() bool { return base.acked().Committed == 1 })
}

// TestABaseThatNeverComes does not hold the log for ever once a newer epoch has begun.
func TestABaseThatNeverComes(t *testing.T) {
	s := newStage(t, nil)
	a := s.agent()
	s.vault.AllowMissingBase()
	log := a.open(wire.Log)
	log.send(a.begin(), a.complete(3), a.write(512))
	s.eventually("the mark is held", func() bool { return s.vault.State(a.machine).Last.Seq == 1 && log.acked().Spooled == 3 })
	log.send(a.begin(), a.write(512))
	a.arrived()
	if e := s.event(relay.EventBaseMissing); e.Machine != a.machine {
		t.Errorf("event %+v", e)
	}
}

// TestBasesOfTwoEpochs: a base that was cut short stays, and the next one follows it.
func TestBasesOfTwoEpochs(t *testing.T) {
	s := newStage(t, nil)
	a := s.agent()
	log := a.open(wire.Log)
	base := a.join(wire.Base)
	log.send(a.begin())
	base.send(a.base(1, 512), a.base(2, 512))
	s.eventually("spooled", func() bool { return base.acked().Spooled == 2 })
	log.send(a.begin())
	base.send(a.base(1, 1024), a.base(2, 1024))
	log.send(a.complete(2))
	a.arrived()
	if a, b := len(s.vault.Base(a.machine, 1)), len(s.vault.Base(a.machine, 2)); a != 2 || b != 2 {
		t.Errorf("%d and %d base frames", a, b)
	}
}

// TestALateBaseIsAcknowledgedAndDropped: base frames of an epoch that is over in the
// vault must not change what lies below the next one: its copies are compared with it.
func TestALateBaseIsAcknowledgedAndDropped(t *testing.T) {
	s := newStage(t, nil)
	a := s.agent()
	log := a.open(wire.Log)
	base := a.join(wire.Base)
	log.send(a.begin())
	late := a.base(1, 512)
	log.send(a.begin())
	s.eventually("the second epoch is in the vault", func() bool { return s.vault.State(a.machine).Last.Epoch == 2 })
	base.send(late)
	s.eventually("spooled", func() bool { return base.acked().Spooled == 1 })
	base.send(a.base(1, 1024))
	log.send(a.complete(1))
	a.arrived()
	if a, b := len(s.vault.Base(a.machine, 1)), len(s.vault.Base(a.machine, 2)); a != 0 || b != 1 {
		t.Errorf("%d and %d base frames", a, b)
	}
}

// TestAnIdleMachineMakesFewObjects: ticks alone wait for the whole RPO target.
func TestAnIdleMachineMakesFewObjects(t *testing.T) {
	const target = 600 * time.Millisecond
	s := newStage(t, func(c *relay.Config) {
		c.Authorize = func(context.Context, block.MachineID, string) (relay.Policy, error) {
			return relay.Policy{RPOTarget: target}, nil
		}
	})
	a := s.agent()
	log := a.open(wire.Log)
	log.send(a.begin())
	a.arrived()
	start, before := time.Now(), s.vault.Objects(a.machine)
	for time.Since(start) < 3*target {
		log.send(a.tick())
		time.Sleep(20 * time.Millisecond)
	}
	a.arrived()
	most := int(time.Since(start)/target) + 1
	if n := s.vault.Objects(a.machine) - before; n > most || n < 1 {
		t.Errorf("%d objects for ticks of %v, want at most %d", n, time.Since(start), most)
	}
	// A write is not made to wait for that long.
	start = time.Now()
	log.send(a.write(512))
	a.arrived()
	if d := time.Since(start); d > target*2/3 {
		t.Logf("a write took %v to the vault with a target of %v", d, target)
	}
}

// TestRestart stops the relay with frames that the vault has not taken, in every
// state, and starts it again on the same spool.
func TestRestart(t *testing.T) {
	s := newStage(t, nil)
	var down atomic.Bool
	s.vault.OnCommit(func(context.Context, block.MachineID) error {
		if down.Load() {
			return errors.New("down")
		}
		return nil
	})
	a := s.agent()
	for round := range 4 {
		log := a.open(wire.Log)
		if round > 0 && log.welcome.Spooled != a.last {
			t.Fatalf("round %d: welcome %+v, %d were acknowledged", round, log.welcome, a.last)
		}
		log.send(a.begin())
		base := a.join(wire.Base)
		base.send(a.base(1, 512), a.base(2, 512))
		s.eventually("the base is spooled", func() bool { return base.acked().Spooled == 2 })
		down.Store(round%2 == 0)
		log.send(a.write(100<<10), a.complete(2), a.write(512))
		s.eventually("spooled", func() bool { return log.acked().Spooled == uint64(a.last) })
		s.stop()
		down.Store(false)
		s.start()
		a.arrived() // without the agent
	}
}

// TestARestartWithoutTheVault knows every position from the spool alone.
func TestARestartWithoutTheVault(t *testing.T) {
	s := newStage(t, nil)
	a := s.agent()
	log := a.open(wire.Log)
	log.send(a.begin(), a.write(512))
	a.arrived()
	var down atomic.Bool
	down.Store(true)
	fail := func() error {
		if down.Load() {
			return errors.New("down")
		}
		return nil
	}
	s.vault.OnCommit(func(context.Context, block.MachineID) error { return fail() })
	s.vault.OnOpen(func(block.MachineID) error { return fail() })
	log.send(a.write(512))
	s.eventually("spooled", func() bool { return log.acked().Spooled == 3 })
	s.stop()
	s.start()
	again := a.open(wire.Log)
	if again.welcome.Spooled != 3 || again.welcome.Epoch != 1 {
		t.Fatalf("welcome %+v", again.welcome)
	}
	again.send(a.write(512))
	s.eventually("spooled", func() bool { return again.acked().Spooled == 4 })
	down.Store(false)
	a.arrived()
}

// TestALostSpool: the relay comes back with an empty spool; the agent is told what the
// vault has and finds out for itself.
func TestALostSpool(t *testing.T) {
	s := newStage(t, nil)
	a := s.agent()
	log := a.open(wire.Log)
	log.send(a.begin(), a.write(512))
	a.arrived()
	s.vault.OnCommit(func(context.Context, block.MachineID) error { return errors.New("down") })
	log.send(a.write(512))
	s.eventually("spooled", func() bool { return log.acked().Spooled == 3 })
	s.stop()
	s.conf.SpoolDir = t.TempDir()
	s.vault.OnCommit(nil)
	s.start()
	if w := a.open(wire.Log).welcome; w.Spooled != 2 || w.Committed != 2 {
		t.Errorf("welcome %+v", w)
	}
}

func TestStatusAndMetrics(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	s := newStage(t, func(c *relay.Config) { c.Registerer = reg })
	a := s.agent()
	log := a.open(wire.Log)
	log.send(a.begin(), a.write(100<<10))
	a.arrived()
	s.eventually("the status follows", func() bool {
		st, ok := s.server.Status(a.machine)
		return ok && st.Connected && st.Remote != "" && st.Transport == wire.TCP && st.AgentVersion == "hand" &&
			st.Committed.Seq == 2 && !st.Committed.Closed.IsZero() && st.Bytes > 100<<10 && st.BytesPerSec > 0 && !st.LastHeard.IsZero()
	})
	if n := len(s.server.Statuses()); n != 1 {
		t.Errorf("%d machines", n)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			got[f.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for name, want := range map[string]float64{"frames_total": 2, "sessions": 1, "spool_failing": 0, "spool_bytes": 0} {
		if got["understudy_relay_"+name] != want {
			t.Errorf("%s is %v, want %v", name, got["understudy_relay_"+name], want)
		}
	}
	for _, name := range []string{"spool_sync_seconds", "commit_seconds", "objects_total", "object_bytes_total", "spool_disk_bytes"} {
		if got["understudy_relay_"+name] == 0 {
			t.Errorf("%s is zero", name)
		}
	}
	_ = log.Close()
}

// TestLargeObjectsForABacklog: what gathered while the vault was down goes in fewer,
// larger objects, none beyond its bound.
func TestLargeObjectsForABacklog(t *testing.T) {
	s := newStage(t, func(c *relay.Config) { c.Object = 1 << 20 })
	hold := make(chan struct{})
	s.vault.OnCommit(func(context.Context, block.MachineID) error { <-hold; return nil })
	a := s.agent()
	log := a.open(wire.Log)
	log.send(a.begin())
	for range 40 {
		log.send(a.write(256 << 10))
	}
	s.eventually("spooled", func() bool { return log.acked().Spooled == uint64(a.last) })
	close(hold)
	a.arrived()
	if n := s.vault.Objects(a.machine); n > 6 {
		t.Errorf("%d objects for a backlog of 10 MiB", n)
	}
}

// TestAnAgentThatWasElsewhere: while it was disconnected, another relay took its
// frames. This one asks the vault again instead of trusting what it knew.
func TestAnAgentThatWasElsewhere(t *testing.T) {
	s := newStage(t, nil)
	a := s.agent()
	log := a.open(wire.Log)
	log.send(a.begin())
	a.arrived()
	s.server.Disconnect(a.machine, "test", "")
	log.refused(wire.CodeUnauthorised)
	w, err := s.vault.OpenWriter(t.Context(), a.machine)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context(), [][]byte{a.write(512), a.write(512)}); err != nil {
		t.Fatal(err)
	}
	again := a.open(wire.Log)
	if again.welcome.Spooled != 3 {
		t.Fatalf("welcome %+v", again.welcome)
	}
	again.send(a.write(512))
	a.arrived()
	s.server.Disconnect(a.machine, "test", "")
	again.refused(wire.CodeUnauthorised)
	// With the vault out of reach, what is known is better than nothing.
	s.vault.OnOpen(func(block.MachineID) error { return errors.New("down") })
	if w := a.open(wire.Log).welcome; w.Spooled != 4 {
		t.Errorf("welcome %+v", w)
	}
}

func TestAStopIsAnnounced(t *testing.T) {
	s := newStage(t, nil)
	log := s.agent().open(wire.Log)
	s.stop()
	log.refused(wire.CodeShuttingDown)
}

// TestAPolicyReachesAConnectedMachine: under a target of an hour a small write waits in
// the spool; told of a target of a second, the relay puts it into the vault at once.
func TestAPolicyReachesAConnectedMachine(t *testing.T) {
	s := newStage(t, func(c *relay.Config) {
		c.Authorize = func(context.Context, block.MachineID, string) (relay.Policy, error) {
			return relay.Policy{RPOTarget: time.Hour}, nil
		}
	})
	a := s.agent()
	log := a.open(wire.Log)
	log.send(a.begin())
	a.arrived() // marks do not wait
	log.send(a.write(512))
	s.eventually("spooled", func() bool { st, _ := s.server.Status(a.machine); return st.Spooled.Seq == a.last })
	if s.vault.State(a.machine).Last.Seq == a.last {
		t.Fatal("it did not wait: the test proves nothing")
	}
	s.server.SetPolicy(a.machine, relay.Policy{RPOTarget: time.Second})
	a.arrived()
}
