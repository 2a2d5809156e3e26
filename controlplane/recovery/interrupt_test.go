package recovery_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/controlplane/recovery"
	"github.com/understudy-dr/understudy/controlplane/recovery/recoverytest"
	"github.com/understudy-dr/understudy/pkg/block"
)

// TestInterruptedAtAnyReadAndContinued interrupts fills and advances at random
// places, changing the goal now and then, until one gets through.
func TestInterruptedAtAnyReadAndContinued(t *testing.T) {
	points := history(7, 6*mib, 6*mib, 9*mib, 4*mib)
	r := rand.New(rand.NewPCG(8, 8))
	for round := range 12 {
		format := []recovery.Format{recovery.Raw, recovery.FixedVHD}[round%2]
		target := recovery.Target{Path: filepath.Join(t.TempDir(), "disk"), Format: format}
		for step := range 12 {
			d := points[r.IntN(len(points))]
			ctx, cancel := context.WithCancel(t.Context())
			var left atomic.Int64
			left.Store(r.Int64N(5))
			d.OnRead = func(int64) {
				if left.Add(-1) == 0 {
					cancel()
				}
			}
			_, err := recovery.Advance(ctx, disk(d, "sda"), target, recovery.Options{Workers: 2})
			if errors.Is(err, recovery.ErrNoTarget) {
				_, err = recovery.Materialise(ctx, disk(d, "sda"), target, recovery.Options{Workers: 2})
			}
			cancel()
			d.OnRead = nil
			switch {
			case err == nil:
				mustHold(t, target, d)
			case !errors.Is(err, context.Canceled):
				t.Fatalf("round %d, step %d: %v", round, step, err)
			}
		}
		if _, err := recovery.Advance(t.Context(), disk(points[0], "sda"), target, recovery.Options{}); err != nil {
			t.Fatal(err)
		}
		mustHold(t, target, points[0])
	}
}

// TestFillGoesOnFromItsCheckpoint has every read take six seconds, so that notes of
// how far it has come are made, and interrupts the fill near its end.
func TestFillGoesOnFromItsCheckpoint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &recoverytest.Disk{Data: bytes.Repeat([]byte("data"), 20*mib), Position: block.Position{Epoch: 1, Seq: 1}}
		target := recovery.Target{Path: filepath.Join(t.TempDir(), "disk"), Format: recovery.FixedVHD}
		ctx, cancel := context.WithCancel(t.Context())
		d.OnRead = func(int64) {
			time.Sleep(6 * time.Second)
			if d.Reads.Load() >= 18 {
				cancel()
			}
		}
		opts := recovery.Options{Workers: 2}
		if _, err := recovery.Materialise(ctx, disk(d, "sda"), target, opts); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		side, err := recovery.ReadSidecar(target.Path)
		if err != nil || side.State != recovery.StateWriting || side.Done < 40*mib || side.Done >= 80*mib {
			t.Fatalf("%+v, %v", side, err)
		}
		before := d.Reads.Load()
		res, err := recovery.Materialise(t.Context(), disk(d, "sda"), target, opts)
		if err != nil || !res.Resumed {
			t.Fatalf("%+v, %v", res, err)
		}
		if n := d.Reads.Load() - before; n != (80*mib-side.Done)/(4*mib) {
			t.Errorf("%d more reads from %d on", n, side.Done)
		}
		mustHold(t, target, d)
	})
}

// TestKilledAtAnyMoment runs materialisations in a process that is killed -9 again
// and again, and demands that what is left can always be continued.
func TestKilledAtAnyMoment(t *testing.T) {
	points := history(11, 24*mib, 24*mib, 30*mib)
	if dir := os.Getenv("RECOVERY_TEST_KILL"); dir != "" {
		target := recovery.Target{Path: filepath.Join(dir, "disk"), Format: recovery.FixedVHD}
		if _, err := recovery.Materialise(t.Context(), disk(points[0], "sda"), target, recovery.Options{DiscardChanges: true}); err != nil && !errors.Is(err, recovery.ErrOtherPoint) {
			t.Fatal(err)
		}
		for i := 1; ; i++ {
			if _, err := recovery.Advance(t.Context(), disk(points[i%3], "sda"), target, recovery.Options{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := t.TempDir()
	target := recovery.Target{Path: filepath.Join(dir, "disk"), Format: recovery.FixedVHD}
	r := rand.New(rand.NewPCG(12, 12))
	for range 8 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledAtAnyMoment$")
		cmd.Env = append(os.Environ(), "RECOVERY_TEST_KILL="+dir)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for { // wait until it has begun to work, then a little longer
			if _, err := os.Lstat(recovery.SidecarPath(target.Path)); err == nil || cmd.Process.Signal(syscall.Signal(0)) != nil {
				break
			}
		}
		for range r.IntN(400) {
			_, _ = recovery.ReadSidecar(target.Path) // passes the time, and must never see half a sidecar
			if _, err := recovery.ReadSidecar(target.Path); err != nil {
				t.Fatal(err)
			}
		}
		_ = cmd.Process.Kill()
		if err := cmd.Wait(); err == nil || out.Len() > 0 {
			t.Fatalf("the process ended by itself: %v\n%s", err, out.Bytes())
		}
		d := points[r.IntN(3)]
		if _, err := recovery.Advance(t.Context(), disk(d, "sda"), target, recovery.Options{}); err != nil {
			t.Fatal(err)
		}
		mustHold(t, target, d)
	}
}
