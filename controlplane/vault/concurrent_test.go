package vault

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// TestEverythingAtOnce commits, thins, reads and hashes one machine at the same time,
// in the writing process and in another, and holds every read against the model.
func TestEverythingAtOnce(t *testing.T) {
	h := newHistory(2, 64*sector)
	store := mem.New()
	v, w := setup(t, store, h)
	h.begin(frame.ReasonInitial)
	h.finish()
	h.flush(t, w)
	var batches [][][]byte
	for i := range 200 {
		h.step(10 * time.Minute)
		if i == 100 {
			h.begin(frame.ReasonRingOverflow)
			h.finish()
		}
		h.frame(frame.CompressAuto, write{i % 2, frame.OpWrite, int64(i%40) * sector, pattern(8*sector, byte(i))})
		batches, h.log = append(batches, h.log), nil
	}
	m := must(v.Machine(t.Context(), h.machine))
	_, other := reopen(t, store, h)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	loop := func(fn func() error) {
		wg.Go(func() {
			for ctx.Err() == nil {
				if err := fn(); err != nil && ctx.Err() == nil {
					t.Error(err)
					stop()
				}
			}
		})
	}
	loop(func() error {
		_, err := m.Thin(ctx, DefaultRetention)
		return err
	})
	for _, reader := range []*Machine{m, other, other} {
		loop(func() error { return h.readSomePoint(ctx, reader) })
	}
	loop(func() error {
		_, err := m.RangeHashes(ctx, block.Position{}, h.disks[0].ID, 0, h.disks[0].Size, block.FineGranule)
		return err
	})
	for _, batch := range batches {
		if err := w.Commit(ctx, batch); err != nil {
			t.Error(err)
			break
		}
		time.Sleep(time.Millisecond)
	}
	stop()
	wg.Wait()
	if _, err := m.Thin(t.Context(), DefaultRetention); err != nil {
		t.Fatal(err)
	}
	h.check(t, m, positions(t, m))
	noGarbage(t, store, m)
}

// readSomePoint reads one point whole. That thinning has taken it since it was listed
// is no error; wrong bytes are.
func (h *history) readSomePoint(ctx context.Context, m *Machine) error {
	points, err := m.Points(ctx, time.Time{}, time.Time{})
	if err != nil || len(points) == 0 {
		return err
	}
	p := points[rand.IntN(len(points))].Position
	v, err := m.View(ctx, p)
	if errors.Is(err, ErrNoPoint) {
		return nil
	}
	if err != nil {
		return err
	}
	defer v.Close()
	for _, d := range h.disks {
		got := make([]byte, d.Size)
		if _, err := v.ReadAt(ctx, d.ID, got, 0); errors.Is(err, ErrNoPoint) {
			return nil
		} else if err != nil {
			return err
		}
		if !bytes.Equal(got, h.want[p][d.ID]) {
			return errors.New("wrong bytes at " + p.String())
		}
	}
	return nil
}
