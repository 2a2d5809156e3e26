package pipeline

import (
	"bytes"
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/journal"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// world is a machine, its agent and a relay with a vault, under a seed.
type world struct {
	t     *testing.T
	rng   *rand.Rand
	k     *kernel
	plant *plant
	dir   string
	disks []block.DiskID
	trace []string

	resyncs uint64
	wrap    func(capture.Source) capture.Source // nil for the kernel's own
	quiesce Quiescer
	off     func(context.Context) error // switches the machine off
	scan    bool
	memory  int64  // of the journal, bytes
	spill   string // its disk stage; none if empty

	p      *Pipeline
	j      *journal.Journal
	events []desired.Event
	cancel context.CancelFunc
	ended  chan error
	cut    context.CancelFunc // of the connection
	shut   chan struct{}
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, memory: 1 << 20, rng: rand.New(rand.NewPCG(seed, 7)), k: newKernel("a", "b"), plant: newPlant(), dir: memoryDir(t)}
	w.disks = w.k.order()
	w.k.capacity = 16 + w.rng.IntN(100)
	t.Cleanup(func() {
		if t.Failed() {
			w.cancel()
			w.cut()
			<-w.shut
			t.Logf("seed %d: %v", seed, w.trace)
		}
	})
	return w
}

// memoryDir is a directory where the kernel does not write mapped pages to a disk.
func memoryDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "pipeline-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func (w *world) note(s string) { w.trace = append(w.trace, s) }

// start runs an agent on what the last one left.
func (w *world) start(resume capture.Resume) {
	j, rec, s := w.open()
	w.j = j
	w.p = New(Config{
		Machine: block.MachineID{1}, Log: slog.New(slog.DiscardHandler), Source: w.source(), Journal: j, Relay: w.plant,
		State: s, Recovered: rec, Resume: resume, Open: w.k.open,
		Events: func(e desired.Event) { w.events = append(w.events, e) }, Quiesce: w.quiesce, PowerOff: w.off, Scan: w.scan,
	})
	w.p.w.target = 3 * blockSize // frames close by size, too
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel, w.ended = cancel, make(chan error, 1)
	go func() { w.ended <- w.p.Run(ctx) }()
	w.p.Wish(ctx, desired.State{Disks: w.disks}, w.k.found())
	w.connect(ctx)
}

// open takes up the journal.
func (w *world) open() (*journal.Journal, journal.Recovered, State) {
	o := journal.Options{MemoryDir: w.dir, MemoryBytes: w.memory, Log: slog.New(slog.DiscardHandler)}
	if w.spill != "" {
		o.SpillPath, o.SpillBytes = w.spill, 4<<20
	}
	j, rec, err := journal.Open(o)
	if err != nil {
		w.t.Fatal(err)
	}
	s, err := Recall(rec)
	if err != nil {
		w.t.Fatal(err)
	}
	source{w.k}.Rewind()
	return j, rec, s
}

func (w *world) source() capture.Source {
	if w.wrap != nil {
		return w.wrap(source{w.k})
	}
	return source{w.k}
}

// kill ends the agent without a last word: what it had not stored is gone.
func (w *world) kill() {
	w.disconnect()
	w.cancel()
	if err := <-w.ended; err != nil {
		w.t.Fatalf("the pipeline ended: %v\n%v", err, w.trace)
	}
	if err := w.j.Close(); err != nil {
		w.t.Fatal(err)
	}
}

// connect does what ship does: a welcome, frames behind it, acknowledgements.
func (w *world) connect(ctx context.Context) {
	ctx, cut := context.WithCancel(ctx)
	p, j, shut := w.p, w.j, make(chan struct{})
	w.cut, w.shut = cut, shut
	go func() {
		defer close(shut)
		for ctx.Err() == nil {
			hello := w.plant.welcome()
			after, err := p.Welcome(ctx, hello)
			for err == nil {
				var raw []byte
				if raw, err = j.Next(ctx, after); err != nil {
					break
				}
				after = w.plant.take(w.t, raw)
				spooled, committed := w.plant.acks()
				p.Acked(ctx, spooled, committed)
				epoch, base := w.plant.baseAck()
				p.BaseAcked(ctx, epoch, base)
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
}

func (w *world) disconnect() {
	w.cut()
	<-w.shut
}

// act does one random thing to the world.
func (w *world) act() {
	switch n := w.rng.IntN(40); {
	case n < 20:
		w.burst(1 + w.rng.IntN(10))
	case n < 28:
		time.Sleep(time.Duration(w.rng.IntN(1500)) * time.Millisecond)
	case n < 31:
		w.plant.commit()
	case n < 33:
		w.note("overflow")
		w.burst(150)
	case n == 33:
		w.note("cut")
		w.disconnect()
		w.burst(w.rng.IntN(30))
		time.Sleep(time.Second)
		w.connect(context.Background())
	case n == 34:
		w.note("spool lost")
		w.disconnect()
		w.plant.loseSpool()
		w.connect(context.Background())
	case n < 37:
		w.note("agent killed")
		w.kill()
		w.burst(w.rng.IntN(20))
		w.start(capture.Resume{Intact: true})
	case n == 37:
		w.note("power cut")
		w.kill()
		w.k.crash()
		if err := os.RemoveAll(w.dir); err != nil {
			w.t.Fatal(err)
		}
		w.burst(w.rng.IntN(20)) // before the agent's start
		w.start(capture.Resume{})
	case n == 38:
		w.note("resync asked for")
		w.p.Wish(context.Background(), desired.State{Disks: w.disks, Resync: w.resync()}, w.k.found())
	case n == 39:
		w.note("disk out and in")
		w.p.Wish(context.Background(), desired.State{Disks: w.disks[:1]}, w.k.found())
		time.Sleep(500 * time.Millisecond)
		w.p.Wish(context.Background(), desired.State{Disks: w.disks}, w.k.found())
	}
}

func (w *world) resync() uint64 { w.resyncs++; return w.resyncs }

func (w *world) burst(n int) {
	for range n {
		w.k.write(w.disks[w.rng.IntN(len(w.disks))], w.rng.IntN(blocks))
	}
}

// check proves invariant 1 for every point that the vault would offer: its image is
// what the disks held after some prefix of their writes, a later one for later points.
// It returns the number of points.
func (w *world) check() (points int) {
	w.plant.mu.Lock()
	defer w.plant.mu.Unlock()
	complete := map[block.Epoch]bool{}
	disks := map[block.Epoch][]frame.MarkDisk{}
	from := 0
	for i, raw := range w.plant.log {
		f, err := frame.Parse(raw)
		if err != nil {
			w.t.Fatal(err)
		}
		if m, err := f.Mark(); err == nil && m.Type == frame.MarkBaseComplete {
			complete[f.Epoch] = true
			if int(m.BaseFrames) != len(w.plant.base[f.Epoch]) {
				w.t.Fatalf("epoch %d is complete with %d base frames, %d came", f.Epoch, m.BaseFrames, len(w.plant.base[f.Epoch]))
			}
		} else if err == nil && m.Type == frame.MarkEpochBegin {
			disks[f.Epoch] = m.Disks
		}
		if !complete[f.Epoch] || len(disks[f.Epoch]) < len(w.disks) {
			continue
		}
		points++
		img := w.plant.image(i + 1)
		at := slices.IndexFunc(w.k.history[from:], func(s []uint64) bool { return slices.Equal(s, state(img, w.disks)) })
		if at < 0 {
			w.t.Fatalf("point %s (frame %d) is no prefix of the writes from number %d on\n%v", f.Position(), i, from, w.trace)
		}
		from += at
		w.checkTime(f.Header, from)
	}
	return points
}

// checkTime proves what a point's time promises, of the point that holds the state of
// that number: nothing written before it is missing, nothing written after it is there.
func (w *world) checkTime(h frame.Header, state int) {
	if made := w.k.times[state]; made.After(h.Closed) {
		w.t.Fatalf("point %d.%d of %s holds a write of %s\n%v", h.Epoch, h.Last, h.Closed, made, w.trace)
	}
	if state+1 < len(w.k.times) && w.k.times[state+1].Before(h.Closed) {
		w.t.Fatalf("point %d.%d of %s lacks a write of %s\n%v", h.Epoch, h.Last, h.Closed, w.k.times[state+1], w.trace)
	}
}

// settled waits until everything written is in the vault, and proves that it is.
func (w *world) settled() {
	for range 60 {
		time.Sleep(time.Second)
		w.plant.commit()
	}
	select {
	case err := <-w.ended:
		w.t.Fatalf("the pipeline ended: %v", err)
	default:
	}
	s := w.p.Status()
	if s == nil || s.Phase != desired.PhaseSteady {
		w.t.Logf("last events: %+v", w.events[max(0, len(w.events)-2):])
		w.t.Fatalf("a minute of quiet does not settle it: %+v\n%v", s, w.trace)
	}
	if w.check() == 0 {
		w.t.Fatalf("no point is offered\n%v", w.trace)
	}
	w.plant.mu.Lock()
	defer w.plant.mu.Unlock()
	if img := w.plant.image(len(w.plant.log)); !slices.Equal(state(img, w.disks), w.k.history[len(w.k.history)-1]) {
		w.t.Fatalf("the newest point is not what the disks hold\n%v", w.trace)
	}
}

// TestEveryPointIsAPrefix drives the real pipeline and journal through random faults.
func TestEveryPointIsAPrefix(t *testing.T) {
	schedules := 60
	if testing.Short() {
		schedules = 10
	}
	first := 0
	if s := os.Getenv("PIPELINE_SEED"); s != "" {
		first, _ = strconv.Atoi(s)
		schedules = first + 1
	}
	for seed := first; seed < schedules; seed++ {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, uint64(seed))
			w.burst(20) // before protection
			w.start(capture.Resume{})
			for range 60 {
				w.act()
			}
			w.settled()
			w.kill()
		})
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// TestPowerCutIsCalledByItsName: an agent without any memory takes its protection for
// new until the relay tells it better, and then says why it must compare everything.
func TestPowerCutIsCalledByItsName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.start(capture.Resume{})
		w.settled()
		w.kill()
		w.k.crash()
		if err := os.RemoveAll(w.dir); err != nil {
			t.Fatal(err)
		}
		w.burst(5)
		w.start(capture.Resume{})
		w.settled()
		if s := w.p.Status(); s.Epoch != 2 || s.Reason != string(frame.ReasonUncleanStop) {
			t.Errorf("epoch %d began for %q, want 2 and unclean-stop", s.Epoch, s.Reason)
		}
		if !slices.ContainsFunc(w.events, func(e desired.Event) bool { return e.Type == string(frame.ReasonUncleanStop) }) {
			t.Errorf("nobody was told: %+v", w.events)
		}
		w.kill()
	})
}

// TestRetainedMapsOutliveTheRing: the maps retained before a kill stand for records
// that a restarted agent still has to read; they must not be forgotten when the first
// of them is committed.
func TestRetainedMapsOutliveTheRing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.start(capture.Resume{})
		w.settled()
		w.k.capacity = 100
		for b := range blocks { // one millisecond before the next poll, a swap in between
			w.k.write(w.disks[0], b)
		}
		if _, err := (source{w.k}).SwapDirty(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.kill()
		w.plant.commitAt = len(w.plant.log) + 1
		w.start(capture.Resume{Intact: true})
		time.Sleep(500 * time.Millisecond)
		w.disconnect()
		w.plant.loseSpool()
		w.connect(context.Background())
		w.settled()
		w.kill()
	})
}

// TestAcknowledgementsForgetNothingInDoubt: between a loss and the epoch that names it
// the vault goes on taking what came before. Its acknowledgements must not make the
// kernel forget the generation in which the lost write may be marked.
func TestAcknowledgementsForgetNothingInDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.start(capture.Resume{})
		w.settled()
		lost := block.Extent{Len: blockSize}
		var doubtful *block.Set
		err := w.p.call(t.Context(), func() (err error) {
			w.k.disks[w.disks[0]].retained.Add(lost) // of a write whose record did not fit the ring
			w.p.gens.retain(0, time.Now())
			w.p.gens.stored(1, w.p.committed+1)
			w.p.raise(doubt{reason: frame.ReasonRingOverflow})
			if err := w.p.acked(w.p.spooled, w.p.committed+1); err != nil {
				return err
			}
			doubtful, err = w.p.Source.Dirty(w.disks[0])
			return err
		})
		if err != nil || !doubtful.Covers(lost) {
			t.Errorf("in doubt is %v, %v: want %v", doubtful, err, lost)
		}
		w.kill()
	})
}

// TestAFutureThatNeverWasIsNoticed: the machine was set back to a snapshot, and has
// written as much since as the future that the relay knows had. Its numbers fit, its
// frames do not.
func TestAFutureThatNeverWasIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.start(capture.Resume{})
		w.settled()
		w.disconnect()
		w.k.write(w.disks[0], 0)
		time.Sleep(time.Second)
		// The lost future: a frame of another time, with a write that the machine never made.
		h, _ := w.plant.last()
		b := frame.NewBuilder(block.MachineID{1})
		b.Reset(frame.KindLog, h.Epoch, h.Last+1, time.Now())
		if err := b.Add(w.disks[1], frame.OpWrite, block.Extent{Off: 5 * blockSize, Len: blockSize}, bytes.Repeat([]byte{9}, blockSize)); err != nil {
			t.Fatal(err)
		}
		raw, err := b.Append(nil, h.Last+1, time.Now().Add(time.Millisecond), frame.CompressNever)
		if err != nil {
			t.Fatal(err)
		}
		w.plant.take(t, raw)
		n := len(w.plant.log)
		w.connect(context.Background())
		for range 60 {
			time.Sleep(time.Second)
			w.plant.commit()
		}
		if s := w.p.Status(); s.Reason != string(frame.ReasonIdentityConflict) || s.Phase != desired.PhaseSteady {
			t.Errorf("epoch %d began for %q and is %s, want identity-conflict", s.Epoch, s.Reason, s.Phase)
		}
		if img := w.plant.image(len(w.plant.log)); !slices.Equal(state(img, w.disks), w.k.history[len(w.k.history)-1]) {
			t.Errorf("the newest point of %d frames (%d before) is not what the disks hold", len(w.plant.log), n)
		}
		w.kill()
	})
}

// TestUnprotectedWhileTheAgentIsRestarted: what is written to a disk while it is not
// protected is in no map. Protected again, it is compared, also by an agent that was not
// there when its protection ended.
func TestUnprotectedWhileTheAgentIsRestarted(t *testing.T) {
	for name, left := range map[string]int{"all disks": 0, "one disk": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, 1)
				w.start(capture.Resume{})
				w.settled()
				w.disconnect() // no epoch can begin that says so
				all := w.disks
				w.p.Wish(t.Context(), desired.State{Disks: all[:left]}, w.k.found())
				time.Sleep(time.Second)
				w.kill()
				for b := range blocks {
					w.k.write(all[1], b)
				}
				w.disks = all[:left]
				w.start(capture.Resume{Intact: true})
				time.Sleep(time.Second)
				for b := range blocks {
					w.k.write(all[1], b)
				}
				w.disks = all
				w.p.Wish(t.Context(), desired.State{Disks: all}, w.k.found())
				w.settled()
				w.kill()
			})
		})
	}
}
