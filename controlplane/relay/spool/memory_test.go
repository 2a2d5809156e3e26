package spool

import (
	"bytes"
	"sync"
	"testing"
	"time"
)

// TestMemoryOfFrames: as many frames stay in memory as there is room for, all read back
// the same, and the memory of each is given back once: when it is durable if it did not
// stay, when it is freed if it did.
func TestMemoryOfFrames(t *testing.T) {
	var mu sync.Mutex
	back := map[*byte]int{}
	count := func(n int) bool {
		mu.Lock()
		defer mu.Unlock()
		return len(back) == n
	}
	s, _ := open(t, t.TempDir(), func(o *Options) {
		o.Recycle = func(raw []byte) {
			mu.Lock()
			defer mu.Unlock()
			back[&raw[0]]++
		}
	})
	p := newPlant(t)
	var raws [][]byte
	for range 5 { // a frame's memory is its capacity: three of these fill what is kept
		raws = append(raws, append(make([]byte, 0, maxKept/3), p.frame(64<<10)...))
	}
	entries := put(t, s, raws...)
	for end := time.Now().Add(10 * time.Second); !count(2) && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if !count(2) {
		t.Fatalf("memory of %d frames given back, want that of the two that found no room", len(back))
	}
	for i, e := range entries {
		raw, err := s.Read(e, nil)
		if err != nil || !bytes.Equal(raw, p.raws[i]) {
			t.Fatalf("frame %d came back wrong: %v", i+1, err)
		}
		if kept := &raw[0] == &raws[i][0]; kept != (i < 3) {
			t.Errorf("frame %d was read from memory: %v", i+1, kept)
		}
		if b, err := s.readBack(e, nil); err != nil || !bytes.Equal(b, p.raws[i]) {
			t.Errorf("frame %d is not the same on disk: %v", i+1, err)
		}
	}
	s.Free(entries...)
	s.Free(entries...)
	if !count(5) || s.kept != 0 {
		t.Errorf("memory of %d frames given back after all were freed, %d bytes still counted", len(back), s.kept)
	}
	for _, n := range back {
		if n != 1 {
			t.Errorf("the memory of a frame was given back %d times", n)
		}
	}
}
