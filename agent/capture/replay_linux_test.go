package capture

import (
	"context"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	blkDiscard = 0x1277
	blkZeroout = 0x127f
)

// noDiscards holds the paths of disks that need not read zeros where discarded.
var noDiscards sync.Map

// scribble writes, discards and zeroes at random, by several writers at once, each
// in its own part of the disk: what overlaps in flight has no order.
func scribble(t testing.TB, d Disk, writers, ops int, seed uint64) {
	t.Helper()
	var wg sync.WaitGroup
	share := d.Size / int64(writers) / 512 * 512
	for w := range writers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)))
			direct := openDirect(t, d.Path)
			defer func() { _ = direct.Close() }()
			buffered, err := os.OpenFile(d.Path, os.O_RDWR, 0)
			must(t, err)
			defer func() { _ = buffered.Close() }()
			_, refuses := refusesZeroes.Load(d.Path)
			_, keeps := noDiscards.Load(d.Path)
			buf := aligned(2 << 20)
			fill(buf, r)
			for range ops {
				if err := randomOp(r, direct, buffered, buf, int64(w)*share, share, !refuses, !keeps); err != nil {
					t.Error(err)
					return
				}
			}
			if err := buffered.Sync(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func randomOp(r *rand.Rand, direct, buffered *os.File, buf []byte, base, share int64, zeroes, discards bool) error {
	sizes := []int64{512, 1024, 4096, 4096, 4096, 8192, 12288, 16384, 20480, 65536, 100 << 10, 256 << 10, 1 << 20, 1<<20 + 512, 2 << 20}
	n := min(sizes[r.IntN(len(sizes))], share/2)
	off := base + r.Int64N((share-n)/512+1)*512
	data := buf[:n]
	fill(data[:min(n, 64)], r)
	kind := r.IntN(12)
	if kind == 1 && !zeroes || kind == 0 && !discards {
		kind = 5
	}
	switch kind {
	case 0:
		// Page cache and direct writes of the same blocks would race: drop it first.
		return errors2(buffered.Sync(), blkRange(direct, blkDiscard, off, n))
	case 1:
		return errors2(buffered.Sync(), blkRange(direct, blkZeroout, off, n))
	case 2, 3:
		_, err := buffered.WriteAt(data, off)
		return errors2(err, buffered.Sync())
	case 4: // vectors that do not fill their pages
		half := n / 1024 * 512
		_, err := unix.Pwritev(int(direct.Fd()), [][]byte{data[half:], data[:half]}, off)
		return err
	}
	_, err := direct.WriteAt(data, off)
	return err
}

func errors2(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// TestReplayEqualsDisk: what was captured makes the disk again, byte for byte.
func TestReplayEqualsDisk(t *testing.T) {
	for _, where := range []struct {
		name string
		dir  func(testing.TB) string
	}{
		{"tmpfs", memory},
		{"file", func(t testing.TB) string { return t.TempDir() }},
	} {
		t.Run(where.name, func(t *testing.T) {
			dir := where.dir(t)
			disks := []Disk{newLoop(t, dir, 64<<20), newLoop(t, dir, 32<<20+512*7), newLoop(t, dir, 16<<20)}
			s := tracking(t, 256<<20, disks...) // outlasts a slow machine
			r := newReplica(disks...)
			stop, done := make(chan struct{}), make(chan struct{})
			go func() { defer close(done); r.follow(t, s, stop) }()
			var wg sync.WaitGroup
			for i, d := range disks {
				wg.Go(func() { scribble(t, d, 2, 150, uint64(i)) })
			}
			wg.Wait()
			must(t, s.Barrier(context.Background()))
			close(stop)
			<-done
			for _, d := range disks {
				r.equal(t, d)
			}
			h, err := s.Health()
			must(t, err)
			if !h.Armed || len(h.Losses) > 0 {
				t.Fatalf("health: %+v", h)
			}
			t.Logf("%d records, %d bytes", r.records, r.bytes)
		})
	}
}
