package resync

import (
	"testing"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// FuzzFree takes any record of GETFSMAP. Limit: 4 KiB. What it makes free lies within
// the partition that was asked.
func FuzzFree(f *testing.F) {
	f.Add(uint32(0x801), uint32(fsmapSpecialOwner), uint64(4096), uint64(fsmapOwnerFree), uint64(8192))
	f.Add(uint32(0x801), uint32(fsmapSpecialOwner), ^uint64(0), uint64(fsmapOwnerFree), ^uint64(0))
	f.Add(uint32(0x801), uint32(fsmapSpecialOwner), uint64(1<<63-1), uint64(fsmapOwnerFree), uint64(1<<63-1))
	f.Add(uint32(0x801), uint32(fsmapSpecialOwner), uint64(4096), uint64(fsmapOwnerFree), uint64(1<<63-1))
	p := part{dev: "8:1", Extent: block.Extent{Off: 1 << 20, Len: 1 << 29}}
	f.Fuzz(func(t *testing.T, device, flags uint32, physical, owner, length uint64) {
		r := fsmapRecord{device: device, flags: flags, physical: physical, owner: owner, length: length}
		free := block.NewSet()
		fuzztest.Bounded(t, 4<<10, func() { free = block.NewSet(); _ = r.addFree(free, p) })
		for _, e := range free.Extents() {
			if e.Off < p.Off || e.Len > p.Len || e.End() < e.Off || e.End() > p.End() {
				t.Fatalf("%+v makes %v free, outside of %v", r, e, p.Extent)
			}
		}
	})
}
