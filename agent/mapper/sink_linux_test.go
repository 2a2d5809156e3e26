package mapper

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/hrl"
)

const mib = 1 << 20

// on is a stretch of a device that lies on another one.
func on(off, size int64, kind string, minor uint32, below int64) Target {
	return Target{Extent: block.Extent{Off: off, Len: size}, Kind: kind, Major: 999, Minor: minor, Below: below}
}

// stacked are devices by their minor number: 0 and 1 are whole disks, 10 and 11 their
// partitions, 20 encrypts one, 30 and above are volumes.
var stacked = map[uint32][]Target{
	10: {on(0, 99*mib, Linear, 0, 1*mib)},
	11: {on(0, 99*mib, Linear, 1, 1*mib)},
	20: {on(0, 83*mib, Crypt, 10, 16*mib)},
	30: {on(0, 40*mib, Linear, 10, 1*mib)},
	31: {on(0, 40*mib, Linear, 20, 1*mib)},                                       // on encryption
	32: {on(0, 10*mib, Linear, 10, 41*mib), on(10*mib, 10*mib, Linear, 10, mib)}, // out of order
	33: {on(0, 10*mib, Linear, 10, 1*mib), on(10*mib, 10*mib, Linear, 11, 1*mib)},
	34: {on(0, 10*mib, Linear, 10, 1*mib), on(10*mib, 10*mib, "thin", 0, 0)},
	35: {on(0, 20*mib, Linear, 34, 0)},
	36: {on(0, 10*mib, CryptIntegrity, 0, 0)},
}

func under(dev uint64) ([]Target, error) {
	if unix.Minor(dev) == 50 {
		return nil, fmt.Errorf("md0 is stacked")
	}
	return stacked[unix.Minor(dev)], nil
}

func piece(at, off, size int64) hrl.Piece {
	return hrl.Piece{At: at, Extent: block.Extent{Off: off, Len: size}}
}

func TestToDisk(t *testing.T) {
	file := []hrl.Piece{piece(0, 4*mib, 2*mib), piece(2*mib, 9*mib, 2*mib)} // lies across 10 MiB
	for name, c := range map[string]struct {
		on    uint32
		disk  uint32
		there []hrl.Piece
		says  string
	}{
		"a disk":             {on: 0, disk: 0, there: file},
		"a partition":        {on: 11, disk: 1, there: []hrl.Piece{piece(0, 5*mib, 2*mib), piece(2*mib, 10*mib, 2*mib)}},
		"a volume":           {on: 30, disk: 0, there: []hrl.Piece{piece(0, 6*mib, 2*mib), piece(2*mib, 11*mib, 2*mib)}},
		"encryption":         {on: 20, disk: 0, there: []hrl.Piece{piece(0, 21*mib, 2*mib), piece(2*mib, 26*mib, 2*mib)}},
		"LVM on encryption":  {on: 31, disk: 0, there: []hrl.Piece{piece(0, 22*mib, 2*mib), piece(2*mib, 27*mib, 2*mib)}},
		"an extended volume": {on: 32, disk: 0, there: []hrl.Piece{piece(0, 46*mib, 2*mib), piece(2*mib, 51*mib, 1*mib), piece(3*mib, 2*mib, 1*mib)}},
		"two disks":          {on: 33, says: "lies on two disks, 999:0 and 999:1"},
		"half of it thin":    {on: 34, says: "device-mapper's thin"},
		"on that":            {on: 35, says: "device-mapper's thin"},
		"tags beside it":     {on: 36, says: "device-mapper's crypt with integrity"},
		"an array":           {on: 50, says: "md0 is stacked"},
	} {
		disk, there, err := toDisk(unix.Mkdev(999, c.on), file, under)
		if c.says != "" {
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v, want %q", name, err, c.says)
			}
			continue
		}
		if err != nil || disk != unix.Mkdev(999, c.disk) || !slices.Equal(there, c.there) {
			t.Errorf("%s: on %d at %v, %v, want %v", name, unix.Minor(disk), there, err, c.there)
		}
	}
	// Whatever else a volume lies on, it counts where the file does.
	if disk, _, err := toDisk(unix.Mkdev(999, 33), file[:1], under); err != nil || disk != unix.Mkdev(999, 0) {
		t.Errorf("on one of two disks: %d, %v", unix.Minor(disk), err)
	}
	if _, _, err := toDisk(unix.Mkdev(999, 30), []hrl.Piece{piece(0, 39*mib, 2*mib)}, under); err == nil || !strings.Contains(err.Error(), "ends before") {
		t.Errorf("beyond the end: %v", err)
	}
}
