package frame

import (
	"math/rand/v2"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// fenced is n bytes of memory with nothing behind them: whoever touches the next byte is
// killed.
func fenced(t *testing.T, n int) []byte {
	t.Helper()
	page := os.Getpagesize()
	room := (n + page - 1) / page * page
	b, err := unix.Mmap(-1, 0, room+page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err == nil {
		err = unix.Mprotect(b[room:], unix.PROT_NONE)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(b) })
	return b[room-n : room : room]
}

// TestPackKeepsToItsMemory: pack goes without the language's bounds.
func TestPackKeepsToItsMemory(t *testing.T) {
	const most = 4 << 10
	var table lz4Table
	mixed := diskBytes(64 << 10)
	src, dst := fenced(t, most), fenced(t, lz4Room(most))
	r := rand.New(rand.NewPCG(3, 4))
	for range 20_000 {
		n, limit := r.IntN(most), r.IntN(most)
		if r.IntN(4) == 0 {
			n %= 64
		}
		in := src[most-n:]
		copy(in, mixed[r.IntN(len(mixed)-n):])
		if r.IntN(8) == 0 {
			clear(in)
		}
		if got := table.pack(dst[most-limit:], in, limit); got > limit {
			t.Fatalf("%d bytes became %d within %d", n, got, limit)
		}
	}
}
