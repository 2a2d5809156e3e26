package capture

import "github.com/understudy-dr/understudy/pkg/block"

// Disk is a whole disk of this machine.
type Disk struct {
	// ID is derived from Name.
	ID block.DiskID `json:"id"`
	// Name says for good which disk this is, whatever its path: "wwn-…",
	// "serial-…", "gpt-…", "loop-…".
	Name string `json:"name"`
	// Path is where it is found now, "/dev/sda". It may be another one tomorrow.
	Path string `json:"path"`
	// Major and Minor are its number now.
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
	// Size in bytes; SectorSize is the logical one, in bytes.
	Size       int64 `json:"size"`
	SectorSize int   `json:"sector_size"`
	// Sequence is the kernel's number of this appearance of the device since boot,
	// 0 where it has none (before 5.15).
	Sequence uint64 `json:"sequence,omitempty"`
	// Backing is the file behind a loop device.
	Backing string `json:"backing,omitempty"`
}
