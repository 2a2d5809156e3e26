package vhd

import (
	"errors"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestFooterRoundTripAndDamage(t *testing.T) {
	f := Footer{Size: 64 << 20, Created: time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC), ID: [16]byte{1, 2, 3}}
	b := f.Encode()
	got, err := Decode(b[:])
	if err != nil || got != f {
		t.Fatalf("%+v came back as %+v, %v", f, got, err)
	}
	for i := range b {
		damaged := b
		damaged[i] ^= 0x10
		if _, err := Decode(damaged[:]); err == nil {
			t.Errorf("a footer damaged at byte %d was taken", i)
		}
	}
	if _, err := Decode(b[:100]); !errors.Is(err, ErrNotFooter) {
		t.Errorf("a short footer: %v", err)
	}
}

// TestGeometryNeverClaimsMoreThanThereIs also pins values computed by hand from
// the format's rule.
func TestGeometryNeverClaimsMoreThanThereIs(t *testing.T) {
	for _, c := range []struct{ sectors, cyl, heads, spt int64 }{
		{2048, 30, 4, 17},         // 1 MiB
		{20480, 301, 4, 17},       // 10 MiB
		{208896, 421, 16, 31},     // 102 MiB: 12288 tracks of 17 sectors are just too many for 12 heads
		{4194304, 4161, 16, 63},   // 2 GiB
		{1 << 31, 65535, 16, 255}, // 1 TiB: the ceiling
	} {
		cyl, heads, spt := geometry(c.sectors)
		if cyl != c.cyl || heads != c.heads || spt != c.spt {
			t.Errorf("%d sectors: %d/%d/%d, want %d/%d/%d", c.sectors, cyl, heads, spt, c.cyl, c.heads, c.spt)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(68, 1<<36).Draw(t, "sectors")
		cyl, heads, spt := geometry(n)
		if cyl < 1 || cyl > 65535 || heads < 4 || heads > 16 || spt < 17 || spt > 255 || cyl*heads*spt > n {
			t.Fatalf("%d sectors: %d/%d/%d", n, cyl, heads, spt)
		}
	})
}

func TestDiskSizeRoundsUp(t *testing.T) {
	for size, want := range map[int64]int64{0: 0, 1: 1 << 20, 1 << 20: 1 << 20, 1<<20 + 512: 2 << 20} {
		if got := DiskSize(size); got != want {
			t.Errorf("DiskSize(%d) = %d, want %d", size, got, want)
		}
	}
}
