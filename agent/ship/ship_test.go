package ship

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
	"github.com/understudy-dr/understudy/pkg/wire"
)

// bubble runs a test in fake time; its cleanups, too.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

func TestItGoesOnBehindWhatTheRelayHas(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newFakeRelay(t)
		r.welcome.Epoch, r.welcome.Spooled, r.welcome.Committed = 1, 5, 3
		var acks []block.Seq
		c := run(t, r, func(conf *Config) {
			conf.Frames = endless{last: 9}
			conf.Newest = func() block.Position { return block.Position{Epoch: 1, Seq: 9} }
			conf.OnLogAck = func(_ context.Context, spooled, _ block.Seq) { acks = append(acks, spooled) }
		})
		synctest.Wait()
		got := r.frames(wire.Log)
		if len(got) != 4 || got[0].First != 6 || got[3].Last != 9 {
			t.Errorf("sent %v", got)
		}
		st := c.Stats()
		if !st.Connected || st.Spooled != 9 || st.Committed != 0 || st.LogFrames != 4 || st.Transport != wire.TCP || st.Sessions != 1 {
			t.Errorf("stats %+v", st)
		}
		if len(acks) == 0 || acks[len(acks)-1] != 9 {
			t.Errorf("acks %v", acks)
		}
		for _, h := range r.hellos {
			if h.Machine != machine || h.Instance != c.instance || h.LastSeq != 9 || h.Epoch != 1 {
				t.Errorf("hello %+v", h)
			}
		}
		if r.hellos[0].Channel != wire.Control || r.hellos[1].Channel != wire.Log || len(r.hellos) != 2 {
			t.Errorf("channels in the order %v; control comes first and base only when needed", r.hellos)
		}
	})
}

func TestWelcomeDecidesWhereToGoOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newFakeRelay(t)
		r.welcome.Spooled = 5
		tries := 0
		run(t, r, func(conf *Config) {
			conf.Frames = endless{last: 40}
			conf.OnWelcome = func(_ context.Context, w wire.Welcome) (block.Seq, error) {
				if tries++; tries == 1 {
					return 0, errors.New("not yet")
				}
				return 30, nil
			}
		})
		synctest.Wait()
		if len(r.frames(wire.Log)) != 0 {
			t.Error("frames were sent though the position was not accepted")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := r.frames(wire.Log); len(got) != 10 || got[0].First != 31 {
			t.Errorf("sent %v", got)
		}
	})
}

func TestCreditIsKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newFakeRelay(t)
		tick := uint64(frame.HeaderSize)
		r.welcome.Credit = tick + 1 // a second frame may begin, a third not
		c := run(t, r, func(conf *Config) { conf.Frames = endless{last: 100} })
		synctest.Wait()
		if n := len(r.frames(wire.Log)); n != 2 {
			t.Fatalf("%d frames on a credit of %d bytes", n, r.welcome.Credit)
		}
		time.Sleep(time.Minute)
		if n := len(r.frames(wire.Log)); n != 2 || c.Stats().Sessions != 1 {
			t.Fatalf("%d frames, %d sessions after a minute without credit", n, c.Stats().Sessions)
		}
		r.set(func() { r.welcome.Credit = 10 * tick })
		if err := r.conns[wire.Log].Write(r.ack(wire.Log)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := len(r.frames(wire.Log)); n != 10 {
			t.Errorf("%d frames on a credit of ten", n)
		}
	})
}

func TestHeartbeats(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newFakeRelay(t)
		c := run(t, r, nil)
		time.Sleep(10*wire.HeartbeatInterval + time.Second)
		synctest.Wait()
		for _, ch := range []wire.Channel{wire.Control, wire.Log} {
			if n := r.pings[ch]; n < 10 {
				t.Errorf("%d pings on the %s channel in ten intervals", n, ch)
			}
		}
		if c.Stats().Sessions != 1 {
			t.Errorf("%d sessions", c.Stats().Sessions)
		}
		// The relay asks whether this instance lives.
		if err := r.conns[wire.Control].Write(wire.Ping{ID: 7}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if r.pongs != 1 {
			t.Errorf("%d pongs", r.pongs)
		}
	})
}

func TestADeadRelayIsNoticedAndDialledAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newFakeRelay(t)
		c := run(t, r, nil)
		synctest.Wait()
		r.set(func() { r.dead = true })
		start := time.Now()
		for c.Stats().Connected {
			time.Sleep(time.Second)
		}
		if took := time.Since(start); took > wire.HeartbeatTimeout+2*time.Second {
			t.Errorf("noticed after %v", took)
		}
		if c.Stats().LastError == "" {
			t.Error("no reason in the stats")
		}
		r.set(func() { r.dead = false })
		time.Sleep(time.Minute)
		if st := c.Stats(); !st.Connected || st.LastError != "" || st.Sessions != 2 {
			t.Errorf("stats %+v", st)
		}
	})
}

func TestBackoffDoublesAndRefusalsAreNotPestered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newFakeRelay(t)
		r.refuse = wire.Refuse(wire.CodeVaultDown, "wait", "the vault is down")
		c := run(t, r, nil)
		time.Sleep(time.Minute)
		synctest.Wait()
		r.mu.Lock()
		for i := 2; i < len(r.dials); i++ {
			if a, b := r.dials[i-1].Sub(r.dials[i-2]), r.dials[i].Sub(r.dials[i-1]); b != min(2*a, DefaultMaxBackoff) {
				t.Errorf("pause %d is %v after %v", i, b, a)
			}
		}
		n := len(r.dials)
		r.refuse = wire.Refuse(wire.CodeIdentityInUse, "enrol the clone", "taken")
		r.mu.Unlock()
		if n < 8 {
			t.Errorf("%d dials in a minute", n)
		}
		time.Sleep(time.Minute)
		if err := c.Stats().LastError; !strings.Contains(err, "identity-in-use") || !strings.Contains(err, "enrol the clone") {
			t.Errorf("last error %q", err)
		}
	})
	b := Backoff{Min: time.Second, Max: time.Minute, Rand: func() float64 { return 0 }}
	if d := b.wait(0, &wire.Error{Code: wire.CodeUnauthorised}); d != 30*time.Second {
		t.Errorf("a refused machine comes back after %v", d)
	}
	if d := b.wait(100, nil); d != 30*time.Second {
		t.Errorf("the hundredth pause is %v", d)
	}
}

// TestProgressIsNotPunished: on a line that breaks often each session brings the log a
// little further, and the next one comes as soon as the first.
func TestProgressIsNotPunished(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newFakeRelay(t)
		c := run(t, r, nil)
		for n := range 12 {
			time.Sleep(2 * DefaultMinBackoff)
			synctest.Wait()
			if !c.Stats().Connected {
				t.Fatalf("not connected again half a second after cut %d", n)
			}
			r.set(func() { r.welcome.Spooled++ })
			r.cut()
		}
	})
}

func TestBaseFramesAreOrderedPacedAndFlushed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newFakeRelay(t)
		r.welcome.BaseEpoch, r.welcome.SpooledBase = 1, 2
		r.silent = true // nothing is acknowledged
		c := run(t, r, func(conf *Config) { conf.BaseMemory = 3 << 20 })
		synctest.Wait()
		for _, bad := range []struct {
			epoch block.Epoch
			n     uint64
		}{{1, 2}, {1, 4}, {2, 2}} {
			if err := c.SendBase(t.Context(), baseFrame(t, bad.epoch, bad.n, 512), bad.n); !errors.Is(err, ErrBaseOrder) {
				t.Errorf("frame %d of epoch %d: %v", bad.n, bad.epoch, err)
			}
		}
		if err := c.SendBase(t.Context(), baseFrame(t, 1, 3, 512), 4); err == nil {
			t.Error("a frame under another number was taken")
		}
		for n := uint64(3); n <= 5; n++ {
			if err := c.SendBase(t.Context(), baseFrame(t, 1, n, 1<<20), n); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if got := r.frames(wire.Base); len(got) != 3 || got[0].First != 3 {
			t.Fatalf("sent %v", got)
		}
		flushed := make(chan error, 1)
		go func() { flushed <- c.FlushBase(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-flushed:
			t.Fatalf("flushed before anything was spooled: %v", err)
		default:
		}
		if err := r.conns[wire.Base].Write(r.ack(wire.Base)); err != nil {
			t.Fatal(err)
		}
		if err := <-flushed; err != nil {
			t.Fatal(err)
		}
		if err := c.SendBase(t.Context(), baseFrame(t, 2, 1, 512), 1); err != nil {
			t.Errorf("the next epoch: %v", err)
		}
	})
}

func TestBaseMemoryIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newFakeRelay(t)
		r.welcome.Credit = 1 // one frame may begin
		r.silent = true
		c := run(t, r, func(conf *Config) { conf.BaseMemory = 3 << 20 })
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		n := uint64(1)
		var err error
		for ; err == nil; n++ {
			err = c.SendBase(ctx, baseFrame(t, 1, n, 1<<20), n)
		}
		if !errors.Is(err, context.DeadlineExceeded) || n > 6 {
			t.Errorf("%d frames of 1 MiB went in, then %v", n-2, err)
		}
		if st := c.Stats(); st.BaseQueueBytes > 3<<20 {
			t.Errorf("%d bytes queued", st.BaseQueueBytes)
		}
	})
}

// TestBaseBeginsAnewBehindEachWelcome: what was queued is forgotten, what is spooled is
// told, and a copy that was stopped puts nothing in any more.
func TestBaseBeginsAnewBehindEachWelcome(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newFakeRelay(t)
		r.welcome.Credit = 1
		r.silent = true
		var welcomes []uint64
		old, stopOld := context.WithCancel(t.Context())
		c := run(t, r, func(conf *Config) {
			conf.OnWelcome = func(_ context.Context, w wire.Welcome) (block.Seq, error) {
				if welcomes = append(welcomes, w.SpooledBase); len(welcomes) == 2 {
					stopOld()
				}
				return w.Spooled, nil
			}
		})
		for n := uint64(1); n <= 5; n++ {
			if err := c.SendBase(old, baseFrame(t, 1, n, 512), n); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		r.set(func() { r.welcome.BaseEpoch, r.welcome.SpooledBase, r.welcome.Credit = 1, 1, 1<<30 })
		r.cut()
		time.Sleep(time.Second)
		synctest.Wait()
		if err := c.SendBase(old, baseFrame(t, 1, 6, 512), 6); !errors.Is(err, context.Canceled) {
			t.Errorf("the stopped copy: %v", err)
		}
		if st := c.Stats(); st.BaseQueue != 0 {
			t.Errorf("%d frames left from before the cut", st.BaseQueue)
		}
		for n := uint64(2); n <= 4; n++ {
			if err := c.SendBase(t.Context(), baseFrame(t, 1, n, 1024), n); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		got := r.frames(wire.Base)
		if len(got) != 4 || got[1].First != 2 || got[1].Raw != 1024 || welcomes[1] != 1 {
			t.Errorf("sent %v after welcomes %v", got, welcomes)
		}
	})
}

func TestHashes(t *testing.T) {
	disk := block.DiskIDFromName("d")
	bubble(t, func(t *testing.T) {
		r := newFakeRelay(t)
		var asked []wire.HashRequest
		failures := 2
		r.hashes = func(q wire.HashRequest) wire.HashReply {
			asked = append(asked, q)
			if failures--; failures >= 0 {
				return wire.HashReply{ID: q.ID, Code: wire.CodeHashesFailed}
			}
			reply := wire.HashReply{ID: q.ID}
			for i := range q.Count() {
				reply.Hashes = append(reply.Hashes, block.Hash16{byte(q.Off/q.Granule + i), byte((q.Off/q.Granule + i) >> 8)})
			}
			return reply
		}
		c := run(t, r, nil)
		const n = wire.MaxHashes + 5
		got, err := c.RangeHashes(t.Context(), disk, 0, n*4096-512, 4096)
		if err != nil || len(got) != n {
			t.Fatalf("%d hashes, %v", len(got), err)
		}
		for i, h := range got {
			if h != (block.Hash16{byte(i), byte(i >> 8)}) {
				t.Fatalf("hash %d is %v", i, h)
			}
		}
		if len(asked) != 4 {
			t.Errorf("%d requests, want two failures and two parts", len(asked))
		}
		r.set(func() {
			r.hashes = func(q wire.HashRequest) wire.HashReply {
				return wire.HashReply{ID: q.ID, Code: wire.CodeHashesRefused}
			}
		})
		if _, err := c.RangeHashes(t.Context(), disk, 0, 4096, 4096); !errors.Is(err, ErrHashesRefused) {
			t.Errorf("got %v", err)
		}
	})
}

// TestHashesSurviveACut asks again on the next session.
func TestHashesSurviveACut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newFakeRelay(t)
		c := run(t, r, nil)
		synctest.Wait()
		done := make(chan error, 1)
		go func() {
			_, err := c.RangeHashes(t.Context(), block.DiskIDFromName("d"), 0, 4096, 4096)
			done <- err
		}()
		synctest.Wait() // asked, and nobody answers
		r.set(func() {
			r.hashes = func(q wire.HashRequest) wire.HashReply {
				return wire.HashReply{ID: q.ID, Hashes: make([]block.Hash16, q.Count())}
			}
		})
		r.cut()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestThrottle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLimiter(Throttle{BytesPerSec: 1 << 20})
		start := time.Now()
		for range 100 {
			if err := l.wait(t.Context(), 64<<10, false); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took < 5900*time.Millisecond || took > 6500*time.Millisecond {
			t.Errorf("6.25 MiB at 1 MiB/s took %v", took)
		}
		l.cap(512 << 10) // the relay's bound is the lower one
		start = time.Now()
		for range 16 {
			_ = l.wait(t.Context(), 64<<10, false)
		}
		if took := time.Since(start); took < 1700*time.Millisecond || took > 2500*time.Millisecond {
			t.Errorf("1 MiB at 512 KiB/s took %v", took)
		}
		l.set(Throttle{})
		l.cap(0)
		start = time.Now()
		_ = l.wait(t.Context(), 1<<30, false)
		if time.Since(start) != 0 {
			t.Error("an unlimited sender waited")
		}
	})
}

// TestThePatientYield: with both waiting, the log takes its share first.
func TestThePatientYield(t *testing.T) {
	bubble(t, func(t *testing.T) {
		l := newLimiter(Throttle{BytesPerSec: 1 << 20})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		counts := make(chan int, 2)
		for _, patient := range []bool{false, true} {
			go func() {
				n := 0
				for l.wait(ctx, 16<<10, patient) == nil {
					n++
				}
				if patient {
					n = -n
				}
				counts <- n
			}()
		}
		a, b := <-counts, <-counts
		if log, base := max(a, b), -min(a, b); log < 10*base {
			t.Errorf("the log sent %d, the base %d", log, base)
		}
	})
}

func TestWindows(t *testing.T) {
	at := func(day, hour, minute int) time.Time {
		return time.Date(2026, 11, 22+day, hour, minute, 0, 0, time.Local)
	} // day 0 is a Sunday
	throttle := Throttle{BytesPerSec: 1, Windows: []Window{
		{Days: []time.Weekday{time.Monday}, From: 8 * time.Hour, To: 18 * time.Hour, BytesPerSec: 2},
		{Days: []time.Weekday{time.Friday}, From: 22 * time.Hour, To: 6 * time.Hour, BytesPerSec: 3},
		{From: 12 * time.Hour, To: 13 * time.Hour},
	}}
	for _, c := range []struct {
		when time.Time
		want int64
	}{
		{at(0, 9, 0), 1}, {at(1, 7, 59), 1}, {at(1, 8, 0), 2}, {at(1, 17, 59), 2}, {at(1, 18, 0), 1},
		{at(1, 12, 30), 2}, {at(2, 12, 30), 0}, {at(5, 23, 0), 3}, {at(6, 5, 59), 3}, {at(6, 6, 0), 1}, {at(5, 5, 0), 1},
	} {
		if got := throttle.At(c.when); got != c.want {
			t.Errorf("%v: %d, want %d", c.when, got, c.want)
		}
	}
}
