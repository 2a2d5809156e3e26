package capture

import (
	"context"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
)

// TestOverflowFallsBackAndReturns: a ring that nobody empties loses writes; what it
// held before is a prefix, the dirty map covers the rest, and after a resync of
// that the capture is exact again.
func TestOverflowFallsBackAndReturns(t *testing.T) {
	ctx := context.Background()
	dir := memory(t)
	disks := []Disk{newLoop(t, dir, 32<<20), newLoop(t, dir, 32<<20)}
	s := tracking(t, 4<<20, disks...)
	r := newReplica(disks...)
	for round := range uint64(3) {
		for i, d := range disks {
			scribble(t, d, 2, 40, round*10+uint64(i))
		}
		h, err := s.Health()
		must(t, err)
		if h.Armed || h.Reason() != RingOverflow {
			t.Fatalf("round %d: health %+v", round, h)
		}
		if !r.drain(t, s) {
			t.Fatal("Poll does not tell of the loss")
		}
		for range 2 { // it goes on telling
			if n, lost, err := s.Poll(r.apply); n != 0 || !lost || err != nil {
				t.Fatalf("after the loss: %d records, lost %v, %v", n, lost, err)
			}
		}
		for _, d := range disks {
			dirty, err := s.Dirty(d.ID)
			must(t, err)
			diffWithin(t, r, d, dirty)
		}
		_, err = s.Arm(ctx)
		must(t, err)
		_, err = s.SwapDirty(ctx)
		must(t, err)
		must(t, s.Barrier(ctx))
		for _, d := range disks {
			dirty, err := s.Dirty(d.ID)
			must(t, err)
			now := readDisk(t, d)
			for e := range dirty.All() {
				copy(r.images[d.ID][e.Off:e.End()], now[e.Off:e.End()])
			}
		}
		must(t, s.ForgetDirty())
		writeAt(t, disks[0], 1<<20, 64<<10)
		writeAt(t, disks[1], 0, 1<<20)
		if r.drain(t, s) {
			t.Fatal("lost again at once")
		}
		for _, d := range disks {
			r.equal(t, d)
		}
	}
}

// diffWithin: the replica differs from the disk in dirty blocks only.
func diffWithin(t testing.TB, r *replica, d Disk, dirty *block.Set) {
	t.Helper()
	now, image := readDisk(t, d), r.images[d.ID]
	differs := 0
	for off := int64(0); off < d.Size; off += 4096 {
		end := min(off+4096, d.Size)
		if firstDifference(now[off:end], image[off:end]) < 0 {
			continue
		}
		differs++
		if !dirty.Covers(block.Extent{Off: off, Len: end - off}) {
			t.Fatalf("%s: block at %d differs and is not dirty", d.Path, off)
		}
	}
	t.Logf("%s: %d blocks differ, %d bytes are dirty", d.Path, differs, dirty.Bytes())
}

// TestLossIsNotForgotten: the blocks of a lost write outlive a ForgetDirty that comes
// before anybody has noticed the loss.
func TestLossIsNotForgotten(t *testing.T) {
	ctx := context.Background()
	d := newLoop(t, memory(t), 16<<20)
	s := tracking(t, minRingBytes, d)
	writeAt(t, d, 1<<20, 1<<20) // does not fit the ring
	pos, err := s.SwapDirty(ctx)
	must(t, err)
	if pos != s.Position() {
		t.Fatal("something was captured")
	}
	must(t, s.ForgetDirty())
	dirtyIs(t, s, d, block.Extent{Off: 1 << 20, Len: 1 << 20})
	_, err = s.Arm(ctx)
	must(t, err)
	_, err = s.SwapDirty(ctx)
	must(t, err)
	dirtyIs(t, s, d, block.Extent{Off: 1 << 20, Len: 1 << 20})
	must(t, s.ForgetDirty())
	dirtyIs(t, s, d)
}

// TestRefusedWriteIsLost: a zeroing that the device fails is in the ring all the
// same; from then on its blocks are in doubt.
func TestRefusedWriteIsLost(t *testing.T) {
	needRoot(t)
	f, err := os.Create(memory(t) + "/disk.img")
	must(t, err)
	defer func() { _ = f.Close() }()
	must(t, f.Truncate(16<<20))
	dev := attachLoop(t, f) // and no zeroing before: it still believes that it can
	defer detachLoop(dev)
	d, err := Resolve(dev)
	must(t, err)
	s := tracking(t, 1<<20, d)
	disk := openDirect(t, dev)
	defer func() { _ = disk.Close() }()
	if err := unix.Fallocate(int(disk.Fd()), unix.FALLOC_FL_ZERO_RANGE|unix.FALLOC_FL_KEEP_SIZE, 1<<20, 1<<20); err != nil {
		t.Logf("as expected, %v", err)
	}
	h, err := s.Health()
	must(t, err)
	if h.Reason() != AuditDifference {
		t.Fatalf("health %+v", h)
	}
	dirtyIs(t, s, d, block.Extent{Off: 1 << 20, Len: 1 << 20})
}

// TestArmDropsAndBegins: nothing from before Arm is delivered after it.
func TestArmDropsAndBegins(t *testing.T) {
	ctx := context.Background()
	d := newLoop(t, memory(t), 16<<20)
	s := openSource(t, 1<<20)
	must(t, s.Track(ctx, d))
	before, ok := s.Armed()
	if ok {
		t.Fatal("armed before Arm")
	}
	writeAt(t, d, 0, 4096)
	r := newReplica(d)
	if r.drain(t, s); r.records != 0 {
		t.Fatalf("%d records before Arm", r.records)
	}
	a, err := s.Arm(ctx)
	must(t, err)
	writeAt(t, d, 4096, 4096)
	b, err := s.Arm(ctx)
	must(t, err)
	if b.Generation <= a.Generation || b.Pos <= a.Pos || b.Ring != a.Ring || before.Ring != a.Ring {
		t.Fatalf("armed %+v, then %+v, then %+v", before, a, b)
	}
	writeAt(t, d, 8192, 4096)
	if r.drain(t, s); r.records != 1 {
		t.Fatalf("%d records after the second Arm", r.records)
	}
	must(t, s.Disarm())
	writeAt(t, d, 12288, 4096)
	if r.drain(t, s); r.records != 1 {
		t.Fatal("a record after Disarm")
	}
	dirtyIs(t, s, d, block.Extent{Len: 16384})
}

// TestPollDeliversAgainWhatWasNotTaken, and Rewind what was not stored.
func TestPollDeliversAgainWhatWasNotTaken(t *testing.T) {
	d := newLoop(t, memory(t), 16<<20)
	s := tracking(t, 1<<20, d)
	for i := range int64(4) {
		writeAt(t, d, i*4096, 4096)
	}
	var offs []int64
	take := func(n int) func(Record) bool {
		return func(r Record) bool {
			if n == 0 {
				return false
			}
			n--
			offs = append(offs, r.Off/4096)
			return true
		}
	}
	for _, n := range []int{1, 2, 5} {
		if _, _, err := s.Poll(take(n)); err != nil {
			t.Fatal(err)
		}
	}
	s.Rewind()
	if _, _, err := s.Poll(take(9)); err != nil {
		t.Fatal(err)
	}
	if len(offs) != 8 || offs[0] != 0 || offs[3] != 3 || offs[4] != 0 || offs[7] != 3 {
		t.Fatalf("delivered %v", offs)
	}
	if err := s.Advance(s.Position() + 1<<30); err == nil {
		t.Fatal("advanced beyond the end")
	}
}

// TestLossIsNotForgottenAfterDisarm: a loss that was noticed ends the stretch, and what
// the acknowledgements of earlier records then let go must not be the lost write's.
func TestLossIsNotForgottenAfterDisarm(t *testing.T) {
	ctx := context.Background()
	d := newLoop(t, memory(t), 16<<20)
	s := tracking(t, minRingBytes, d)
	writeAt(t, d, 1<<20, 1<<20) // does not fit the ring
	_, err := s.SwapDirty(ctx)
	must(t, err)
	must(t, s.Disarm())
	must(t, s.ForgetDirty())
	dirtyIs(t, s, d, block.Extent{Off: 1 << 20, Len: 1 << 20})
}
