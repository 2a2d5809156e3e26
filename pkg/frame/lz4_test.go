package frame

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/pierrec/lz4/v4"
)

// unpacked packs src and gives it to a reader of the format.
func unpacked(t *testing.T, table *lz4Table, src []byte) (packed int) {
	t.Helper()
	limit := lz4.CompressBlockBound(len(src))
	dst := make([]byte, lz4Room(limit))
	n := table.pack(dst, src, limit)
	if n == 0 {
		t.Fatalf("%d bytes do not fit into the format's bound", len(src))
	}
	out := make([]byte, len(src))
	if m, err := lz4.UncompressBlock(dst[:n], out); err != nil || m != len(src) || !bytes.Equal(out, src) {
		t.Fatalf("%d bytes became %d, which read as %d: %v", len(src), n, m, err)
	}
	// A limit is a limit, and one byte less is too little.
	if again := table.pack(dst, src, n+16); again != 0 && again != n {
		t.Fatalf("packed into %d, then into %d", n, again)
	}
	clear(dst)
	if short := table.pack(dst[:lz4Room(n-1)], src, n-1); short != 0 {
		t.Fatalf("%d bytes fit into %d", n, n-1)
	}
	return n
}

// disk is n bytes as a server's disk holds them: noise, text with numbers in it, and
// text that repeats.
func diskBytes(n int) []byte {
	r := rand.New(rand.NewPCG(1, 2))
	words := []string{"SELECT ", "id=", " INFO request ", "\"name\":\"", "user-", ", ", "GET /v1/", "status=200 "}
	var b []byte
	for len(b) < n {
		end := len(b) + 4096
		kind := r.IntN(4)
		for line := words[r.IntN(len(words))] + words[r.IntN(len(words))]; len(b) < end; {
			noise := binary.LittleEndian.AppendUint64(nil, r.Uint64())
			switch kind {
			case 0:
				b = append(b, noise...)
			case 1, 2:
				b = append(append(b, words[r.IntN(len(words))]...), noise[:5]...)
			default:
				b = append(b, line...)
			}
		}
		b = b[:end]
	}
	return b[:n]
}

func TestPackedReadsAsItWas(t *testing.T) {
	var table lz4Table
	mixed := diskBytes(1 << 20)
	for n := range 600 {
		unpacked(t, &table, mixed[4096*n%(1<<19):][:n])
		unpacked(t, &table, make([]byte, n))
	}
	for _, n := range []int{1 << 12, 1<<16 - 1, 1 << 16, 1<<16 + 1, 1 << 20} {
		unpacked(t, &table, mixed[:n])
		unpacked(t, &table, make([]byte, n))
		unpacked(t, &table, bytes.Repeat([]byte("abcdefg"), n/7))
	}
	// The same far apart: beyond the window it is no match.
	for _, gap := range []int{lz4Window - 64, lz4Window - 1, lz4Window, lz4Window + 1} {
		far := append(append(bytes.Clone(mixed[:64]), make([]byte, gap-64)...), mixed[:4096]...)
		unpacked(t, &table, far)
	}
}

// TestPackedAsSmall: what is saved in time is not paid in the vault.
func TestPackedAsSmall(t *testing.T) {
	var table lz4Table
	src := diskBytes(2 << 20)
	n := unpacked(t, &table, src)
	var c lz4.Compressor
	theirs, err := c.CompressBlock(src, make([]byte, lz4.CompressBlockBound(len(src))))
	if err != nil || float64(n) > 1.03*float64(theirs) {
		t.Errorf("%d bytes became %d, with the library %d (%v)", len(src), n, theirs, err)
	}
}

func FuzzPack(f *testing.F) {
	f.Add([]byte("to be or not to be, that is the question; to be or not to be"), 0)
	f.Add(make([]byte, 300), 3)
	f.Fuzz(func(t *testing.T, b []byte, more int) {
		for range more & 7 {
			b = append(b, b...)
		}
		if len(b) <= 1<<20 {
			unpacked(t, new(lz4Table), b)
		}
	})
}

func BenchmarkPack(b *testing.B) {
	src := diskBytes(2 << 20)
	dst := make([]byte, lz4.CompressBlockBound(len(src))+lz4Slack)
	report := func(b *testing.B, n int) {
		b.SetBytes(int64(len(src)))
		b.ReportMetric(float64(n)/float64(len(src)), "ratio")
	}
	b.Run("ours", func(b *testing.B) {
		var t lz4Table
		n := 0
		for b.Loop() {
			n = t.pack(dst, src, len(src))
		}
		report(b, n)
	})
	b.Run("library", func(b *testing.B) {
		var c lz4.Compressor
		n := 0
		for b.Loop() {
			n, _ = c.CompressBlock(src, dst)
		}
		report(b, n)
	})
}
