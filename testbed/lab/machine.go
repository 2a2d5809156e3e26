package lab

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// Machine is a protected machine: this one, seen through one agent of the lab.
type Machine struct {
	Name  string
	Agent *Process

	site *Site
	dir  string // the agent's own
	bin  string
	flag []string
}

// NewMachine prepares an agent with its own identity, journal and pins. More flags for
// its run verb may follow.
func (s *Site) NewMachine(name string, flags ...string) *Machine {
	l := s.lab
	m := &Machine{Name: name, site: s, dir: l.Path(name), bin: filepath.Join(s.bin, "understudy-agent")}
	args := append([]string{"run", "--dir", m.dir, "--pin-dir", filepath.Join(l.PinDir(), name),
		"--memory-dir", filepath.Join(l.RunDir(), name), "--spill", filepath.Join(m.dir, "spill.hrl"), "--spill-size", "256MiB"}, flags...)
	m.Agent = l.NewProcess(name, m.bin, args...)
	return m
}

// Enrol gives the machine an identity by a one-time token.
func (m *Machine) Enrol(ctx context.Context) error {
	var token struct {
		Token string `json:"token"`
	}
	if err := m.site.Ask(ctx, &token, "token", "create"); err != nil {
		return err
	}
	_, err := run(ctx, m.bin, "enrol", "--server", "https://"+m.site.API, "--token", token.Token, "--dir", m.dir)
	return err
}

// View is what the operator is told of a machine.
type View struct {
	ID     block.MachineID `json:"id"`
	Status struct {
		State   string   `json:"state"`
		Contact string   `json:"contact"`
		Reason  string   `json:"reason"`
		Message string   `json:"message"`
		RPO     *float64 `json:"rpo_seconds"`
	} `json:"status"`
	Protection  *desired.Protection `json:"protection"`
	Replication *struct {
		PointEpoch     uint64    `json:"point_epoch"`
		PointTime      time.Time `json:"point_time"`
		NoPoint        string    `json:"no_point"`
		CommittedClose time.Time `json:"committed_close"`
		SpoolBytes     int64     `json:"spool_bytes"`
	} `json:"replication"`
}

// PointTime is the time of the newest recoverable point; zero if there is none.
func (v View) PointTime() time.Time {
	if v.Replication == nil {
		return time.Time{}
	}
	return v.Replication.PointTime
}

// Show asks for the machine's status.
func (m *Machine) Show(ctx context.Context) (View, error) {
	var v View
	err := m.site.Ask(ctx, &v, "machine", "show", m.Name)
	return v, err
}

// Protect asks for the protection of these disks.
func (m *Machine) Protect(ctx context.Context, disks ...*Disk) error {
	args := []string{"protect", m.Name}
	for _, d := range disks {
		args = append(args, d.Device)
	}
	_, err := m.site.CLI(ctx, args...)
	return err
}

// Point is a recovery point.
type Point struct {
	ID   string    `json:"id"`
	Time time.Time `json:"time"`
	Kind string    `json:"kind"`
}

// UntilState waits until the machine is in this state.
func (m *Machine) UntilState(ctx context.Context, limit time.Duration, state string) (View, error) {
	var v View
	err := Until(ctx, limit, "state "+state, func() (bool, error) {
		var err error
		if v, err = m.Show(ctx); err != nil {
			return false, err
		}
		if v.Status.State == state {
			return true, nil
		}
		return false, fmt.Errorf("machine %s is %s: %s", m.Name, v.Status.State, v.Status.Message)
	})
	return v, err
}
