package pipeline

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// rebooting is a world whose journal has a disk stage, so that it may outlive a boot.
func rebooting(t *testing.T, seed uint64) *world {
	w := newWorld(t, seed)
	w.k.capacity = 200
	w.spill = filepath.Join(memoryDir(t), "spill.hrl")
	return w
}

// printOf is of what a file system would write to at each mount: the first block.
func (w *world) printOf(d capture.Disk) (capture.Print, error) {
	w.k.mu.Lock()
	defer w.k.mu.Unlock()
	return capture.Print{0: fmt.Sprint(crc32.ChecksumIEEE(w.k.disks[d.ID].content[:blockSize]))}, nil
}

// seal is what the shutdown's hook does when the agent is gone.
func (w *world) seal(s Sealing) error {
	j, rec, state := w.open()
	p := New(Config{
		Machine: block.MachineID{1}, Log: slog.New(slog.DiscardHandler), Source: w.source(), Journal: j,
		State: state, Recovered: rec, Resume: capture.Resume{Intact: true}, Events: func(desired.Event) {},
	})
	p.where = nowhere
	err := p.Seal(context.Background(), s)
	if errClose := j.Close(); errClose != nil {
		w.t.Fatal(errClose)
	}
	return err
}

func nowhere() (string, uint64, []block.Extent, error) { return "spill", 1 << 40, nil, nil }

func (w *world) sealing() Sealing { return Sealing{Found: w.k.found(), Print: w.printOf} }

// early is a new boot: what was in memory is gone, and the capture of all disks begins.
func (w *world) early() capture.Resume {
	w.k.crash()
	if err := os.RemoveAll(w.dir); err != nil {
		w.t.Fatal(err)
	}
	s := source{w.k}
	o := &capture.Origin{Disks: map[block.DiskID]capture.Beginning{}}
	for _, d := range w.k.found() {
		if err := s.Track(context.Background(), d); err != nil {
			w.t.Fatal(err)
		}
		print, err := w.printOf(d)
		if err != nil {
			w.t.Fatal(err)
		}
		o.Disks[d.ID] = capture.Beginning{Print: print}
	}
	var err error
	if o.Armed, err = s.Arm(context.Background()); err != nil {
		w.t.Fatal(err)
	}
	return capture.Resume{Intact: true, Origin: o}
}

// wantEpoch fails unless this epoch goes on, or began for this reason.
func (w *world) wantEpoch(epoch block.Epoch, reason frame.Reason) {
	w.t.Helper()
	if s := w.p.Status(); s.Epoch != epoch || s.Reason != string(reason) {
		w.t.Fatalf("epoch %d of %q, want %d of %q\n%+v", s.Epoch, s.Reason, epoch, reason, w.events)
	}
}

// lived is a world that protects its disks, wrote to them, and whose agent has stopped.
func lived(t *testing.T, seed uint64) *world {
	w := rebooting(t, seed)
	w.burst(20)
	w.start(capture.Resume{})
	w.burst(20)
	w.settled()
	w.burst(9)
	time.Sleep(time.Second) // into frames, which the vault does not have
	w.kill()
	w.burst(11) // into the ring
	return w
}

// TestCleanReboot: whatever was written before the stop, during it, and before the agent
// of the next boot, no epoch begins and every point is a prefix.
func TestCleanReboot(t *testing.T) {
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			w := lived(t, seed)
			for range 3 {
				if err := w.seal(w.sealing()); err != nil {
					t.Fatal(err)
				}
				resume := w.early()
				w.burst(13)
				w.start(resume)
				w.burst(7)
				w.settled()
				w.wantEpoch(1, frame.ReasonInitial)
				w.kill()
				w.burst(5)
			}
		})
	}
}

// TestAgentKilledBetweenRebootAndFirstFrame: the journal then still names positions in the
// ring of the boot before.
func TestAgentKilledBetweenRebootAndFirstFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lived(t, 3)
		if err := w.seal(w.sealing()); err != nil {
			t.Fatal(err)
		}
		resume := w.early()
		w.burst(4)
		j, rec, state := w.open()
		p := New(Config{
			Machine: block.MachineID{1}, Log: slog.New(slog.DiscardHandler), Source: w.source(), Journal: j,
			State: state, Recovered: rec, Resume: resume, Events: func(desired.Event) {},
		})
		if err := p.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		w.start(resume)
		w.settled()
		w.wantEpoch(1, frame.ReasonInitial)
		w.kill()
	})
}

// TestMissingLinks: where any link of the chain is missing the disks are compared, by
// name, and the points are right all the same.
func TestMissingLinks(t *testing.T) {
	for name, c := range map[string]struct {
		seal   bool
		after  func(w *world)                    // between stop and boot
		change func(w *world, r *capture.Resume) // what the new boot finds
		says   string
		whole  int // disks in doubt as a whole
	}{
		"no seal":                    {says: "did not stop in order", whole: 2},
		"another system wrote":       {seal: true, after: func(w *world) { w.k.write(w.disks[1], 0) }, says: "another system has used it", whole: 2},
		"journal opened in between":  {seal: true, after: func(w *world) { w.reopened() }, says: "did not stop in order", whole: 2},
		"nothing began early":        {seal: true, change: func(w *world, r *capture.Resume) { w.k.crash(); *r = capture.Resume{} }, says: "not captured from the boot on", whole: 2},
		"begun by the agent":         {seal: true, change: func(w *world, r *capture.Resume) { r.Origin = nil }, says: "not captured from the boot on", whole: 2},
		"a disk written to before":   {seal: true, change: func(w *world, r *capture.Resume) { w.missed(r, "7 writes") }, says: "7 writes", whole: 1},
		"a disk that came too late":  {seal: true, change: func(w *world, r *capture.Resume) { w.late(r) }, says: "not tracked when the boot began", whole: 1},
		"captured by something else": {seal: true, change: func(w *world, r *capture.Resume) { r.Origin.Armed.Ring++ }, says: "", whole: 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := lived(t, 5)
				if c.seal {
					if err := w.seal(w.sealing()); err != nil {
						t.Fatal(err)
					}
				}
				if c.after != nil {
					w.k.crash()
					c.after(w)
				}
				resume := w.early()
				if c.change != nil {
					c.change(w, &resume)
				}
				w.burst(6)
				w.start(resume)
				w.settled()
				w.wantEpoch(2, frame.ReasonUncleanStop)
				if !slices.ContainsFunc(w.events, func(e desired.Event) bool {
					return e.Type == string(frame.ReasonUncleanStop) && strings.Contains(e.Message, c.says)
				}) {
					t.Errorf("nobody was told of %q: %+v", c.says, w.events)
				}
				if got := w.hashed(2); got != c.whole {
					t.Errorf("%d disks were compared by hash, want %d", got, c.whole)
				}
				w.kill()
			})
		})
	}
}

// reopened is a boot in which the agent opened the journal and got no further.
func (w *world) reopened() {
	if err := os.RemoveAll(w.dir); err != nil {
		w.t.Fatal(err)
	}
	j, _, _ := w.open()
	if err := j.Close(); err != nil {
		w.t.Fatal(err)
	}
}

// missed has writes go to the first disk before it was tracked.
func (w *world) missed(r *capture.Resume, why string) {
	w.k.unseen(w.disks[0])
	r.Origin.Disks[w.disks[0]] = capture.Beginning{Missed: why}
}

// late has the first disk appear when Early is done.
func (w *world) late(r *capture.Resume) {
	if err := (source{w.k}).Untrack(w.disks[0]); err != nil {
		w.t.Fatal(err)
	}
	delete(r.Origin.Disks, w.disks[0])
	w.k.unseen(w.disks[0])
}

// hashed counts the disks that an epoch holds in doubt as a whole.
func (w *world) hashed(epoch block.Epoch) (n int) {
	w.plant.mu.Lock()
	defer w.plant.mu.Unlock()
	for _, raw := range w.plant.log {
		f, err := frame.Parse(raw)
		if err != nil {
			w.t.Fatal(err)
		}
		if m, err := f.Mark(); err == nil && f.Epoch == epoch && m.Type == frame.MarkEpochBegin {
			for _, d := range m.Disks {
				if d.Whole {
					n++
				}
			}
		}
	}
	return n
}

// TestRingOverflowAfterReboot: what the ring of the new boot lost has its own name, and
// only what the dirty maps hold is sent.
func TestRingOverflowAfterReboot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lived(t, 8)
		if err := w.seal(w.sealing()); err != nil {
			t.Fatal(err)
		}
		resume := w.early()
		w.burst(w.k.capacity + 1)
		w.start(resume)
		w.settled()
		w.wantEpoch(2, frame.ReasonRingOverflow)
		if n := w.hashed(2); n > 0 {
			t.Errorf("%d disks were compared by hash", n)
		}
		w.kill()
	})
}

// TestNothingIsSealedWhileSomethingWrites: a write after the ring ran empty is in no frame.
func TestNothingIsSealedWhileSomethingWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lived(t, 9)
		s := w.sealing()
		s.Print = func(d capture.Disk) (capture.Print, error) {
			w.k.write(w.disks[0], 7)
			return w.printOf(d)
		}
		if err := w.seal(s); !errors.Is(err, ErrUnsealed) {
			t.Fatalf("sealed: %v", err)
		}
		resume := w.early()
		w.start(resume)
		w.settled()
		w.wantEpoch(2, frame.ReasonUncleanStop)
		w.kill()
	})
}

// TestDoubtIsNotSealed: a log that cannot go on is none to go on with.
func TestDoubtIsNotSealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lived(t, 4)
		w.burst(w.k.capacity) // the ring overflows
		if err := w.seal(w.sealing()); !errors.Is(err, ErrUnsealed) || !strings.Contains(err.Error(), string(frame.ReasonRingOverflow)) {
			t.Fatalf("sealed: %v", err)
		}
		w.start(w.early())
		w.settled()
		w.wantEpoch(2, frame.ReasonUncleanStop)
		w.kill()
	})
}

// TestRebootWithoutAgent: a boot that ended before the agent started is sealed, too.
func TestRebootWithoutAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := lived(t, 6)
		if err := w.seal(w.sealing()); err != nil {
			t.Fatal(err)
		}
		resume := w.early()
		w.burst(9)
		j, rec, state := w.open()
		p := New(Config{
			Machine: block.MachineID{1}, Log: slog.New(slog.DiscardHandler), Source: w.source(), Journal: j,
			State: state, Recovered: rec, Resume: resume, Events: func(desired.Event) {},
		})
		p.where = nowhere
		if err := p.Seal(t.Context(), w.sealing()); err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
		w.start(w.early())
		w.settled()
		w.wantEpoch(1, frame.ReasonInitial)
		w.kill()
	})
}
