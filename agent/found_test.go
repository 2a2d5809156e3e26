package main

import (
	"testing"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/block"
)

// TestDisksOfOneIdentityAreLeftOut: naming one of two paths to a disk would protect
// half of its writes, and a report with both is refused as a whole.
func TestDisksOfOneIdentityAreLeftOut(t *testing.T) {
	disk := func(name, path string) capture.Disk {
		return capture.Disk{ID: block.DiskIDFromName(name), Name: name, Path: path}
	}
	alone, several := distinct([]capture.Disk{disk("wwn-1", "/dev/sda"), disk("wwn-2", "/dev/sdb"), disk("wwn-1", "/dev/sdc")})
	if len(alone) != 1 || alone[0].Path != "/dev/sdb" {
		t.Errorf("left: %v", alone)
	}
	if len(several) != 2 {
		t.Errorf("left out: %v", several)
	}
}
