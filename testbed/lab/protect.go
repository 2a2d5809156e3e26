package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// What an operator does with a machine, through the command line.

// SetRPO makes the machines' policy ask for this age of the newest point.
func (m *Machine) SetRPO(ctx context.Context, target time.Duration) error {
	_, err := m.site.CLI(ctx, "policy", "set", "default", "--rpo", target.String())
	return err
}

// Protect asks for the protection of these disks, once the agent has reported them. In
// an emulated machine that takes a while.
func (m *Machine) Protect(ctx context.Context, disks ...*Disk) error {
	args := []string{"protect", m.ID()}
	for _, d := range disks {
		args = append(args, d.Device)
	}
	var taken []struct{ Name, Path string }
	err := Until(ctx, 2*time.Minute, "report of the disks", func() (bool, error) {
		err := m.site.Ask(ctx, &taken, args...)
		return ExitCode(err) != exitNotFound, err
	})
	for _, d := range disks {
		for _, t := range taken {
			if t.Path == d.Device {
				d.Stable = t.Name
			}
		}
	}
	return err
}

// exitNotFound is the operator's command's exit code for what is not there.
const exitNotFound = 3

// Point is a recovery point.
type Point struct {
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
	Kind string    `json:"kind"`
}

// Points lists the machine's points in this time, the oldest first.
func (m *Machine) Points(ctx context.Context, from, to time.Time) ([]Point, error) {
	var points []Point
	err := m.site.Ask(ctx, &points, "point", "list", m.ID(), "--from", from.Format(time.RFC3339Nano), "--to", to.Format(time.RFC3339Nano))
	return points, err
}

// Recovered is what a test failover made.
type Recovered struct {
	ID     string `json:"id"`
	Point  Point  `json:"point"`
	Dir    string `json:"dir"`
	Copies []struct {
		Name string `json:"name"` // the disk's stable name
		File string `json:"file"`
	} `json:"copies"`
}

// Recover materialises all disks of the machine at a point into dir.
func (m *Machine) Recover(ctx context.Context, point, dir string) (Recovered, error) {
	return m.RecoverAs(ctx, point, dir, "raw")
}

// RecoverAs is Recover in this format: raw or vhd.
func (m *Machine) RecoverAs(ctx context.Context, point, dir, format string) (Recovered, error) {
	var r Recovered
	err := m.site.Ask(ctx, &r, "failover", "test", m.ID(), "--point", point, "--to", dir, "--format", format)
	return r, err
}

// CleanUp removes what a test failover made, with the verb for it.
func (m *Machine) CleanUp(ctx context.Context, r Recovered) error {
	_, err := m.site.CLI(ctx, "failover", "cleanup", r.ID)
	return err
}

// Files finds the recovered file of each disk.
func (r Recovered) Files(disks []*Disk) (map[string]string, error) {
	files := map[string]string{}
	for _, d := range disks {
		for _, c := range r.Copies {
			if c.Name == d.Stable {
				files[d.Name] = c.File
			}
		}
		if files[d.Name] == "" {
			return nil, fmt.Errorf("disk %s (%s) is not among the recovered: %+v", d.Name, d.Stable, r.Copies)
		}
	}
	return files, nil
}

// KeepAll makes the machines' policy keep every point up to this age, then one an hour.
func (m *Machine) KeepAll(ctx context.Context, age time.Duration) error {
	_, err := m.site.CLI(ctx, "policy", "set", "default", "--keep", "all:"+age.String())
	return err
}

// Served is a disk at a point, offered over NBD; its point is safe from the retention
// meanwhile.
type Served struct {
	URI     string
	process *Process
}

// Serve offers a disk at a point over NBD until Stop.
func (m *Machine) Serve(ctx context.Context, d *Disk, point string) (*Served, error) {
	l := m.site.lab
	name := "nbd-" + d.Name + "-" + point
	socket := l.Path(name)
	p := l.NewProcess(name, filepath.Join(m.site.bin, "understudy"), "disk", "serve", m.ID(), d.Stable,
		"--point", point, "--listen", "unix:"+socket, "--data", m.site.Data)
	if err := p.Start(); err != nil {
		return nil, err
	}
	err := Until(ctx, 10*time.Second, "NBD socket", func() (bool, error) { _, err := os.Stat(socket); return err == nil, nil })
	if err != nil {
		return nil, fmt.Errorf("%w%s", err, p.Tail())
	}
	return &Served{URI: "nbd+unix:///" + d.Stable + "?socket=" + socket, process: p}, nil
}

// Copy copies it to a file with a client that is not ours.
func (s *Served) Copy(ctx context.Context, file string) error {
	_, err := run(ctx, "nbdcopy", s.URI, file)
	return err
}

// PID is the process that serves.
func (s *Served) PID() int { return s.process.PID() }

// Kill ends it without its knowledge.
func (s *Served) Kill() { s.process.Kill() }

// Stop ends it.
func (s *Served) Stop() error { return s.process.Stop(10 * time.Second) }
