package recovery_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/understudy-dr/understudy/controlplane/recovery"
	"github.com/understudy-dr/understudy/controlplane/recovery/recoverytest"
	"github.com/understudy-dr/understudy/pkg/block"
)

// source makes a file of size bytes like a file system after some use: stretches of
// data of many lengths, half of the whole, the rest holes.
func source(b *testing.B, size int64) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "source")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		b.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 7))
	buf := make([]byte, 4<<20)
	for i := range buf {
		buf[i] = byte(r.Uint32())
	}
	for off := int64(0); off < size; {
		n := min(4096*(1+r.Int64N(1<<r.IntN(11))), size-off)
		if _, err := f.WriteAt(buf[:n], off); err != nil {
			b.Fatal(err)
		}
		off += 2 * n
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	return path
}

const benchSize = 2 << 30

// BenchmarkMaterialise against BenchmarkCp: the same file, both until it is synced.
func BenchmarkMaterialise(b *testing.B) {
	img, err := recoverytest.OpenFile(source(b, benchSize))
	if err != nil {
		b.Fatal(err)
	}
	defer img.Close()
	for _, format := range []recovery.Format{recovery.Raw, recovery.FixedVHD} {
		b.Run(string(format), func(b *testing.B) {
			b.SetBytes(benchSize)
			for b.Loop() {
				target := recovery.Target{Path: filepath.Join(b.TempDir(), "target"), Format: format}
				d := recovery.Disk{Origin: disk(&recoverytest.Disk{Position: block.Position{Epoch: 1, Seq: 1}}, "sda").Origin, Image: img}
				if _, err := recovery.Materialise(b.Context(), d, target, recovery.Options{}); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := recovery.Remove(target.Path); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

func BenchmarkCp(b *testing.B) {
	src := source(b, benchSize)
	for _, sparse := range []string{"always", "auto"} {
		b.Run("sparse="+sparse, func(b *testing.B) {
			b.SetBytes(benchSize)
			for b.Loop() {
				dst := filepath.Join(b.TempDir(), "target")
				if out, err := exec.Command("cp", "--reflink=never", "--sparse="+sparse, src, dst).CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				if out, err := exec.Command("sync", dst).CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				b.StopTimer()
				if err := os.Remove(dst); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkAdvance changes one percent of a target in place.
func BenchmarkAdvance(b *testing.B) {
	points := history(1, 256*mib)
	other := &recoverytest.Disk{Data: bytes.Clone(points[0].Data), Position: block.Position{Epoch: 9, Seq: 9}}
	r := rand.New(rand.NewPCG(3, 3))
	for range 256 * mib / 100 / 65536 {
		at := r.IntN(256*mib - 65536)
		for i := range 65536 {
			other.Data[at+i] ^= 0xff
		}
	}
	points = append(points, other)
	points[0].Others, other.Others = points, points
	target := recovery.Target{Path: filepath.Join(b.TempDir(), "target"), Format: recovery.Raw}
	if _, err := recovery.Materialise(b.Context(), disk(points[0], "sda"), target, recovery.Options{}); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(256 * mib)
	i := 0
	for b.Loop() {
		i++
		if _, err := recovery.Advance(b.Context(), disk(points[i%2], "sda"), target, recovery.Options{}); err != nil && !errors.Is(err, recovery.ErrBusy) {
			b.Fatal(err)
		}
	}
}
