package vault

import (
	"context"
	"math"
	"slices"

	"github.com/understudy-dr/understudy/pkg/block"
)

// collect deletes what the newest manifest has replaced: log and base objects that
// lie wholly in runs, objects of runs that it does not name, older manifests. Objects
// written for a generation to come belong to a thinning at work somewhere; they are
// collected once that generation is there.
func (m *Machine) collect(ctx context.Context, report *ThinReport) error {
	c, _ := m.current()
	for _, find := range []func(context.Context, *manifest) ([]string, error){m.deadLogs, m.deadBases, m.deadRuns, m.deadManifests} {
		names, err := find(ctx, c.manifest)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := m.v.store.Delete(ctx, name); err != nil {
				return err
			}
			report.Deleted++
			m.v.metrics.deleted.Inc()
		}
	}
	return m.dropDoubts(ctx, c, report)
}

// list yields the names under a prefix, with the numbers they end with.
func (m *Machine) list(ctx context.Context, prefix string, count int, yield func(name string, n []uint64)) error {
	for info, err := range m.v.store.List(ctx, prefix) {
		if err != nil {
			return err
		}
		n, err := parseNumbers(info.Key, prefix, count)
		if err != nil {
			return err
		}
		yield(info.Key, n)
	}
	return nil
}

// deadLogs are those whose successor begins no later than the first frame behind the
// runs. The last one listed has no successor and stays.
func (m *Machine) deadLogs(ctx context.Context, mf *manifest) (dead []string, err error) {
	before := ""
	err = m.list(ctx, logPrefix(m.id), 1, func(name string, n []uint64) {
		if before != "" && block.Seq(n[0]) <= mf.Log.Seq+1 {
			dead = append(dead, before)
		}
		before = name
	})
	return dead, err
}

func (m *Machine) deadBases(ctx context.Context, mf *manifest) (dead []string, err error) {
	err = m.list(ctx, basePrefix(m.id), 2, func(name string, n []uint64) {
		if mf.holdsBase(block.Epoch(n[0]), n[1]) {
			dead = append(dead, name)
		}
	})
	return dead, err
}

func (m *Machine) deadRuns(ctx context.Context, mf *manifest) (dead []string, err error) {
	var alive []string
	for _, r := range mf.Runs {
		for _, o := range r.Objects {
			alive = append(alive, o.Key)
		}
	}
	slices.Sort(alive)
	err = m.list(ctx, runPrefix(m.id), 2, func(name string, n []uint64) {
		if _, ok := slices.BinarySearch(alive, name); !ok && n[0] <= mf.Generation {
			dead = append(dead, name)
		}
	})
	return dead, err
}

// keepManifests older than the newest stay, so that a thinning that was out for a
// while finds the name of its generation taken.
const keepManifests = 16

func (m *Machine) deadManifests(ctx context.Context, mf *manifest) (dead []string, err error) {
	err = m.list(ctx, manifestPrefix(m.id), 1, func(name string, n []uint64) {
		if n[0]+keepManifests < mf.Generation {
			dead = append(dead, name)
		}
	})
	return dead, err
}

// lastDisk is behind every disk in the order of runs.
var lastDisk = block.DiskID{
	math.MaxUint8, math.MaxUint8, math.MaxUint8, math.MaxUint8, math.MaxUint8, math.MaxUint8, math.MaxUint8, math.MaxUint8,
	math.MaxUint8, math.MaxUint8, math.MaxUint8, math.MaxUint8, math.MaxUint8, math.MaxUint8, math.MaxUint8, math.MaxUint8,
}
