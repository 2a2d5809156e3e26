package main

import (
	"context"
	"strings"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/block"
)

// discover lists the disks of this machine that could be protected.
func (s *service) discover(ctx context.Context) ([]capture.Disk, error) {
	disks, err := capture.Discover(ctx)
	if err != nil {
		return nil, err
	}
	alone, several := distinct(disks)
	var paths []string
	for _, d := range several {
		paths = append(paths, d.Path)
	}
	now := strings.Join(paths, " ")
	if before := s.leftOut.Swap(&now); now != "" && (before == nil || *before != now) {
		s.log.Warn("disks left out: they claim to be the same", "paths", now)
	}
	return alone, nil
}

// distinct tells the disks with an identity of their own from those that share one,
// such as the paths of a multipath disk or a file attached twice. Those are left out:
// what is written through one path would not be captured on the other.
func distinct(disks []capture.Disk) (alone, several []capture.Disk) {
	claims := map[block.DiskID]int{}
	for _, d := range disks {
		claims[d.ID]++
	}
	for _, d := range disks {
		if claims[d.ID] == 1 {
			alone = append(alone, d)
		} else {
			several = append(several, d)
		}
	}
	return alone, several
}
