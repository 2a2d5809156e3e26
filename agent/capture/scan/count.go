package scan

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Fields of a disk's stat (Documentation/block/stat.rst), counted from zero. Discards are
// there since Linux 4.18. Requests are no measure: a flush is one, and changes nothing.
const (
	statWritten   = 6
	statDiscarded = 13
)

// count reads how much was written. The kernel counts a write before it acknowledges it.
// One that is under way and not counted yet may be on the disk or not, in part or as a
// whole, and nothing that depends on it is: that is what a power cut leaves, too.
func (s *source) count(k *disk) (c counters, err error) {
	stat, err := s.text(k, "stat")
	if err != nil {
		return c, err
	}
	if c, err = parseStat(stat); err != nil {
		return c, fmt.Errorf("capture: disk %s (%s): %w", k.Name, k.Path, err)
	}
	return c, nil
}

func parseStat(text string) (c counters, err error) {
	f := strings.Fields(text)
	if len(f) <= statWritten {
		return c, fmt.Errorf("its counts are %q", text)
	}
	if c.written, err = strconv.ParseUint(f[statWritten], 10, 64); err != nil {
		return c, err
	}
	if len(f) > statDiscarded {
		c.discarded, err = strconv.ParseUint(f[statDiscarded], 10, 64)
	}
	return c, err
}

// busy reports whether a write is under way.
func (s *source) busy(k *disk) (bool, error) {
	flight, err := s.text(k, "inflight")
	if err != nil {
		return false, err
	}
	var reads, writes uint64
	if _, err := fmt.Sscan(flight, &reads, &writes); err != nil {
		return false, fmt.Errorf("capture: disk %s (%s): requests in flight are %q: %w", k.Name, k.Path, flight, err)
	}
	return writes > 0, nil
}

func (s *source) size(k *disk) (int64, error) {
	text, err := s.text(k, "size")
	if err != nil {
		return 0, err
	}
	sectors, err := strconv.ParseInt(text, 10, 64)
	return sectors * block.SectorSize, err
}

func (s *source) text(k *disk, file string) (string, error) {
	b, err := os.ReadFile(filepath.Join(s.sysfs, fmt.Sprintf("%d:%d", k.Major, k.Minor), file))
	if err != nil {
		return "", fmt.Errorf("capture: disk %s (%s): %w", k.Name, k.Path, err)
	}
	return strings.TrimSpace(string(b)), nil
}
