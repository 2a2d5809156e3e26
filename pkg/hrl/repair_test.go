package hrl

import (
	"os"
	"testing"

	"github.com/understudy-dr/understudy/pkg/block"
)

// testRepair writes entries 1..n, closes without a last anchor, damages the file,
// recovers it, expects entries 1..want, appends again and expects those after another
// recovery too: nothing that was beyond the damage may ever come back.
func testRepair(t *testing.T, kind Kind, n, want block.Seq, size int, damage func(b []byte, h Header, e []Entry)) {
	t.Helper()
	path := create(t, kind, 128<<10)
	r, _ := open(t, path)
	for seq := block.Seq(1); seq <= n; seq++ {
		appendOne(t, r, seq, size)
	}
	h, entries := r.Header, r.entries
	r.store.Close()

	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	damage(b, h, entries)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}

	r, found := open(t, path)
	check(t, r, found.Entries, 1, want)
	appendOne(t, r, want+1, size) // of the same size: what follows in the file fits behind it
	r.store.Close()
	r, found = open(t, path)
	defer r.Close()
	check(t, r, found.Entries, 1, want+1)
}

// TestTornTailAtEveryByte cuts the write of the last entry at every byte: what was to
// come after it is what was there before, here blank or content of an earlier lap.
func TestTornTailAtEveryByte(t *testing.T) {
	const size = 300
	for name, before := range map[string]byte{"blank": 0, "old": 0x5a} {
		t.Run(name, func(t *testing.T) {
			for at := range EntrySize + size {
				kind := Memory
				if at%8 == 0 {
					kind = Disk // slower: a sync at every open
				}
				testRepair(t, kind, 4, 3, size, func(b []byte, h Header, e []Entry) {
					torn, old := b[h.offset(e[3].Pos):][:EntrySize+size], before
					if at+1 == len(torn) && torn[at] == old {
						old++ // or the write would be whole
					}
					for i := at; i < len(torn); i++ {
						torn[i] = old
					}
				})
			}
		})
	}
}

// TestEveryBitFlip flips every bit of an entry in the middle: it and what follows is
// given up.
func TestEveryBitFlip(t *testing.T) {
	const size = 40
	step := 1
	if testing.Short() {
		step = 13
	}
	for bit := 0; bit < 8*(EntrySize+size); bit += step {
		testRepair(t, Memory, 4, 1, size, func(b []byte, h Header, e []Entry) {
			b[h.offset(e[1].Pos)+int64(bit/8)] ^= 1 << (bit % 8)
		})
	}
}

// TestEveryBitFlipOfAnAnchor loses nothing: the one before it serves.
func TestEveryBitFlipOfAnAnchor(t *testing.T) {
	for bit := range 8 * AnchorSize {
		testRepair(t, Memory, 3, 3, 40, func(b []byte, h Header, _ []Entry) {
			b[h.anchorOffset(0)+int64(bit/8)] ^= 1 << (bit % 8) // the newest: of the open
		})
	}
}

// TestSectorsOfTheTailOutOfOrder keeps some sectors of the last write and not others,
// in all ways: a disk promises no order within one write.
func TestSectorsOfTheTailOutOfOrder(t *testing.T) {
	const size = 4*512 - EntrySize
	for kept := range 1<<4 - 1 {
		testRepair(t, Disk, 3, 2, size, func(b []byte, h Header, e []Entry) {
			for sector := range 4 {
				if kept&(1<<sector) == 0 {
					clear(b[h.offset(e[2].Pos)+int64(sector)*512:][:512])
				}
			}
		})
	}
}
