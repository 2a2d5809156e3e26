package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/understudy-dr/understudy/controlplane/failover"
	"github.com/understudy-dr/understudy/controlplane/inventory"
)

const bootHelp = `

With --boot nothing is copied: the disks are served as they were, and a machine boots
from them on the control plane's host, in qemu. What it writes goes beside them, never to
the vault. It is up when a login prompt stands on its serial line, when its agent says so,
or, with --check, when that program in DATA/checks of the control plane exits with 0; it is
run again and again, and finds the replica's ports (UNDERSTUDY_PORT_22=127.0.0.1:40022) and
the file of its serial line (UNDERSTUDY_CONSOLE) in its environment. The screen and the
serial line are kept. Firmware, memory, processors, cards and bus are the source's, as its
agent reported them. A replica's agent knows that it is one, and stays silent.`

// bootOptions are the flags of a failover that boots.
type bootOptions struct {
	boot                      bool
	firmware, bus, network    string
	memory                    byteSize
	cpus                      int
	forward                   []int
	check                     string
	deadline                  time.Duration
	gone, without, shutSource bool
}

func (b *bootOptions) flags(f *pflag.FlagSet, kind string) {
	f.BoolVar(&b.boot, "boot", false, "boot a machine from the disks, instead of copying them")
	f.StringVar(&b.firmware, "firmware", "", "bios or uefi (default: the source's)")
	f.StringVar(&b.bus, "bus", "", "how disks are attached: "+strings.Join(names(failover.Buses), ", ")+" (default: as the source's)")
	f.Var(&b.memory, "memory", "of the machine (default: the source's)")
	f.IntVar(&b.cpus, "cpus", 0, "processors of the machine (default: the source's)")
	f.StringVar(&b.network, "network", string(failover.Isolated), "isolated: reaches nobody; user: reaches what the host reaches, by its address")
	f.IntSliceVar(&b.forward, "forward", nil, "ports of the machine that the host reaches on its loopback (default 22)")
	f.StringVar(&b.check, "check", "", "program in DATA/checks that finds out whether the machine works")
	f.DurationVar(&b.deadline, "deadline", failover.DefaultDeadline*time.Second, "until when it must be up")
	if kind == "run" {
		f.BoolVar(&b.gone, "source-is-gone", false, "the source does not run any more, and will not by itself")
		f.BoolVar(&b.without, "without-shutdown", false, "leave the source as it is: both will run")
		f.BoolVar(&b.shutSource, "shutdown-source", false, "have the source make a last point and switch itself off first")
	}
}

func names[T ~string](all []T) (out []string) {
	for _, v := range all {
		out = append(out, string(v))
	}
	return out
}

// request is what goes to the API; nil where nothing boots.
func (b *bootOptions) request(flags *pflag.FlagSet) (*failover.Boot, error) {
	if !b.boot {
		for _, name := range []string{"firmware", "bus", "memory", "cpus", "network", "forward", "check", "deadline", "source-is-gone", "without-shutdown", "shutdown-source"} {
			if flags.Changed(name) {
				return nil, usage("--" + name + " is for a machine that boots: say --boot, too")
			}
		}
		return nil, nil //nolint:nilnil // no boot is no error
	}
	if flags.Changed("format") {
		return nil, usage("--format is for copies; with --boot nothing is copied")
	}
	if said := b.sources(); len(said) > 1 {
		return nil, usage("the source is one thing only: --shutdown-source, --source-is-gone or --without-shutdown")
	}
	return &failover.Boot{
		Hardware: failover.Hardware{Firmware: failover.Firmware(b.firmware), Bus: failover.Bus(b.bus), Memory: int64(b.memory), CPUs: b.cpus,
			Network: failover.Network(b.network), Forward: b.forward},
		Check: b.check, Deadline: int(b.deadline.Seconds()), Source: cmp.Or(b.sources()...),
	}, nil
}

// sources are what was said of the source; one of them, if it was said well.
func (b *bootOptions) sources() (said []failover.Source) {
	for s, is := range map[failover.Source]bool{failover.SourceShutdown: b.shutSource, failover.SourceGone: b.gone, failover.SourceLeft: b.without} {
		if is {
			said = append(said, s)
		}
	}
	return said
}

// drawReplica shows what a failover brought up.
func drawReplica(t *table, f failover.Failover) {
	if h := f.Hardware; h != nil {
		t.row("hardware", fmt.Sprintf("%s, %s, %s, disks by %s, network %s", h.Firmware, size(h.Memory), count(h.CPUs, "processor"), h.Bus, h.Network))
	}
	if f.State != "" {
		t.row("machine is", f.State)
	}
	if r := f.Replica; r != nil && f.Kind != failover.Drill && f.Status != inventory.JobCleaned {
		for _, port := range slices.Sorted(maps.Keys(r.Ports)) {
			t.row("port "+port, r.Ports[port])
		}
		t.row("console", r.Console)
		t.row("screen", "vnc, unix socket "+r.Display)
		t.row("control", fmt.Sprintf("process %d, qmp, unix socket %s", r.PID, r.Control))
	}
	if p := f.Proof; p != nil {
		t.row("up", fmt.Sprintf("by %s after %s: %s", p.By, seconds(p.Seconds), p.Said))
		t.row("screenshot", p.Screenshot)
		t.row("serial line", p.Console)
	}
}

func newFailoverPowerOn(o *operator) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "power-on FAILOVER",
		Short: "Bring a failover's machine up again that went off",
		Long: `Brings the machine of a failover up again, with what it wrote: after the control plane's
host lost its power, or after somebody shut the machine down. One that runs goes on.`,
		Args: exactArgs(1),
	}
	cmd.RunE = o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
		f, err := send[failover.Failover](ctx, c, http.MethodPost, failoverPath(args[0])+"/power-on", nil)
		if err != nil {
			return err
		}
		return showWhenUp(ctx, cmd, c, out, f.ID)
	})
	return cmd
}

// showWhenUp waits for the failover's job and shows what it made.
func showWhenUp(ctx context.Context, cmd *cobra.Command, c *client, out *printer, id string) error {
	if _, err := await(ctx, c, id, cmd.ErrOrStderr()); err != nil {
		return err
	}
	f, err := get[failover.Failover](ctx, c, failoverPath(id), nil)
	if err != nil {
		return err
	}
	return out.show(f, func(t *table) { drawFailover(t, f) })
}

func newFailoverCommit(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "commit FAILOVER",
		Short: "Make a failover final",
		Long: `Makes the failover of a machine that was brought up by failover run --boot final: its
point can no longer be changed. The vault keeps all points.`,
		Args: exactArgs(1),
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
			f, err := send[failover.Failover](ctx, c, http.MethodPost, failoverPath(args[0])+"/commit", nil)
			if err != nil {
				return err
			}
			return out.say(f, "failover %s is committed", f.ID)
		}),
	}
}

func newFailoverChangePoint(o *operator) *cobra.Command {
	var point string
	var inDoubt, force bool
	cmd := &cobra.Command{
		Use:   "change-point FAILOVER",
		Short: "Boot the machine of a failover from another point",
		Long: `Takes the machine that failover run --boot brought up down, and brings it up as of
another point; possible until the failover is committed. What the machine wrote since it
booted is lost: say --force if that is right.

The point is latest, latest-app, an id, a name or a moment. ` + momentHelp,
		Args: exactArgs(1),
	}
	cmd.RunE = o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
		f, err := send[failover.Failover](ctx, c, http.MethodPost, failoverPath(args[0])+"/point",
			map[string]any{"point": pointSpec(point, time.Now()), "in_doubt": inDoubt, "force": force})
		if err != nil {
			return err
		}
		return showWhenUp(ctx, cmd, c, out, f.ID)
	})
	cmd.Flags().StringVar(&point, "point", "latest", "latest, latest-app, an id, a name or a moment")
	cmd.Flags().BoolVar(&inDoubt, "in-doubt", false, "also a point that may show other bytes than the disks had")
	cmd.Flags().BoolVar(&force, "force", false, "lose what the machine wrote since it booted")
	return cmd
}
