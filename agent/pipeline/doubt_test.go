package pipeline

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/journal"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
)

var errKilled = errors.New("killed here")

// killed waits for the end of an agent that was killed by an error of the test's.
func (w *world) killed() {
	w.disconnect()
	if err := <-w.ended; !errors.Is(err, errKilled) {
		w.t.Fatalf("the pipeline ended: %v", err)
	}
	w.cancel()
	if err := w.j.Close(); err != nil {
		w.t.Fatal(err)
	}
}

// unseen is what the machine writes while capture does not look.
func (k *kernel) unseen(id block.DiskID) {
	k.mu.Lock()
	tracked := k.tracked
	k.tracked = nil
	k.mu.Unlock()
	for b := range blocks {
		k.write(id, b)
	}
	k.mu.Lock()
	k.tracked = tracked
	k.mu.Unlock()
}

// overwritten has the machine lose its memory, and write a disk anew while nothing watches.
func (w *world) overwritten(id block.DiskID) {
	w.k.crash()
	for b := range blocks {
		w.k.write(id, b)
	}
}

// TestCaptureGoneWhileTheJournalStays: the pins were removed, or belong to a version
// that cannot be taken up, in the boot that the journal is of. What was written while
// nothing watched is in no dirty map, and the disks are not even tracked at the start.
func TestCaptureGoneWhileTheJournalStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.start(capture.Resume{})
		w.settled()
		w.kill()
		w.overwritten(w.disks[0])
		w.start(capture.Resume{Detail: "of another version"})
		w.settled()
		if s := w.p.Status(); s.Reason != string(frame.ReasonUncleanStop) {
			t.Errorf("epoch %d began for %q, want unclean-stop", s.Epoch, s.Reason)
		}
		w.kill()
	})
}

// TestCaptureBegunAnewByAnAgentThatDied: it put new programs into the kernel and ended
// before it could write down why, as where its journal's disk was not mounted yet. The
// next agent finds the capture intact, and it knows nothing of what was written before.
func TestCaptureBegunAnewByAnAgentThatDied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.start(capture.Resume{})
		w.settled()
		w.kill()
		w.overwritten(w.disks[0])
		w.start(capture.Resume{Intact: true})
		w.settled()
		if s := w.p.Status(); s.Reason != string(frame.ReasonUncleanStop) {
			t.Errorf("epoch %d began for %q, want unclean-stop", s.Epoch, s.Reason)
		}
		w.kill()
	})
}

// TestDoubtOutlivesTheAgent: an agent that knows the disks to be in doubt, and is
// killed before it could open the epoch that says so, must not leave its successor with
// nothing but the dirty maps.
func TestDoubtOutlivesTheAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.start(capture.Resume{})
		w.settled()
		w.kill()
		w.overwritten(w.disks[0])
		w.start(capture.Resume{Detail: "of another version"})
		w.disconnect() // before a welcome: no epoch can begin
		time.Sleep(time.Second)
		w.kill()
		w.start(capture.Resume{Intact: true})
		w.settled()
		w.kill()
	})
}

// TestDoubtThatTheJournalDoesNotTake outlives the agent all the same.
func TestDoubtThatTheJournalDoesNotTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.start(capture.Resume{})
		w.settled()
		w.p.post(context.Background(), func() error {
			w.k.unseen(w.disks[0])
			p, known := w.p, w.p.State.Known
			for i := range 50000 { // more than any journal's state
				p.State.Known = append(p.State.Known, block.DiskID{byte(i), byte(i >> 8)})
			}
			p.raise(doubt{reason: frame.ReasonDeviceChanged, whole: map[block.DiskID]bool{w.disks[0]: true}})
			p.State.Known = known
			return errKilled
		})
		w.killed()
		w.start(capture.Resume{Intact: true})
		w.settled()
		w.kill()
	})
}

// leaving is a kernel from which a disk goes, and that ends the agent as it arms.
type leaving struct {
	capture.Source
	disk       block.DiskID
	gone, kill atomic.Bool
}

func (s *leaving) Health() (capture.Health, error) {
	h, err := s.Source.Health()
	if s.gone.Load() {
		h.Disks = append(h.Disks, capture.DiskHealth{Disk: s.disk, Gone: true})
	}
	return h, err
}

func (s *leaving) Arm(ctx context.Context) (capture.Armed, error) {
	if s.kill.Load() {
		return capture.Armed{}, errKilled
	}
	return s.Source.Arm(ctx)
}

// TestDiskGoneBeforeTheEpochBegan: the agent lets go of a disk that is gone, and with it
// of its maps, and is killed before it opens the epoch without that disk. Back again, the
// disk holds what another machine wrote, and nothing in the kernel says so.
func TestDiskGoneBeforeTheEpochBegan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		l := &leaving{disk: w.disks[0]}
		w.wrap = func(s capture.Source) capture.Source { l.Source = s; return l }
		w.start(capture.Resume{})
		w.settled()
		l.gone.Store(true)
		l.kill.Store(true)
		w.p.post(context.Background(), func() error {
			w.p.raise(doubt{reason: frame.ReasonRingOverflow})
			return nil
		})
		time.Sleep(time.Second)
		w.killed()
		w.k.unseen(w.disks[0])
		l.gone.Store(false)
		l.kill.Store(false)
		w.start(capture.Resume{Intact: true})
		w.settled()
		w.kill()
	})
}

// TestDoubtOutlivesIdleness: all disks are unprotected, and again protected, before an
// epoch could name the doubt. It stands.
func TestDoubtOutlivesIdleness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.start(capture.Resume{})
		w.settled()
		w.kill()
		w.overwritten(w.disks[1])
		all, ctx := w.disks, context.Background()
		w.disks = all[:1]
		w.start(capture.Resume{Detail: "of another version"})
		w.disconnect() // no epoch can begin
		time.Sleep(time.Second)
		w.p.Wish(ctx, desired.State{}, w.k.found())
		time.Sleep(time.Second)
		w.disks = all
		w.p.Wish(ctx, desired.State{Disks: all}, w.k.found())
		time.Sleep(time.Second)
		w.connect(ctx)
		w.settled()
		w.kill()
	})
}

// excluding notes what capture is told to leave out.
type excluding struct {
	capture.Source
	told *sync.Map
}

func (s excluding) Exclude(id block.DiskID, e []block.Extent) error {
	s.told.Store(id, len(e))
	return s.Source.Exclude(id, e)
}

// TestWhatIsLeftOutIsToldAgain: the journal's disk stage may have moved while no agent
// ran, and its old place belongs to others now. The kernel still leaves that out.
func TestWhatIsLeftOutIsToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.start(capture.Resume{})
		w.settled()
		w.kill()
		var told sync.Map
		w.wrap = func(s capture.Source) capture.Source { return excluding{s, &told} }
		w.start(capture.Resume{Intact: true})
		w.settled()
		for _, id := range w.disks {
			if n, ok := told.Load(id); !ok || n != 0 {
				t.Errorf("of disk %s, still tracked, capture was told to leave out %v", id, n)
			}
		}
		w.kill()
	})
}

// TestStageMovedWhileOpen ends the agent, for the next one to find it moved; so does a
// volume that has become one without places.
func TestStageMovedWhileOpen(t *testing.T) {
	for _, why := range []error{journal.ErrMoved, journal.ErrNoPlace} {
		synctest.Test(t, func(t *testing.T) { stageMoves(t, why) })
	}
}

func stageMoves(t *testing.T, why error) {
	w := newWorld(t, 1)
	w.start(capture.Resume{})
	w.settled()
	w.p.post(context.Background(), func() error {
		d, moved := w.p.disks[w.disks[0]].Disk, error(nil)
		w.p.where = func() (string, uint64, []block.Extent, error) {
			return "spill", deviceNumber(d.Major, d.Minor), []block.Extent{{Len: blockSize}}, moved
		}
		err := w.p.exclude(d)
		moved = why
		return err
	})
	time.Sleep(placeEvery + time.Second)
	select {
	case err := <-w.ended:
		if !errors.Is(err, why) {
			t.Errorf("the pipeline ended: %v", err)
		}
		w.ended <- nil
	default:
		t.Errorf("the pipeline goes on after %v", why)
	}
	w.kill()
}
