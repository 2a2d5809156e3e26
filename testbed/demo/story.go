package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

const (
	diskSize  = 2 << 30
	seedMB    = 96               // what lies on each disk before it is protected
	rpoTarget = 3 * time.Second  // the policy's
	calm      = 12 * time.Second // how long each act is watched
	outage    = 2 * time.Second  // how long the control plane stays down
)

// figures are what the demo measured; the last line shows them.
type figures struct {
	RPOp50         int64   `json:"rpo_p50_ms"`
	RPOp99         int64   `json:"rpo_p99_ms"`
	Captured       int64   `json:"captured_bytes"`
	Points         int     `json:"points"`
	AckedChecked   int     `json:"acked_checked"`
	RecoverSeconds float64 `json:"recover_seconds"`
	Resyncs        int     `json:"resyncs"`
}

// story is the demo in acts, each a method.
type story struct {
	lab  *lab.Lab
	bin  string
	step int

	site     *lab.Site
	machine  *lab.Machine
	disks    []*lab.Disk
	ledger   *lab.Ledger
	workload *lab.Workload
	watch    *watch
	moment   time.Time // the one in the past to go back to
	figures  figures
}

func newStory(l *lab.Lab, bin string) *story { return &story{lab: l, bin: bin} }

func (s *story) play(ctx context.Context) error {
	for _, act := range []func(context.Context) error{
		s.furnish, s.controlPlane, s.protect, s.quietDays, s.killAgent, s.killControlPlane, s.disaster, s.recoverPast, s.recoverLatest,
	} {
		if err := act(ctx); err != nil {
			return err
		}
		if s.workload != nil {
			if err := s.workload.Err(); err != nil {
				return fmt.Errorf("the workload suffered: %w", err)
			}
		}
	}
	return s.count(ctx)
}

// say begins a numbered step.
func (s *story) say(format string, args ...any) {
	s.step++
	fmt.Printf("\n%2d. %s\n", s.step, fmt.Sprintf(format, args...))
}

// tell adds a line to a step.
func tell(format string, args ...any) { fmt.Printf("    %s\n", fmt.Sprintf(format, args...)) }

func (s *story) furnish(ctx context.Context) error {
	s.say("A machine with two disks of 2 GiB, ext4 and xfs, %d MB of data on each", seedMB)
	for _, fs := range []string{lab.Ext4, lab.XFS} {
		d, err := s.lab.NewDisk(ctx, fs, diskSize)
		if err != nil {
			return err
		}
		if err := errors.Join(d.Format(ctx, fs), d.MountUp(ctx, false), lab.Seed(d, seedMB)); err != nil {
			return err
		}
		tell("%s  %s on %s", d.Device, fs, d.Mount)
		s.disks = append(s.disks, d)
	}
	var err error
	if s.ledger, err = s.lab.NewLedger(); err != nil {
		return err
	}
	s.workload = lab.NewWorkload(s.ledger, s.disks...)
	s.workload.Seeded = seedMB
	if err := s.workload.Start(s.lab); err != nil {
		return err
	}
	tell("It is live: logs, databases, renamed and directly written files, fsynced value by value.")
	tell("Each acknowledged value is recorded outside these disks.")
	return nil
}

func (s *story) controlPlane(ctx context.Context) error {
	s.say("The control plane starts: API, relay, vault and inventory in one process")
	var err error
	if s.site, err = s.lab.NewSite(ctx, s.bin); err != nil {
		return err
	}
	if err := s.site.Start(ctx); err != nil {
		return err
	}
	tell("https://%s, relay on %s", s.site.API, s.site.Relay)
	return nil
}

func (s *story) protect(ctx context.Context) error {
	s.say("The agent enrols with a one-time token, and both disks are protected, RPO target %s", rpoTarget)
	s.machine = s.site.NewMachine("agent")
	if err := s.machine.Enrol(ctx); err != nil {
		return err
	}
	if err := s.machine.Agent.Start(); err != nil {
		return err
	}
	if err := s.machine.SetRPO(ctx, rpoTarget); err != nil {
		return err
	}
	started := time.Now()
	if err := s.machine.Protect(ctx, s.disks...); err != nil {
		return err
	}
	s.watch = newWatch(s.machine, s.ledger)
	v, err := s.machine.UntilState(ctx, time.Minute, "Protected")
	if err != nil {
		return fmt.Errorf("%w%s", err, s.machine.Agent.Tail())
	}
	tell("The first copy took %.1f s while the workload went on. No reboot, no kernel module.", time.Since(started).Seconds())
	tell("Epoch %d begins; every second from here on can be recovered.", v.Protection.Epoch)
	return nil
}

func (s *story) quietDays(ctx context.Context) error {
	s.say("Life goes on. The age of the newest recovery point (RPO), each second:")
	return s.watch.run(ctx, calm)
}

func (s *story) killAgent(ctx context.Context) error {
	s.say("kill -9 of the agent, in the middle of it. The kernel goes on capturing")
	s.machine.Agent.Kill()
	if err := s.watch.run(ctx, time.Second); err != nil {
		return err
	}
	tell("started again")
	if err := s.machine.Agent.Start(); err != nil {
		return err
	}
	if err := s.watch.run(ctx, calm/2); err != nil {
		return err
	}
	s.moment = time.Now()
	tell("The moment to come back to later: %s", s.moment.Format("15:04:05.000"))
	return s.watch.run(ctx, calm/4)
}

func (s *story) killControlPlane(ctx context.Context) error {
	s.say("kill -9 of the control plane, with relay and vault. The agent keeps what it cannot send")
	s.site.Serve.Kill()
	if err := s.watch.run(ctx, outage); err != nil {
		return err
	}
	tell("started again")
	if err := s.site.Start(ctx); err != nil {
		return err
	}
	return s.watch.run(ctx, calm)
}

func (s *story) disaster(ctx context.Context) error {
	s.say("Disaster: the machine dies and its disks are overwritten")
	v, err := s.machine.Show(ctx)
	if err != nil {
		return err
	}
	if v.Protection != nil {
		s.figures.Resyncs = int(v.Protection.Epoch) - 1
	}
	s.machine.Agent.Kill()
	died := time.Now()
	if err := s.workload.Stop(); err != nil {
		return fmt.Errorf("the workload suffered: %w", err)
	}
	for _, d := range s.disks {
		if err := errors.Join(d.Pull(ctx), d.Destroy()); err != nil {
			return err
		}
	}
	tell("%s: %d values had been acknowledged. Nothing can be read from the disks any more.", died.Format("15:04:05.000"), s.ledger.Acked())
	return nil
}

func (s *story) recoverPast(ctx context.Context) error {
	s.say("Recovery as of the moment in the past, %s", s.moment.Format("15:04:05.000"))
	r, err := s.machine.Recover(ctx, s.moment.Format(time.RFC3339Nano), s.lab.Path("past"))
	if err != nil {
		return err
	}
	return s.check(ctx, r)
}

func (s *story) recoverLatest(ctx context.Context) error {
	s.say("Recovery as of the latest point")
	started := time.Now()
	r, err := s.machine.Recover(ctx, "latest", s.lab.Path("latest"))
	if err != nil {
		return err
	}
	s.figures.RecoverSeconds = seconds(time.Since(started))
	return s.check(ctx, r)
}

// check judges what was recovered, disk by disk and value by value.
func (s *story) check(ctx context.Context, r lab.Recovered) error {
	tell("point %s of %s, both disks at one cut", r.Point.ID, r.Point.Time.Local().Format("15:04:05.000"))
	files, err := r.Files(s.disks)
	if err != nil {
		return err
	}
	v, err := s.workload.Verify(ctx, s.lab, files, r.Point.Time)
	if err != nil {
		return err
	}
	s.figures.AckedChecked += v.Checked
	tell("journals replayed, e2fsck and xfs_repair find nothing, SQLite neither")
	tell("%d values were acknowledged before this point: all of them are here, and none from after it", v.Checked)
	return nil
}

// count completes the figures.
func (s *story) count(ctx context.Context) error {
	points, err := s.machine.Points(ctx, time.Time{}, time.Now())
	if err != nil {
		return err
	}
	s.figures.Points = len(points)
	s.figures.Captured = s.watch.captured()
	s.figures.RPOp50, s.figures.RPOp99 = s.watch.percentile(50), s.watch.percentile(99)
	return nil
}
