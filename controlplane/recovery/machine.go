package recovery

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// MaterialiseMachine writes all disks of a machine, at one position, into a
// directory that exists or whose parent does. The files are named after the disks.
func MaterialiseMachine(ctx context.Context, disks []Disk, dir string, f Format, opts Options) ([]Result, error) {
	opts.advance = false
	return machine(ctx, disks, dir, f, opts)
}

// AdvanceMachine brings what MaterialiseMachine made to the point of the disks. A
// disk that was not there is materialised.
func AdvanceMachine(ctx context.Context, disks []Disk, dir string, f Format, opts Options) ([]Result, error) {
	opts.advance = true
	return machine(ctx, disks, dir, f, opts)
}

func machine(ctx context.Context, disks []Disk, dir string, f Format, opts Options) ([]Result, error) {
	targets := make([]Target, len(disks))
	for i, d := range disks {
		if d.Vault != disks[0].Vault || d.Machine != disks[0].Machine || d.Position != disks[0].Position {
			return nil, fmt.Errorf("recovery: disks %s and %s are not of one machine at one point: %s at %s, %s at %s",
				disks[0].Name, d.Name, disks[0].Machine, disks[0].Position, d.Machine, d.Position)
		}
		targets[i] = TargetIn(dir, d.Origin, f)
		for _, t := range targets[:i] {
			if strings.EqualFold(t.Path, targets[i].Path) {
				return nil, fmt.Errorf("recovery: two disks of machine %s have the stable name %s", d.Machine, d.Name)
			}
		}
	}
	if len(disks) == 0 {
		return nil, errors.New("recovery: the machine has no disks at this point")
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("recovery: making the directory for machine %s: %w", disks[0].Machine, err)
	}
	return run(ctx, disks, targets, opts)
}

// Targets are the sidecars of all targets in a directory, by target path.
func Targets(dir string) (map[string]*Sidecar, error) {
	found, err := filepath.Glob(filepath.Join(escaped(dir), "*"+sidecarSuffix))
	if err != nil {
		return nil, err
	}
	all := make(map[string]*Sidecar, len(found))
	for _, path := range found {
		target := strings.TrimSuffix(path, sidecarSuffix)
		if all[target], err = ReadSidecar(target); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// escaped keeps a directory's name from being read as a pattern.
func escaped(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}
