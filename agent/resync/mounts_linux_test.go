package resync

import (
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/agent/mounts"
	"github.com/understudy-dr/understudy/pkg/block"
)

const mountTable = `22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw,errors=remount-ro
23 22 0:5 / /dev rw,nosuid - devtmpfs udev rw
24 22 8:1 / /boot/efi rw - vfat /dev/sda1 rw
25 22 8:17 / /srv/with\040blank\134 rw shared:9 master:3 - xfs /dev/sdb1 rw,attr2,logdev=/dev/sdc1
26 22 8:2 /var/lib /bind rw - ext4 /dev/sda2 rw
27 22 0:41 / /data rw - btrfs /dev/sda3 rw
short line
`

func TestMountsOnParts(t *testing.T) {
	parts := []part{{"8:0", block.Extent{Len: 1 << 30}}, {"8:1", block.Extent{Off: 1 << 20, Len: 1 << 20}},
		{"8:2", block.Extent{Off: 2 << 20, Len: 4 << 20}}, {"8:3", block.Extent{Off: 6 << 20, Len: 4 << 20}}, {"8:17", block.Extent{Off: 1 << 20, Len: 1 << 20}}}
	type want struct{ fs, point, refused string }
	wants := []want{{"ext4", "/bind", ""}, {"vfat", "/boot/efi", "not understood"}, {"xfs", `/srv/with blank\`, "several devices"}}
	got := onParts(mounts.Parse(mountTable), parts)
	if len(got) != len(wants) {
		t.Fatalf("found %+v", got)
	}
	for i, w := range wants {
		m := got[i]
		if m.Type != w.fs || (m.Point != w.point && m.Point != "/") {
			t.Errorf("mount %d is %+v, want %+v", i, m, w)
		}
		err := m.understood()
		if (err == nil) != (w.refused == "") || err != nil && !strings.Contains(err.Error(), w.refused) {
			t.Errorf("%s on %s: %v, want %q", m.Type, m.Point, err, w.refused)
		}
	}
	if got[0].part.Off != 2<<20 {
		t.Errorf("root lies at %v", got[0].part)
	}
}

// TestFsmapTakesOnlyWhatIsPlainlyFree: whatever is odd makes the file system whole.
func TestFsmapRecords(t *testing.T) {
	p := part{"8:2", block.Extent{Off: 1 << 20, Len: 1 << 20}}
	free := fsmapRecord{device: 8<<8 | 2, flags: fsmapSpecialOwner, owner: fsmapOwnerFree, physical: 4096, length: 8192}
	for name, c := range map[string]struct {
		change func(*fsmapRecord)
		bytes  int64
		bad    bool
	}{
		"free":             {func(*fsmapRecord) {}, 8192, false},
		"unknown owner":    {func(r *fsmapRecord) { r.owner = 2 }, 0, false},
		"inode 1":          {func(r *fsmapRecord) { r.flags = 0 }, 0, false},
		"another device":   {func(r *fsmapRecord) { r.device++ }, 0, true},
		"behind partition": {func(r *fsmapRecord) { r.physical = 1<<20 - 4096 }, 0, true},
		"wraps":            {func(r *fsmapRecord) { r.length = 1<<64 - 4096 }, 0, true},
		"empty":            {func(r *fsmapRecord) { r.length = 0 }, 0, true},
	} {
		r, set := free, block.NewSet()
		c.change(&r)
		if err := r.addFree(set, p); (err != nil) != c.bad || set.Bytes() != c.bytes {
			t.Errorf("%s: %v, %v", name, set.Extents(), err)
		}
		if c.bytes > 0 && set.Extents()[0].Off != 1<<20+4096 {
			t.Errorf("%s: lies at %v", name, set.Extents())
		}
	}
}
