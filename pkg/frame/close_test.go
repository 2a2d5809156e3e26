package frame

import (
	"bytes"
	"crypto/rand"
	"testing"

	"github.com/understudy-dr/understudy/pkg/block"
)

// fill adds n records of size bytes from data to a fresh frame.
func fill(t testing.TB, b *Builder, n, size int, data []byte) {
	b.Reset(KindLog, 1, 1, opened)
	for i := range n {
		at := i * size % (len(data) - size + 1)
		if err := b.Add(diskA, OpWrite, block.Extent{Off: int64(i * size), Len: int64(size)}, data[at:at+size]); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCloseIsAppend on both sides of the head room, raw and compressed, with records
// dropped and without.
func TestCloseIsAppend(t *testing.T) {
	noise := make([]byte, 1<<20)
	_, _ = rand.Read(noise)
	for _, data := range [][]byte{noise, make([]byte, 1<<20)} {
		b := NewBuilder(machine)
		for _, n := range []int{0, 1, headRoom/extentEntry - 7, headRoom / extentEntry, 2000} {
			fill(t, b, n, 512, data)
			if n > 1 {
				if err := b.Add(diskA, OpWrite, block.Extent{Len: 512}, data[512:1024]); err != nil {
					t.Fatal(err)
				}
			}
			want, err := b.Append([]byte("before"), block.Seq(n+1), closed, CompressAlways)
			if err != nil || !bytes.HasPrefix(want, []byte("before")) {
				t.Fatal(err)
			}
			got, err := b.Close(block.Seq(n+1), closed, CompressAlways)
			if err != nil || !bytes.Equal(got, want[len("before"):]) {
				t.Fatalf("%d records: Close gives other bytes than Append: %v", n, err)
			}
			f, err := Parse(got)
			if err != nil || f.Extents != n {
				t.Fatalf("%d records: %+v, %v", n, f, err)
			}
		}
	}
}

// TestSamplingGoesOn: however long nothing compressed, data that does is noticed soon.
func TestSamplingGoesOn(t *testing.T) {
	b := NewBuilder(machine)
	noise := make([]byte, 1<<20)
	_, _ = rand.Read(noise)
	codec := func(data []byte) Codec {
		fill(t, b, 256, 4096, data)
		raw, err := b.Close(256, closed, CompressAuto)
		if err != nil {
			t.Fatal(err)
		}
		h, err := ParseHeader(raw)
		if err != nil {
			t.Fatal(err)
		}
		return h.Codec
	}
	for range 100 {
		if c := codec(noise); c != CodecRaw {
			t.Fatalf("noise is stored as %s", c)
		}
	}
	text := make([]byte, 1<<20)
	for n := 0; codec(text) != CodecLZ4; n++ {
		if n == maxUnsampled {
			t.Fatalf("%d frames that compress well were stored raw", n+1)
		}
	}
	if c := codec(text); c != CodecLZ4 {
		t.Errorf("the frame after the one noticed is stored as %s", c)
	}
}

// BenchmarkClose is what a frame of a machine's churn costs, with data that does not
// compress.
func BenchmarkClose(b *testing.B) {
	noise := make([]byte, 1<<20)
	_, _ = rand.Read(noise)
	bl := NewBuilder(machine)
	b.SetBytes(1 << 20)
	for b.Loop() {
		fill(b, bl, 256, 4096, noise)
		if _, err := bl.Close(256, closed, CompressAuto); err != nil {
			b.Fatal(err)
		}
	}
}
