package resync

import (
	"testing"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// FuzzMounts reads the kernel's table of mounts, in which paths and sources are
// anybody's. Limit: 32 times the input and 4 KiB. A mount that is found lies on one of
// the disk's partitions.
func FuzzMounts(f *testing.F) {
	f.Add("36 35 8:1 / /mnt rw,noatime - ext4 /dev/sda1 rw,errors=remount-ro\n")
	f.Add("36 35 8:1 / /a\\040b\\134 rw shared:1 master:2 - xfs /dev/sda1 rw,logdev=/dev/sdb\n36 35 8:1 / /c rw - xfs x y\n")
	f.Add("36 35 8:1 / /mnt\\0 rw - - - -\n - \n\\777 \\")
	f.Fuzz(func(t *testing.T, s string) {
		fuzztest.Bounded(t, 32*len(s)+4<<10, func() { _, _, _ = parseMount(s) })
		if m, dev, ok := parseMount(s); ok && (m.fs == "" || dev == "") {
			t.Errorf("%q is %+v on %q", s, m, dev)
		} else if ok {
			_ = m.understood()
		}
		if len(unescape(s)) > len(s) {
			t.Errorf("%q grows to %q", s, unescape(s))
		}
	})
}

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
