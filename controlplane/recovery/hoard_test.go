package recovery_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/controlplane/recovery"
	"github.com/understudy-dr/understudy/controlplane/recovery/recoverytest"
)

// hoarded is the disk read by lots.
func hoarded(d *recoverytest.Disk) recovery.Disk {
	k := disk(d, "sda")
	k.Image = recoverytest.Hoard{Disk: d}
	return k
}

// TestHoardIsWrittenByLots: exactly, with a progress that ends at its total.
func TestHoardIsWrittenByLots(t *testing.T) {
	for i, d := range history(21, 5*mib, 7*mib+512, mib/2) {
		for _, format := range []recovery.Format{recovery.Raw, recovery.FixedVHD} {
			target := recovery.Target{Path: filepath.Join(t.TempDir(), "disk"), Format: format}
			var last recovery.Progress
			res, err := recovery.Materialise(t.Context(), hoarded(d), target, recovery.Options{Progress: func(p recovery.Progress) { last = p }})
			if err != nil || last.Done != last.Total || res.Data != last.Total || res.Written > res.Data {
				t.Fatalf("disk %d as %s: %+v, progress %+v, %v", i, format, res, last, err)
			}
			mustHold(t, target, d)
		}
	}
}

// TestHoardGoesOnFromItsCheckpoint has every lot take six seconds and interrupts fills
// after more and more of them: nothing before the note may be missing.
func TestHoardGoesOnFromItsCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(22, 22))
		d := history(22, 12*mib)[0]
		for i := range d.Data {
			d.Data[i] |= byte(i>>12) | 1 // no zeros: what is missing shows
		}
		noted := 0
		for range 20 {
			target := recovery.Target{Path: filepath.Join(t.TempDir(), "disk"), Format: recovery.Raw}
			opts := recovery.Options{Workers: 3}
			ctx, cancel := context.WithCancel(t.Context())
			end := d.Reads.Load() + r.Int64N(80)
			d.OnRead = func(int64) {
				time.Sleep(time.Duration(1+rand.IntN(12)) * time.Second) // several workers are in here at once
				if d.Reads.Load() >= end {
					cancel()
				}
			}
			_, err := recovery.Materialise(ctx, hoarded(d), target, opts)
			if err != nil && !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			if side, err := recovery.ReadSidecar(target.Path); err == nil && side.Done > 0 {
				noted++
			}
			d.OnRead = nil
			if _, err := recovery.Materialise(t.Context(), hoarded(d), target, opts); err != nil {
				t.Fatal(err)
			}
			mustHold(t, target, d)
			cancel()
		}
		if noted == 0 {
			t.Error("no fill was interrupted behind a note")
		}
	})
}
