package vault

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
	"github.com/understudy-dr/understudy/controlplane/objstore/storetest"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

func wantErr(t *testing.T, err, want error, words ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Fatalf("%q does not say %q", err, w)
		}
	}
}

// TestCommitRepeated: a commit whose answer was lost is repeated, by the same writer and
// by the next, and nothing is stored twice.
func TestCommitRepeated(t *testing.T) {
	h := newHistory(1, 64*sector)
	store := mem.New()
	faulty := storetest.NewFaulty(store)
	v, w := setup(t, faulty, h)
	h.begin(frame.ReasonInitial)
	h.baseFrame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(sector, 1)})
	h.finish()
	errLost := errors.New("answer lost")
	for _, batch := range [][][]byte{h.log, h.base} {
		faulty.SetRule(func(c storetest.Call) storetest.Fault {
			if c.Op == "put" {
				return storetest.Fault{Err: errLost, After: true}
			}
			return storetest.Fault{}
		})
		before := w.State()
		wantErr(t, w.Commit(t.Context(), batch), errLost)
		if !w.State().equal(before) {
			t.Fatal("a commit that failed changed the state")
		}
		faulty.SetRule(nil)
		for range 2 {
			if err := w.Commit(t.Context(), batch); err != nil {
				t.Fatalf("repeated: %v", err)
			}
		}
	}
	next := must(reopenWriter(v, h))
	if err := next.Commit(t.Context(), h.log); err != nil || !next.State().equal(w.State()) {
		t.Fatalf("repeated by the next writer: %v", err)
	}
	if n := len(keys(store)); n != 6 { // vault, key, log, base, two leases
		t.Fatalf("%d objects: %v", n, keys(store))
	}
	// The same place with another content is a conflict, whoever comes.
	other := bytes.Clone(must(frame.AppendMark(nil, h.machine, 1, 1, h.now, frame.Mark{Type: frame.MarkEpochBegin, Detail: "another life"})))
	if err := next.Commit(t.Context(), [][]byte{other}); err == nil {
		t.Fatal("other frames were accepted in a place that is taken")
	}
}

func TestStaleWriterIsRefused(t *testing.T) {
	h := newHistory(1, 64*sector)
	store := mem.New()
	v, old := setup(t, store, h)
	h.begin(frame.ReasonInitial)
	h.flush(t, old)
	elsewhere, err := Open(t.Context(), store, Options{Key: Key{1}, Owner: "relay-b"})
	if err != nil {
		t.Fatal(err)
	}
	fresh := must(elsewhere.OpenWriter(t.Context(), h.machine))
	h.finish()
	wantErr(t, old.Commit(t.Context(), h.log), ErrStaleWriter, "relay-b", h.machine.String())
	h.flush(t, fresh)
	// Readers of the process that lost the lease see what the other one writes.
	m := must(v.Machine(t.Context(), h.machine))
	h.check(t, m, h.order)
	if s := must(m.Status(t.Context())); s.Last.Seq != h.seq {
		t.Fatalf("status %+v", s)
	}
	wantErr(t, fresh.Close(), nil)
	h.tick()
	wantErr(t, fresh.Commit(t.Context(), h.log), ErrStaleWriter)
}

// TestTwoWritersOfOnePlace: both believe that they hold the lease, since the store has
// hidden one's from the other for the moment that matters.
func TestTwoWritersOfOnePlace(t *testing.T) {
	h := newHistory(1, 64*sector)
	faulty := storetest.NewFaulty(mem.New())
	v, a := setup(t, faulty, h)
	h.begin(frame.ReasonInitial)
	h.flush(t, a)
	other := must(Open(t.Context(), faulty, Options{Key: Key{1}}))
	b := must(other.OpenWriter(t.Context(), h.machine))
	faulty.SetRule(func(c storetest.Call) storetest.Fault {
		if c.Op == "head" && strings.Contains(c.Key, "/lease/") {
			return storetest.Fault{Err: &objstore.Error{Class: objstore.ErrNotFound}}
		}
		return storetest.Fault{}
	})
	h.tick()
	h.flush(t, b)
	rival := must(frame.AppendTick(nil, h.machine, 1, h.seq, h.now.Add(time.Hour)))
	wantErr(t, a.Commit(t.Context(), [][]byte{rival}), ErrConflict)
	faulty.SetRule(nil)
	m := must(v.Machine(t.Context(), h.machine))
	if s := must(m.Status(t.Context())); s.Last.Seq != h.seq || !s.Closed.Equal(h.now) {
		t.Fatalf("after a conflict the loser still tells its own story: %+v", s)
	}
}

func TestCommitRefusesWhatBreaksTheChain(t *testing.T) {
	h := newHistory(1, 64*sector)
	_, w := setup(t, mem.New(), h)
	at := h.now
	tick := func(e block.Epoch, seq block.Seq) []byte { return must(frame.AppendTick(nil, h.machine, e, seq, at)) }
	begin := func(m block.MachineID, e block.Epoch, seq block.Seq) []byte {
		return must(frame.AppendMark(nil, m, e, seq, at, frame.Mark{Type: frame.MarkEpochBegin, Disks: h.disks}))
	}
	base := func(e block.Epoch, n block.Seq) []byte {
		b := frame.NewBuilder(h.machine)
		b.Reset(frame.KindBase, e, n, at)
		return must(b.Append(nil, n, at, frame.CompressNever))
	}
	damaged := func(b []byte) []byte { b[len(b)-1] ^= 1; return b }
	refused := func(name string, want error, raws ...[]byte) {
		t.Helper()
		if err := w.Commit(t.Context(), raws); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
	refused("a log that does not start with an epoch", ErrContinuity, tick(1, 1))
	if err := w.Commit(t.Context(), [][]byte{begin(h.machine, 1, 1), tick(1, 2)}); err != nil {
		t.Fatal(err)
	}
	refused("a gap", ErrContinuity, tick(1, 4))
	refused("a gap within", ErrContinuity, tick(1, 3), tick(1, 5))
	refused("going back", ErrContinuity, tick(1, 2))
	refused("another epoch without its mark", ErrContinuity, tick(2, 3))
	refused("an epoch again", ErrContinuity, begin(h.machine, 1, 3))
	refused("another machine", ErrContinuity, begin(block.NewMachineID(), 2, 3))
	refused("base among log", ErrContinuity, tick(1, 3), base(1, 1))
	refused("log among base", ErrContinuity, base(1, 1), tick(1, 3))
	refused("base from the middle", ErrContinuity, base(1, 2))
	refused("base of two epochs", ErrContinuity, base(1, 1), base(2, 1))
	refused("a damaged frame", frame.ErrHeaderChecksum, damaged(tick(1, 3)))
	if err := w.Commit(t.Context(), [][]byte{tick(1, 3)}); err != nil {
		t.Fatalf("after all that was refused: %v", err)
	}
	if s := w.State(); s.Last != (block.Position{Epoch: 1, Seq: 3}) {
		t.Fatalf("state %+v", s)
	}
}

// TestFullAndReadOnlyVault: nothing is lost, the class tells the relay what it is, and
// the same commit passes once there is room.
func TestFullAndReadOnlyVault(t *testing.T) {
	h := newHistory(1, 64*sector)
	store := mem.New()
	v, w := setup(t, store, h)
	h.begin(frame.ReasonInitial)
	h.finish()
	h.flush(t, w)
	h.frame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(32*sector, 1)})
	store.SetCapacity(1)
	wantErr(t, w.Commit(t.Context(), h.log), objstore.ErrFull, h.machine.String())
	store.SetCapacity(0)
	store.SetReadOnly(true)
	wantErr(t, w.Commit(t.Context(), h.log), objstore.ErrReadOnly)
	if _, err := v.OpenWriter(t.Context(), h.machine); !errors.Is(err, objstore.ErrReadOnly) {
		t.Fatalf("open writer: %v", err)
	}
	m := must(v.Machine(t.Context(), h.machine))
	h.check(t, m, h.order[:1])
	if _, err := m.thin(t.Context(), Retention{}); !errors.Is(err, objstore.ErrReadOnly) {
		t.Fatalf("thin: %v", err)
	}
	store.SetReadOnly(false)
	h.flush(t, must(reopenWriter(v, h)))
	h.check(t, m, h.order)
}

// TestFullVaultCanBeThinned: thinning needs room for a moment; where there is none it
// takes back what it wrote.
func TestFullVaultCanBeThinned(t *testing.T) {
	h := newHistory(1, 64*sector)
	store := mem.New()
	v, w := setup(t, store, h)
	h.begin(frame.ReasonInitial)
	h.finish()
	for i := range 6 {
		h.step(time.Hour)
		h.frame(frame.CompressNever, write{0, frame.OpWrite, int64(i) * sector, pattern(32*sector, byte(i))})
		h.flush(t, w)
	}
	m := must(v.Machine(t.Context(), h.machine))
	before := keys(store)
	store.SetCapacity(1)
	if _, err := m.Thin(t.Context(), DefaultRetention); !errors.Is(err, objstore.ErrFull) {
		t.Fatalf("thin: %v", err)
	}
	if got := keys(store); len(got) != len(before) {
		t.Fatalf("left behind: %v, before %v", got, before)
	}
	h.check(t, m, h.order)
	store.SetCapacity(0)
	want := h.expected(t, m, DefaultRetention)
	if _, err := m.Thin(t.Context(), DefaultRetention); err != nil {
		t.Fatal(err)
	}
	h.check(t, m, want)
}

// TestLateListing opens a machine whose newest objects no listing shows yet.
func TestLateListing(t *testing.T) {
	for late := range 12 {
		h := newHistory(1, 64*sector)
		faulty := storetest.NewFaulty(mem.New())
		_, w := setup(t, faulty, h)
		h.begin(frame.ReasonInitial)
		for i := range 3 {
			h.baseFrame(frame.CompressNever, write{0, frame.OpWrite, int64(i) * sector, pattern(sector, byte(i))})
			h.tick()
			h.flush(t, w)
		}
		h.finish()
		h.flush(t, w)
		faulty.SetLate(late)
		_, m := reopen(t, faulty, h)
		h.check(t, m, h.order)
		if got := positions(t, m); len(got) != len(h.order) {
			t.Fatalf("with %d objects hidden: points %v, want %v", late, got, h.order)
		}
	}
}

// TestLateListingBehindAThinning: a thinning may end within a log object, whose name does
// not follow from the frame that comes next. A relay that opened the machine while no
// listing showed that object yet took the chain for shorter than it is and wrote a second
// history beside what it had acknowledged.
func TestLateListingBehindAThinning(t *testing.T) {
	for late := range 6 {
		h := newHistory(1, 64*sector)
		faulty := storetest.NewFaulty(mem.New())
		v, w := setup(t, faulty, h)
		h.begin(frame.ReasonInitial)
		h.finish()
		h.flush(t, w)
		for range 5 { // one object from before the horizon to behind it
			h.tick()
			h.step(time.Hour)
		}
		h.flush(t, w)
		m := must(v.Machine(t.Context(), h.machine))
		if _, err := m.Thin(t.Context(), Retention{All: 3 * time.Hour, Hourly: 3 * time.Hour, Daily: 3 * time.Hour}); err != nil {
			t.Fatal(err)
		}
		want, end := positions(t, m), w.State().Last
		faulty.SetLate(late)
		v, _ = reopen(t, faulty, h)
		if again := must(v.OpenWriter(t.Context(), h.machine)); again.State().Last != end {
			t.Fatalf("with %d objects hidden the chain ends at %v, not at %v", late, again.State().Last, end)
		}
		if got := positions(t, must(v.Machine(t.Context(), h.machine))); !slices.Equal(got, want) {
			t.Fatalf("with %d objects hidden: points %v, want %v", late, got, want)
		}
	}
}

// TestNoPointBeforeItsBase: the streams of log and base arrive on their own. A point is
// offered when both are there, and not before.
func TestNoPointBeforeItsBase(t *testing.T) {
	h := newHistory(1, 64*sector)
	store := mem.New()
	v, w := setup(t, store, h)
	h.begin(frame.ReasonInitial)
	for i := range 2 {
		h.baseFrame(frame.CompressNever, write{0, frame.OpWrite, int64(i) * sector, pattern(sector, byte(i))})
	}
	h.finish()
	m := must(v.Machine(t.Context(), h.machine))
	for i, batch := range [][][]byte{h.log, h.base[:1], h.base[1:]} {
		if got := positions(t, m); len(got) != 0 {
			t.Fatalf("points %v with %d of 3 objects", got, i)
		}
		if err := w.Commit(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	h.check(t, m, positions(t, m))
	if _, other := reopen(t, store, h); len(positions(t, other)) != 1 {
		t.Fatalf("points %v", positions(t, other))
	}
}

// TestBaseOfTheEpochBefore: base frames that come when the next epoch has begun are
// refused: its copies were compared with what lies below it, and that must not change.
func TestBaseOfTheEpochBefore(t *testing.T) {
	h := newHistory(1, 64*sector)
	store := mem.New()
	v, w := setup(t, store, h)
	h.begin(frame.ReasonInitial)
	h.baseFrame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(sector, 1)})
	late := h.base
	h.base, h.below[h.disks[0].ID] = nil, make([]byte, 64*sector)
	h.begin(frame.ReasonUncleanStop)
	h.finish()
	h.flush(t, w)
	wantErr(t, w.Commit(t.Context(), late), ErrContinuity, "has begun")
	m := must(v.Machine(t.Context(), h.machine))
	h.check(t, m, h.order)
}
