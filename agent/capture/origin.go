package capture

import (
	"maps"
	"slices"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Origin tells how a capture began that Early began, and what is proved of each disk of
// the time before. It lives in the kernel as long as the capture does, and nobody can
// change it.
type Origin struct {
	// Armed is the stretch that Early began.
	Armed Armed `json:"armed"`
	// Initramfs: it was begun before the root file system was mounted.
	Initramfs bool `json:"initramfs,omitempty"`
	// Disks are those tracked by Early.
	Disks map[block.DiskID]Beginning `json:"disks"`
}

// Beginning is how the tracking of a disk began.
type Beginning struct {
	// Missed says why writes of this boot may have gone to the disk before it was
	// tracked. Empty: there were none.
	Missed string `json:"missed,omitempty"`
	// Print is what the disk looked like.
	Print Print `json:"print,omitempty"`
}

// Print tells a disk from itself after it was written to: digests of the places that
// whoever mounts a file system, assembles an array or changes a partition table writes
// to, by where they are. It does not see every write.
type Print map[int64]string

// Differs is where the disk is no more what it was when p was taken; false if nowhere.
// A place that now tells nothing counts as one that differs.
func (p Print) Differs(now Print) (off int64, differs bool) {
	for _, off := range slices.Sorted(maps.Keys(p)) {
		if now[off] != p[off] {
			return off, true
		}
	}
	return 0, false
}

// Without is the print without what touches these extents: who writes there says
// nothing of the rest.
func (p Print) Without(extents []block.Extent) Print {
	set := block.NewSet(extents...)
	kept := Print{}
	for off, sum := range p {
		if !set.Overlaps(block.Extent{Off: off, Len: printPiece}) {
			kept[off] = sum
		}
	}
	return kept
}

// A print has a digest for each piece of so many bytes at the beginning and at the end of
// the disk and of each partition. At the beginning lie partition tables and the superblocks
// of ext4 (at 1 KiB), xfs, LVM and md (4 KiB) and btrfs (64 KiB); at the end those of old
// arrays, and the second partition table.
const (
	printPiece = 4 << 10
	printHead  = 68 << 10
	printTail  = 36 << 10
)
