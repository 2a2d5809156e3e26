package consistency

import (
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// FuzzMounts reads the kernel's table of mounts, in which paths and sources are
// anybody's. Limit: 64 times the input and 4 KiB. There are no more mounts than lines, and
// each can be named.
func FuzzMounts(f *testing.F) {
	f.Add("36 35 8:1 / /mnt rw,noatime - ext4 /dev/sda1 rw,errors=remount-ro\n")
	f.Add("36 35 8:1 / /a\\040b\\134 rw shared:1 master:2 - xfs /dev/sda1 ro,logdev=/dev/sdb\n36 35 8:1 / /c rw - xfs x y\n")
	f.Add("36 35 8:1 / /mnt\\0 rw - - - -\n - \n\\777 \\\n-1 0 a b c d - e f g")
	f.Fuzz(func(t *testing.T, s string) {
		fuzztest.Bounded(t, 64*len(s)+4<<10, func() { _ = parseMounts(s) })
		found := parseMounts(s)
		if lines := strings.Count(s, "\n") + 1; len(found) > lines {
			t.Errorf("%d mounts in %d lines", len(found), lines)
		}
		for _, m := range found {
			if m.Type == "" || m.Dev == "" || m.Point == "" {
				t.Errorf("%q has %+v", s, m)
			}
		}
	})
}
