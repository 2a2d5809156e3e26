package lab

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"github.com/understudy-dr/understudy/pkg/block"
)

// A point that was judged wrong must be there to be judged again when the lab is gone:
// the control plane's data, what the applications were promised, and which disks.

// kept is what a kept directory says besides the control plane's data.
type kept struct {
	Machine block.MachineID      `json:"machine"`
	Seeded  int                  `json:"seeded"`
	Wide    bool                 `json:"wide"`
	Disks   []keptDisk           `json:"disks"`
	Streams map[string]*promises `json:"streams"`
}

type keptDisk struct{ Name, FS, Stable string }

const (
	keptControl = "control"
	keptFacts   = "kept.json"
)

// Keep copies into dir what it takes to recover and judge the machine's points again.
// It kills the control plane, so that the copy is of one moment.
func (m *Machine) Keep(ctx context.Context, dir string, w *Workload) error {
	m.site.Serve.Kill()
	k := kept{Machine: m.id, Seeded: w.Seeded, Wide: w.wide}
	for _, d := range w.order {
		k.Disks = append(k.Disks, keptDisk{d.Name, d.FS, d.Stable})
	}
	w.ledger.mu.Lock()
	k.Streams = w.ledger.streams
	facts, err := json.Marshal(k)
	w.ledger.mu.Unlock()
	err = errors.Join(err, os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, keptFacts), facts, 0o600))
	if err != nil {
		return err
	}
	_, err = run(ctx, "cp", "-a", m.site.Data, filepath.Join(dir, keptControl)) // with its modes: keys are private
	return err
}

// OpenKept is the machine whose past was kept in dir, and its workload, which can judge
// and not run. The control plane is started on the kept data in place.
func (l *Lab) OpenKept(ctx context.Context, bin, dir string) (*Machine, *Workload, error) {
	text, err := os.ReadFile(filepath.Join(dir, keptFacts))
	if err != nil {
		return nil, nil, err
	}
	var k kept
	if err := json.Unmarshal(text, &k); err != nil {
		return nil, nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, nil, err
	}
	if err := os.Symlink(filepath.Join(dir, keptControl), l.Path("control")); err != nil {
		return nil, nil, err
	}
	site, err := l.NewSite(ctx, bin)
	if err != nil {
		return nil, nil, err
	}
	var disks []*Disk
	for _, d := range k.Disks {
		disks = append(disks, &Disk{Name: d.Name, FS: d.FS, Stable: d.Stable, lab: l})
	}
	w := NewWorkload(&Ledger{streams: k.Streams}, disks...)
	w.Seeded = k.Seeded
	if k.Wide {
		w.Widen()
	}
	return &Machine{Name: "kept", site: site, id: k.Machine}, w, site.Start(ctx)
}

// Disks are the workload's, in the order in which they were given.
func (w *Workload) Disks() []*Disk { return w.order }
