package mounts

import (
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

func TestParse(t *testing.T) {
	const table = `25 30 0:23 / /sys rw,nosuid shared:7 - sysfs sysfs rw
30 1 8:1 / /mnt/with\040blank\134 rw,relatime shared:1 master:2 - ext4 /dev/sd\011a ro,errors=remount-ro
31 30 0:41 / /data\342\202\254 rw - btrfs /dev/sda3 rw,subvol=/
broken line
x 30 0:41 / /data rw - btrfs /dev/sda3 rw
`
	got := Parse(table)
	want := []Mount{
		{25, "0:23", "sysfs", "/sys", "sysfs", "rw"},
		{30, "8:1", "ext4", `/mnt/with blank\`, "/dev/sd\ta", "ro,errors=remount-ro"},
		{31, "0:41", "btrfs", "/data€", "/dev/sda3", "rw,subvol=/"},
	}
	if !slices.Equal(got, want) {
		t.Fatalf("%+v, want %+v", got, want)
	}
	if got[0].ReadOnly() || !got[1].ReadOnly() || got[1].Device() != "8:1" {
		t.Errorf("%+v", got)
	}
}

// TestThisMachine: the table of this process names what the kernel says of its root.
func TestThisMachine(t *testing.T) {
	all, err := Table()
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc", &st); err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(m Mount) bool { return m.Point == "/proc" && m.Type == "proc" })
	if i < 0 || all[i].Dev != Number(st.Dev) || all[i].Device() != Number(st.Dev) {
		t.Errorf("/proc is on %s: %+v", Number(st.Dev), all)
	}
	if dev := DeviceAt("/dev/null"); dev != "" {
		t.Errorf("a character device is block device %s", dev)
	}
	for _, dev := range []string{"/dev/vda", "/dev/sda", "/dev/loop0"} {
		if _, err := os.Stat(dev); err == nil && !strings.Contains(DeviceAt(dev), ":") {
			t.Errorf("%s has no number", dev)
		}
	}
}

// FuzzMounts reads the kernel's table of mounts, in which paths and sources are
// anybody's. Limit: 64 times the input and 4 KiB. There are no more mounts than lines, and
// each can be named.
func FuzzMounts(f *testing.F) {
	f.Add("36 35 8:1 / /mnt rw,noatime - ext4 /dev/sda1 rw,errors=remount-ro\n")
	f.Add("36 35 8:1 / /a\\040b\\134 rw shared:1 master:2 - xfs /dev/sda1 ro,logdev=/dev/sdb\n36 35 8:1 / /c rw - xfs x y\n")
	f.Add("36 35 8:1 / /mnt\\0 rw - - - -\n - \n\\777 \\\n-1 0 a b c d - e f g")
	f.Fuzz(func(t *testing.T, s string) {
		fuzztest.Bounded(t, 64*len(s)+4<<10, func() { _ = Parse(s) })
		found := Parse(s)
		if lines := strings.Count(s, "\n") + 1; len(found) > lines {
			t.Errorf("%d mounts in %d lines", len(found), lines)
		}
		for _, m := range found {
			if m.Type == "" || m.Dev == "" || m.Point == "" {
				t.Errorf("%q has %+v", s, m)
			}
			_, _ = m.ReadOnly(), m.String()
		}
		if len(unescape(s)) > len(s) {
			t.Errorf("%q grows to %q", s, unescape(s))
		}
	})
}
