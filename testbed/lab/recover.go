package lab

import (
	"context"
	"fmt"
	"path/filepath"
	"time"
)

// Recovered is what a test failover made.
type Recovered struct {
	Point Point
	Dir   string
}

// SetRPO makes the machine's policy ask for this age of the newest point.
func (m *Machine) SetRPO(ctx context.Context, target time.Duration) error {
	_, err := m.site.CLI(ctx, "policy", "set", "default", "--rpo", target.String())
	return err
}

// Recover materialises all disks of the machine at a point into dir.
func (m *Machine) Recover(ctx context.Context, point, dir string) (Recovered, error) {
	r := Recovered{Dir: dir}
	err := m.site.Ask(ctx, &r, "failover", "test", m.Name, "--point", point, "--to", dir)
	return r, err
}

// Files finds the recovered file of each disk.
func (r Recovered) Files(disks []*Disk) (map[string]string, error) {
	files := map[string]string{}
	names, err := filepath.Glob(filepath.Join(r.Dir, "*.raw"))
	if err != nil || len(names) != len(disks) {
		return nil, fmt.Errorf("%d recovered disks in %s, want %d: %v", len(names), r.Dir, len(disks), err)
	}
	return files, nil
}
