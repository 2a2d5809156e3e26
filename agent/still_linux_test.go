package main

import (
	"strings"
	"testing"
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
