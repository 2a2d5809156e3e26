package block

import (
	"crypto/sha256"
	"testing"

	"pgregory.net/rapid"
)

// TestHashesAgainstDefinition holds every shortcut (zero constants, vectorised
// zero test, short last granule) against the definition in one line.
func TestHashesAgainstDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := make([]byte, rapid.IntRange(0, 3*CoarseGranule).Draw(t, "len"))
		for range rapid.IntRange(0, 3).Draw(t, "marks") {
			if len(b) > 0 {
				b[rapid.IntRange(0, len(b)-1).Draw(t, "at")] = byte(rapid.IntRange(0, 2).Draw(t, "v"))
			}
		}
		g := int(rapid.SampledFrom([]int64{FineGranule, CoarseGranule}).Draw(t, "granule"))
		got := AppendHashes(nil, b, int64(g))
		if want := (len(b) + g - 1) / g; len(got) != want {
			t.Fatalf("%d bytes by %d gave %d hashes, want %d", len(b), g, len(got), want)
		}
		for i := range got {
			part := b[i*g : min((i+1)*g, len(b))]
			sum := sha256.Sum256(part)
			if got[i] != Hash16(sum[:HashSize]) {
				t.Fatalf("granule %d of %d bytes by %d: wrong hash", i, len(b), g)
			}
			zero := true
			for _, c := range part {
				zero = zero && c == 0
			}
			if IsZero(part) != zero || (ZeroHash(int64(len(part))) == got[i]) != zero {
				t.Fatalf("granule %d: zero is %v, IsZero says %v", i, zero, IsZero(part))
			}
		}
	})
}

func BenchmarkHashes64K(b *testing.B) {
	buf := make([]byte, 1<<20)
	for i := range buf {
		buf[i] = byte(i*7 + i>>9)
	}
	dst := make([]Hash16, 0, 16)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		dst = AppendHashes(dst[:0], buf, CoarseGranule)
	}
}

func BenchmarkHashes4K(b *testing.B) {
	buf := make([]byte, 1<<20)
	for i := range buf {
		buf[i] = byte(i*7 + i>>9)
	}
	dst := make([]Hash16, 0, 256)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		dst = AppendHashes(dst[:0], buf, FineGranule)
	}
}

func BenchmarkIsZero(b *testing.B) {
	buf := make([]byte, 1<<20)
	b.SetBytes(int64(len(buf)))
	for b.Loop() {
		if !IsZero(buf) {
			b.Fatal("zeros are not zero")
		}
	}
}
