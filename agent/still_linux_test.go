package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/mapper"
)

// TestWritableMount: what counts is what the file system may do, not what its mount may.
func TestWritableMount(t *testing.T) {
	needless := map[string]bool{"tmpfs": true, "proc": true, "fuse": true, "overlay": true}
	for line, says := range map[string]string{
		"25 1 254:1 / / ro,relatime shared:1 - ext4 /dev/vda1 ro,errors=remount-ro":     "",
		"25 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro":     "/ (ext4 on /dev/vda1)",
		"25 1 254:1 / /srv ro,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro":  "/srv (ext4",
		"26 1 0:30 / /data rw,relatime - btrfs /dev/vdb rw,ro_is_no_option,space_cache": "/data (btrfs",
		"22 25 0:20 / /run rw,nosuid shared:5 - tmpfs tmpfs rw,size=1g":                 "",
		"27 1 0:31 / /mnt rw - fuse.sshfs host:/ rw":                                    "",
		"28 1 8:1 / /mnt rw - fuseblk /dev/sda1 rw":                                     "/mnt (fuseblk",
		"a line of another kernel":                                                      "cannot be read",
	} {
		err := writableMount(line, needless)
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", line, err, says)
		}
	}
}

func TestSwapsTo(t *testing.T) {
	for line, refused := range map[string]bool{
		"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority": false,
		"/dev/zram0  partition 1000 0 100":                 false,
		"/dev/vda2   partition 1000 0 -2":                  true,
		"/swapfile   file 1000 0 -2":                       true,
	} {
		if err := swapsTo(line); (err != nil) != refused {
			t.Errorf("%q: %v", line, err)
		}
	}
}

// TestStillWrittenHere: this machine runs, so its root can be written to.
func TestStillWrittenHere(t *testing.T) {
	if err := stillWritten(nil); err == nil || !strings.Contains(err.Error(), "mounted and can still be written to") {
		t.Errorf("a running machine counts as one that has stopped: %v", err)
	}
}

// TestSelfWriting: a disk under LVM and encryption is at rest when their file systems are;
// under an array or a pool it is not, however far above.
func TestSelfWriting(t *testing.T) {
	kinds := map[uint32]string{1: mapper.Linear, 2: mapper.Crypt, 3: "thin-pool", 4: "raid"}
	table := func(dev uint64) ([]mapper.Target, error) {
		kind, ok := kinds[unix.Minor(dev)]
		if !ok {
			return nil, errors.New("no such table")
		}
		return []mapper.Target{{Kind: mapper.Linear}, {Kind: kind}}, nil
	}
	for name, c := range map[string]struct {
		holders []string // HELD/NAME
		says    string
	}{
		"nothing":           {nil, ""},
		"LVM on encryption": {[]string{"sda/sda1/dm-2", "dm-2/dm-1"}, ""},
		"an array":          {[]string{"sda/sda1/md0"}, "in md0"},
		"an array of disks": {[]string{"sda/md0"}, "in md0"},
		"an array above":    {[]string{"sda/sda1/dm-2", "dm-2/md127"}, "in md127"},
		"a pool above LVM":  {[]string{"sda/dm-1", "dm-1/dm-3"}, "dm-3, device-mapper's thin-pool"},
		"LVM's raid":        {[]string{"sda/sda1/dm-1", "dm-1/dm-4"}, "device-mapper's raid"},
		"one that is gone":  {[]string{"sda/dm-9"}, "no such table"},
	} {
		sys := t.TempDir()
		for _, h := range c.holders {
			held, holder := filepath.Join(sys, filepath.Dir(h), "holders"), filepath.Join(sys, filepath.Base(h))
			minor, isMapped := strings.CutPrefix(filepath.Base(h), "dm-")
			err := errors.Join(os.MkdirAll(held, 0o700), os.MkdirAll(holder, 0o700), os.Symlink(holder, filepath.Join(held, filepath.Base(h))))
			if isMapped {
				err = errors.Join(err, os.MkdirAll(filepath.Join(holder, "dm"), 0o700), os.WriteFile(filepath.Join(holder, "dev"), fmt.Appendf(nil, "254:%s\n", minor), 0o600))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		err := above(filepath.Join(sys, "sda"), "/dev/sda", table)
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
}
