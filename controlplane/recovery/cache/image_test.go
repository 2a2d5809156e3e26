package cache

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-dr/understudy/controlplane/recovery"
	"github.com/understudy-dr/understudy/controlplane/recovery/recoverytest"
)

func noise(size int) *recoverytest.Disk {
	r := rand.New(rand.NewPCG(1, 5))
	d := &recoverytest.Disk{Data: make([]byte, size)}
	for i := range d.Data {
		d.Data[i] = byte(r.Uint32())
	}
	return d
}

func TestReadsAreRightAndMemoryIsBounded(t *testing.T) {
	const size = 40<<20 + 1000
	d := noise(size)
	c := New(1)
	img := c.Image(d)
	limit := int64(aheadAtOnce * maxWindow * BlockSize)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 6))
			at := int64(w) * size / 4
			for range 300 {
				if r.IntN(8) == 0 {
					at = r.Int64N(size)
				}
				p := make([]byte, 1+r.IntN(200_000))
				n, err := img.ReadAt(p, at)
				if want := d.Data[at:min(at+int64(len(p)), size)]; !bytes.Equal(p[:n], want) || (err == io.EOF) != (n < len(p)) {
					t.Errorf("[%d+%d): %d bytes, %v", at, len(p), n, err)
					return
				}
				if at += int64(n); at >= size {
					at = 0
				}
				if got := c.Bytes(); got > limit {
					t.Errorf("the cache holds %d bytes, the limit is %d", got, limit)
				}
			}
		})
	}
	wg.Wait()
	c.Close()
	if n, err := img.ReadAt(make([]byte, 1), size); n != 0 || err != io.EOF {
		t.Errorf("a read at the end: %d, %v", n, err)
	}
}

func TestRepeatedReadsComeFromMemory(t *testing.T) {
	d := noise(1 << 20)
	img := New(8 << 20).Image(d)
	for range 100 {
		if err := recovery.ReadFull(img, make([]byte, 4096), 70_000); err != nil {
			t.Fatal(err)
		}
	}
	if n := d.Reads.Load(); n != 1 {
		t.Fatalf("%d reads below, want 1", n)
	}
}

// TestSequentialReaderHardlyWaits reads in sequence from an image that takes a second
// for any read, whatever its size, spending 100 ms on each block itself.
func TestSequentialReaderHardlyWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := noise(32 << 20)
		d.OnRead = func(int64) { time.Sleep(time.Second) }
		c := New(64 << 20)
		img := c.Image(d)
		start := time.Now()
		for off := int64(0); off < d.Size(); off += BlockSize {
			if err := recovery.ReadFull(img, make([]byte, BlockSize), off); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		c.Close()
		own := time.Duration(d.Size()/BlockSize) * 100 * time.Millisecond
		if waited := time.Since(start) - own; waited > 6*time.Second {
			t.Errorf("waited %v for %d reads below", waited, d.Reads.Load())
		}
		if n := d.Reads.Load(); n > 24 {
			t.Errorf("%d reads below", n)
		}
	})
}

func TestRandomReaderReadsNothingAhead(t *testing.T) {
	d := noise(16 << 20)
	c := New(64 << 20)
	img := c.Image(d)
	for b := int64(0); b < 256; b += 10 {
		if err := recovery.ReadFull(img, make([]byte, 512), b*BlockSize); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()
	if got := c.Bytes(); got != 26*BlockSize {
		t.Errorf("26 scattered reads left %d bytes in the cache", got)
	}
}

// TestOneBadPlaceFailsOnlyThere reads in sequence over a byte that cannot be read.
func TestOneBadPlaceFailsOnlyThere(t *testing.T) {
	d := noise(4 << 20)
	d.FailAt = 2<<20 + 5
	c := New(64 << 20)
	img := c.Image(d)
	for range 2 {
		for b := range d.Size() / BlockSize {
			p := make([]byte, BlockSize)
			err := recovery.ReadFull(img, p, b*BlockSize)
			if bad := b == d.FailAt/BlockSize; errors.Is(err, recoverytest.ErrBroken) != bad || err != nil && !bad {
				t.Fatalf("block %d: %v", b, err)
			}
			if err == nil && !bytes.Equal(p, d.Data[b*BlockSize:(b+1)*BlockSize]) {
				t.Fatalf("block %d is wrong", b)
			}
		}
	}
	d.FailAt = 0
	if err := recovery.ReadFull(img, make([]byte, 100), 2<<20); err != nil {
		t.Fatalf("a failure was cached: %v", err)
	}
	c.Close()
}
