package relay

import "testing"

func TestSparesFitAndAreBounded(t *testing.T) {
	var s spares
	s.give(make([]byte, 100<<10))
	if b := s.take(1 << 20); b != nil {
		t.Fatalf("%d bytes for a frame of 1 MiB", cap(b))
	}
	if b := s.take(8 << 10); b != nil {
		t.Fatalf("%d bytes for a frame of 8 KiB: small frames would hold the memory of large ones", cap(b))
	}
	if b := s.take(90 << 10); cap(b) < 90<<10 || len(b) != 0 {
		t.Fatalf("%d bytes of %d for a frame of 90 KiB, want the 100 KiB that were given", len(b), cap(b))
	}
	if b := s.take(90 << 10); b != nil {
		t.Fatal("the same memory twice")
	}
	s.give(make([]byte, maxRecycled+1))
	for range 2 * maxSpare >> 20 {
		s.give(make([]byte, 1<<20))
	}
	n := 0
	for s.take(1<<20) != nil {
		n++
	}
	if n != maxSpare>>20 || s.bytes != 0 {
		t.Fatalf("%d MiB kept and %d bytes counted after they were taken, want %d and 0", n, s.bytes, maxSpare>>20)
	}
}
