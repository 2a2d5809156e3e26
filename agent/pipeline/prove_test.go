package pipeline

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/capture/capturetest"
	"github.com/understudy-dr/understudy/agent/journal"
	"github.com/understudy-dr/understudy/agent/resync"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
)

const proofCells = 512 // of 1 KiB, per disk: the first half is busy, the rest at rest

// scrubbed is a machine under load whose agent proves its replica, on fake time.
type scrubbed struct {
	t     *testing.T
	rng   *rand.Rand
	k     *capturetest.Kernel
	disks []block.DiskID
	v     *proofVault
	wrap  func(capture.Source) capture.Source
	dir   string

	p      *Pipeline
	j      *journal.Journal
	cancel context.CancelFunc
	left   sync.WaitGroup
	wished desired.Verify
	events []string
	// unsure counts differences that did not repeat: a scrub that keeps its word has none.
	unsure atomic.Int64
}

func newScrubbed(t *testing.T, seed uint64, dir string, wrap func(capture.Source) capture.Source) *scrubbed {
	s := &scrubbed{t: t, rng: rand.New(rand.NewPCG(seed, 3)), k: capturetest.New(proofCells, proofCells), dir: dir, wrap: wrap}
	s.k.Capacity = 4096
	s.disks = s.k.IDs()
	s.v = &proofVault{rng: rand.New(rand.NewPCG(seed, 4)), base: map[block.Epoch][][]byte{}}
	for d := range 2 {
		for c := 0; c < proofCells; c += 8 {
			if s.rng.IntN(4) > 0 { // the rest stays zeros, never copied
				s.k.Write(d, c, 8, 1, frame.OpWrite, 0)
			}
		}
	}
	s.start(capture.Resume{Intact: false})
	return s
}

// start runs an agent on what the last one left.
func (s *scrubbed) start(resume capture.Resume) {
	j, rec, err := journal.Open(journal.Options{MemoryDir: s.dir, MemoryBytes: 4 << 20, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		s.t.Fatal(err)
	}
	state, err := Recall(rec)
	if err != nil {
		s.t.Fatal(err)
	}
	source := s.wrap(s.k.Source())
	source.Rewind()
	s.j = j
	s.p = New(Config{
		Machine: block.MachineID{1}, Log: slog.New(warnings{&s.unsure}), Source: source, Journal: j, Relay: s.v,
		State: state, Recovered: rec, Resume: resume, Open: s.open,
		Events: s.told,
	})
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.left.Go(func() {
		if err := s.p.Run(ctx); err != nil && !errors.Is(err, errPowerless) {
			s.t.Error(err)
		}
	})
	s.left.Go(func() { s.ship(ctx, s.p, j) })
	rng := rand.New(rand.NewPCG(s.rng.Uint64(), 5))
	s.left.Go(func() { s.load(ctx, rng) })
	s.wish(ctx)
}

// told takes an event. Whoever hears of a difference finds it in the report that goes out
// with the event: points are in doubt from then on, not from the next report on.
func (s *scrubbed) told(e desired.Event) {
	s.events = append(s.events, e.Type+": "+e.Message)
	if e.Type != string(frame.ReasonScrubDifference) {
		return
	}
	if p := s.p.Status(); p == nil || p.Verify == nil || len(p.Verify.Findings) == 0 {
		s.t.Errorf("told of a difference that the report lacks: %+v", p)
	}
}

func (s *scrubbed) wish(ctx context.Context) {
	s.p.Wish(ctx, desired.State{Disks: s.disks, Verify: s.wished}, s.k.Found())
}

// stop ends the agent; what it had not stored is in the kernel's ring.
func (s *scrubbed) stop() {
	s.cancel()
	s.left.Wait()
	if err := s.j.Close(); err != nil {
		s.t.Fatal(err)
	}
}

// load writes to the busy half. Writes take up to 60 ms to land: longer than a stretch
// takes to be read.
func (s *scrubbed) load(ctx context.Context, rng *rand.Rand) {
	for ctx.Err() == nil {
		op := []frame.Op{frame.OpWrite, frame.OpWrite, frame.OpWrite, frame.OpDiscard, frame.OpZero}[rng.IntN(5)]
		n := 1 + rng.IntN(6)
		s.k.Write(rng.IntN(2), rng.IntN(proofCells/2-n), n, 1+rng.IntN(3), op, time.Duration(rng.IntN(60))*time.Millisecond)
		time.Sleep(time.Duration(rng.IntN(8)) * time.Millisecond)
	}
}

// ship carries frames to the vault, which commits them now and then.
func (s *scrubbed) ship(ctx context.Context, p *Pipeline, j *journal.Journal) {
	after, err := p.Welcome(ctx, s.v.welcome())
	for err == nil {
		var raw []byte
		if raw, err = j.Next(ctx, after); err != nil {
			return
		}
		h, _ := frame.ParseHeader(raw)
		after = h.Last
		s.v.take(raw)
		time.Sleep(time.Duration(s.v.rng.IntN(20)) * time.Millisecond)
		p.Acked(ctx, after, after)
		p.BaseAcked(ctx, h.Epoch, uint64(len(s.v.baseOf(h.Epoch))))
	}
}

// open gives the disks, of which a read takes a while.
func (s *scrubbed) open(t resync.Target) (resync.Device, error) { return slowDisk{s.k, t.ID}, nil }

type slowDisk struct {
	k  *capturetest.Kernel
	id block.DiskID
}

func (d slowDisk) ReadAt(p []byte, off int64) (int, error) {
	time.Sleep(3 * time.Millisecond)
	return d.k.ReadAt(d.id, p, off)
}
func (d slowDisk) Close() error         { return nil }
func (d slowDisk) Size() (int64, error) { return d.k.Size(d.id) }
func (d slowDisk) Usage(context.Context) (resync.Usage, error) {
	return resync.Usage{Layout: "whole"}, nil
}
func (d slowDisk) Sync(context.Context) error { return nil }
func (d slowDisk) Layout() (string, error)    { return "whole", nil }
func (d slowDisk) Activity() (resync.Activity, error) {
	return resync.Activity{}, errors.ErrUnsupported
}

// warnings counts the differences that did not repeat.
type warnings struct{ n *atomic.Int64 }

func (w warnings) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
func (w warnings) WithAttrs([]slog.Attr) slog.Handler           { return w }
func (w warnings) WithGroup(string) slog.Handler                { return w }
func (w warnings) Handle(_ context.Context, r slog.Record) error {
	if strings.HasPrefix(r.Message, "a difference was gone") {
		w.n.Add(1)
	}
	return nil
}

func (s *scrubbed) await(what string, ok func(*desired.Protection) bool) *desired.Protection {
	for range 60_000 {
		if p := s.p.Status(); p != nil && ok(p) {
			return p
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.t.Fatalf("never %s: %+v, verify %+v, events %v", what, s.p.Status(), s.p.Status().Verify, s.events)
	return nil
}

func (s *scrubbed) steady() {
	s.await("steady", func(p *desired.Protection) bool { return p.Phase == desired.PhaseSteady })
}

// verify asks for a proof and waits for its end.
func (s *scrubbed) verify() *desired.VerifyState {
	s.wished.Once++
	s.wish(context.Background())
	return s.await("verified", func(p *desired.Protection) bool {
		return p.Verify != nil && p.Verify.Last != nil && p.Verify.Last.Once == s.wished.Once
	}).Verify
}

func plain(s capture.Source) capture.Source { return s }

// TestProofNeverLies: under writes in every phase of a try, some of which land long after
// they were captured, a proof finds what was planted at rest, where it was planted, and
// nothing else; afterwards it finds nothing.
func TestProofNeverLies(t *testing.T) {
	for seed := range uint64(rounds(10)) {
		for _, plant := range []string{"nothing", "source", "vault", "damage"} {
			t.Run(fmt.Sprintf("%d/%s", seed, plant), func(t *testing.T) {
				dir := memoryDir(t)
				synctest.Test(t, func(t *testing.T) { proveOnce(t, seed, plant, dir) })
			})
		}
	}
}

func rounds(n int) int {
	if testing.Short() {
		return n / 10
	}
	return n
}

func proveOnce(t *testing.T, seed uint64, plant, dir string) {
	s := newScrubbed(t, seed, dir, plain)
	defer s.stop()
	s.steady()
	if seed%2 == 0 {
		if v := s.verify(); v.Last.Result != desired.ProofEqual {
			t.Fatalf("%+v, events %v", v.Last, s.events)
		}
	}
	disk, cell := s.rng.IntN(2), proofCells/2+8*s.rng.IntN(proofCells/16)
	at := block.DiskExtent{Disk: s.disks[disk], Extent: block.Extent{Off: int64(cell) * capturetest.Cell, Len: 4096}}
	s.k.Write(disk, cell, 8, 1, frame.OpWrite, 0) // what is planted is planted into data
	time.Sleep(2 * time.Second)
	switch plant {
	case "source":
		s.k.Attach(disk, cell)
	case "vault", "damage":
		s.v.mu.Lock()
		s.v.spoilt, s.v.until, s.v.unusable = &at, s.p.Status().Epoch, plant == "damage"
		s.v.mu.Unlock()
	}
	s.judge(s.verify(), plant, at)
	if n := s.unsure.Load(); n > 0 {
		t.Errorf("%d differences did not repeat", n)
	}
	s.steady()
	if v := s.verify(); v.Last.Result != desired.ProofEqual || v.Last.Equal == 0 {
		t.Fatalf("after the repair: %+v, events %v", v.Last, s.events)
	}
}

func (s *scrubbed) judge(v *desired.VerifyState, plant string, at block.DiskExtent) {
	s.t.Helper()
	if plant == "nothing" {
		if v.Last.Result != desired.ProofEqual || len(v.Findings) > 0 {
			s.t.Fatalf("%+v found %+v, events %v", v.Last, v.Findings, s.events)
		}
		return
	}
	if v.Last.Result != desired.ProofDifferent || len(v.Findings) != 1 || v.Last.Differs+v.Last.Damaged != 4096 {
		s.t.Fatalf("%s at %+v: %+v found %+v, events %v", plant, at, v.Last, v.Findings, s.events)
	}
	f := v.Findings[0]
	if len(f.Extents) != 1 || f.Extents[0] != at || (f.Cause == desired.FoundDamaged) != (plant == "damage") {
		s.t.Fatalf("%s at %+v: found %+v", plant, at, f)
	}
	if !slices.ContainsFunc(s.events, func(e string) bool { return strings.HasPrefix(e, "scrub-difference") }) {
		s.t.Fatalf("no event: %v", s.events)
	}
}

// unbarred is a capture whose barrier does not wait, once the base is copied.
type unbarred struct {
	capture.Source
	off *atomic.Bool
}

func (u unbarred) Barrier(ctx context.Context, ids ...block.DiskID) error {
	if u.off.Load() {
		return nil
	}
	return u.Source.Barrier(ctx, ids...)
}

// hasty is a capture that delivers late and says that it does not.
type hasty struct {
	capture.Source
	off  *atomic.Bool
	last *time.Time
}

func (h hasty) Behind() bool { return false }

func (h hasty) Poll(fn func(capture.Record) bool) (int, bool, error) {
	if h.off.Load() && time.Since(*h.last) < 300*time.Millisecond {
		return 0, false, nil
	}
	*h.last = time.Now()
	return h.Source.Poll(fn)
}

// TestProofMutants: a proof that does not wait for what is in flight, or takes its
// boundary before the ring is drained, sees differences that are none. If these tests
// passed, TestProofNeverLies would prove nothing.
func TestProofMutants(t *testing.T) {
	for name, mutant := range map[string]func(off *atomic.Bool) func(capture.Source) capture.Source{
		"no barrier": func(off *atomic.Bool) func(capture.Source) capture.Source {
			return func(s capture.Source) capture.Source { return unbarred{s, off} }
		},
		"writes noted too short": func(off *atomic.Bool) func(capture.Source) capture.Source {
			return func(s capture.Source) capture.Source { return hasty{s, off, new(time.Time)} }
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := memoryDir(t)
			for seed := range uint64(40) {
				lied := false
				synctest.Test(t, func(t *testing.T) {
					off := new(atomic.Bool)
					s := newScrubbed(t, seed, dir, mutant(off))
					defer s.stop()
					s.steady()
					off.Store(true)
					v := s.verify()
					lied = v.Last.Result == desired.ProofDifferent || s.unsure.Load() > 0
				})
				if lied {
					t.Logf("caught by seed %d", seed)
					return
				}
				if dir = memoryDir(t); t.Failed() {
					return
				}
			}
			t.Fatal("never caught")
		})
	}
}

// TestProofSurvivesItsAgent: a proof that is asked for comes to its end however often the
// agent dies, and what it found is repaired.
func TestProofSurvivesItsAgent(t *testing.T) {
	for seed := range uint64(rounds(10)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			dir := memoryDir(t)
			synctest.Test(t, func(t *testing.T) { proveWithKills(t, seed, dir) })
		})
	}
}

func proveWithKills(t *testing.T, seed uint64, dir string) {
	s := newScrubbed(t, seed, dir, plain)
	defer func() { s.stop() }()
	s.steady()
	at := block.DiskExtent{Disk: s.disks[0], Extent: block.Extent{Off: (proofCells - 64) * capturetest.Cell, Len: 4096}}
	s.k.Write(0, proofCells-64, 8, 1, frame.OpWrite, 0)
	time.Sleep(2 * time.Second)
	s.v.mu.Lock()
	s.v.spoilt, s.v.until = &at, s.p.Status().Epoch
	s.v.mu.Unlock()
	s.wished.Once++
	s.wish(context.Background())
	for range 6 {
		time.Sleep(time.Duration(s.rng.IntN(700)) * time.Millisecond)
		s.stop()
		s.start(capture.Resume{Intact: true})
	}
	v := s.await("verified", func(p *desired.Protection) bool {
		return p.Verify != nil && p.Verify.Last != nil && p.Verify.Last.Once == 1
	}).Verify
	s.judge(v, "vault", at)
	s.steady()
	if v := s.verify(); v.Last.Result != desired.ProofEqual {
		t.Fatalf("after the repair: %+v, events %v", v.Last, s.events)
	}
}

var errPowerless = errors.New("the agent dies here")

// mortal is a capture whose agent dies when it would begin an epoch.
type mortal struct {
	capture.Source
	now *atomic.Bool
}

func (m mortal) Arm(ctx context.Context) (capture.Armed, error) {
	if m.now.Load() {
		return capture.Armed{}, errPowerless
	}
	return m.Source.Arm(ctx)
}

// TestDifferenceOutlivesItsAgent: an agent that dies between finding a difference and
// beginning the epoch that repairs it leaves the next one no choice.
func TestDifferenceOutlivesItsAgent(t *testing.T) {
	dir := memoryDir(t)
	synctest.Test(t, func(t *testing.T) {
		dies := new(atomic.Bool)
		s := newScrubbed(t, 1, dir, func(c capture.Source) capture.Source { return mortal{c, dies} })
		defer func() { s.stop() }()
		s.steady()
		at := block.DiskExtent{Disk: s.disks[1], Extent: block.Extent{Off: (proofCells - 32) * capturetest.Cell, Len: 4096}}
		s.k.Write(1, proofCells-32, 8, 1, frame.OpWrite, 0)
		time.Sleep(2 * time.Second)
		s.v.mu.Lock()
		s.v.spoilt, s.v.until = &at, s.p.Status().Epoch
		s.v.mu.Unlock()
		dies.Store(true)
		s.wished.Once++
		s.wish(context.Background())
		time.Sleep(20 * time.Second) // found, and died
		s.stop()
		dies.Store(false)
		s.start(capture.Resume{Intact: true})
		s.await("repaired", func(p *desired.Protection) bool {
			return p.Phase == desired.PhaseSteady && p.Epoch == s.v.until+1 && p.Reason == string(frame.ReasonScrubDifference)
		})
		if v := s.verify(); v.Last.Result != desired.ProofEqual || len(v.Findings) != 1 || v.Findings[0].At.Epoch != s.v.until {
			t.Fatalf("%+v, found %+v, events %v", v.Last, v.Findings, s.events)
		}
	})
}
