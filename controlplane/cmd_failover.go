package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/failover"
	"github.com/understudy-dr/understudy/controlplane/inventory"
)

func newFailover(o *operator) *cobra.Command {
	return group("failover", "Bring machines back as of a moment", `Brings all disks of a machine back as of one moment, as files on the control plane's
host, or boots a machine from them. Neither a test nor a run touches the source, its
replication or the vault.`,
		newFailoverStart(o, "test", "Bring back a copy to try; clean it up afterwards"),
		newFailoverStart(o, "run", "Bring back the copy that is to take over"),
		newFailoverChangePoint(o), newFailoverPowerOn(o), newFailoverCommit(o),
		newFailoverList(o), newFailoverShow(o), newFailoverCleanup(o))
}

func failoverPath(id string) string { return "/v1/failovers/" + url.PathEscape(id) }

type failoverStartOptions struct {
	point, to, format string
	noWait, inDoubt   bool
	boot              bootOptions
}

func newFailoverStart(o *operator, kind, short string) *cobra.Command {
	f := &failoverStartOptions{}
	cmd := &cobra.Command{
		Use:   kind + " MACHINE",
		Short: short,
		Long: short + `.

The point is latest, latest-app (consistent for applications), an id or a name (see
understudy point list), or a moment: the newest point not after it. ` + momentHelp + `

Files that Understudy did not make are never overwritten. Interrupting this command
does not stop the job; understudy job show tells how far it is.` + bootHelp,
		Example:           "  understudy failover " + kind + " web1 --point latest\n  understudy failover " + kind + " web1 --point 14:03:20 --to /var/recovered/web1 --format vhd\n  understudy failover " + kind + " web1 --boot" + map[string]string{"run": " --shutdown-source"}[kind],
		Args:              exactArgs(1),
		ValidArgsFunction: o.completeMachines,
	}
	cmd.RunE = o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
		return runFailover(ctx, cmd, c, out, kind, args[0], f)
	})
	flags := cmd.Flags()
	flags.StringVar(&f.point, "point", "latest", "latest, latest-app, an id, a name or a moment")
	flags.StringVar(&f.to, "to", "", "directory on the control plane's host (default: one below its data directory)")
	flags.StringVar(&f.format, "format", failover.Raw, "format of the files: raw or vhd (fixed)")
	flags.BoolVar(&f.inDoubt, "in-doubt", false, "also a point that may show other bytes than the disks had")
	flags.BoolVar(&f.noWait, "no-wait", false, "return at once and let the job go on")
	f.boot.flags(flags, kind)
	_ = cmd.MarkFlagDirname("to")
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{failover.Raw, failover.VHD}, cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("point", cobra.FixedCompletions([]string{"latest", "latest-app"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func runFailover(ctx context.Context, cmd *cobra.Command, c *client, out *printer, kind, machine string, o *failoverStartOptions) error {
	dir := o.to
	if dir != "" {
		var err error
		if dir, err = filepath.Abs(dir); err != nil {
			return err
		}
	}
	boot, err := o.boot.request(cmd.Flags())
	if err != nil {
		return err
	}
	asked := map[string]any{"kind": kind, "point": pointSpec(o.point, time.Now()), "dir": dir, "in_doubt": o.inDoubt}
	if boot != nil {
		asked["boot"] = boot
	} else {
		asked["format"] = o.format
	}
	if o.format != failover.Raw && o.format != failover.VHD {
		return usage("--format " + o.format + ": want raw or vhd")
	}
	started, err := send[failover.Failover](ctx, c, http.MethodPost, machinePath(machine)+"/failovers", asked)
	if err != nil {
		return err
	}
	if !o.noWait {
		_, err := await(ctx, c, started.ID, cmd.ErrOrStderr())
		if errors.Is(err, context.Canceled) {
			fmt.Fprintf(cmd.ErrOrStderr(), "understudy: job %s goes on without you; see understudy failover show %s\n", started.ID, started.ID)
		}
		if err != nil {
			return err
		}
		if started, err = get[failover.Failover](ctx, c, failoverPath(started.ID), nil); err != nil {
			return err
		}
	}
	return out.show(started, func(t *table) { drawFailover(t, started) })
}

func drawFailover(t *table, f failover.Failover) {
	t.row("id", f.ID)
	t.row("kind", f.Kind)
	t.row("machine", f.Machine)
	t.row("status", f.Status)
	if f.Point != nil {
		t.row("point", fmt.Sprintf("%s of %s (%s)", f.Point.ID, clockMillis(f.Point.Time), f.Point.Kind))
	} else {
		t.row("point", f.AskedFor)
	}
	if f.Point != nil {
		for _, d := range f.Point.InDoubt {
			t.row("IN DOUBT", describeDoubt(d))
		}
	}
	t.row("took", seconds(f.Seconds))
	t.row("directory", f.Dir)
	drawReplica(t, f)
	for _, d := range f.Copies {
		t.row("copy", fmt.Sprintf("%s  %s", d.File, size(d.Size)))
	}
	if f.Problem != nil {
		t.row("problem", f.Problem.Detail)
		t.row("what to do", f.Problem.Remedy)
	}
	if f.Kind == failover.Drill {
		return // it has cleaned up
	}
	if f.State == "off" && f.Status != inventory.JobRunning && f.Status != inventory.JobQueued {
		t.row("power on again", "understudy failover power-on "+f.ID)
	}
	if f.Status == inventory.JobDone && f.Kind == failover.RunBoot {
		t.row("make it final", "understudy failover commit "+f.ID)
		t.row("another point", "understudy failover change-point --force "+f.ID+" --point POINT")
		t.row("clean up", "understudy failover cleanup --force "+f.ID)
	} else if f.Status == inventory.JobDone || f.Status == inventory.JobFailed && f.Kind.Boots() {
		t.row("clean up", "understudy failover cleanup "+f.ID)
	}
}

func newFailoverList(o *operator) *cobra.Command {
	var machine string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List failovers, the newest first",
		Args:  cobra.NoArgs,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, _ []string) error {
			query := url.Values{}
			if machine != "" {
				query.Set("machine", machine)
			}
			all, err := list[failover.Failover](ctx, c, "/v1/failovers", query)
			if err != nil {
				return err
			}
			return out.show(all, func(t *table) {
				t.row("ID", "KIND", "STATUS", "MACHINE", "POINT", "DIRECTORY")
				for _, f := range all {
					point := f.AskedFor
					if f.Point != nil {
						point = clockMillis(f.Point.Time)
					}
					t.row(f.ID, f.Kind, f.Status, f.Machine, point, f.Dir)
				}
			})
		}),
	}
	cmd.Flags().StringVar(&machine, "machine", "", "only of this machine")
	_ = cmd.RegisterFlagCompletionFunc("machine", o.completeMachines)
	return cmd
}

func newFailoverShow(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "show FAILOVER",
		Short: "Show one failover",
		Args:  exactArgs(1),
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
			f, err := get[failover.Failover](ctx, c, failoverPath(args[0]), nil)
			if err != nil {
				return err
			}
			return out.show(f, func(t *table) { drawFailover(t, f) })
		}),
	}
}

func newFailoverCleanup(o *operator) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "cleanup FAILOVER",
		Short: "Remove what a failover made",
		Long: `Removes the files that a failover made, with whatever was written to them since, and
nothing else; a machine that it brought up is powered off first. Its screenshot stays. What
was made by failover run may be in use: it needs --force.`,
		Args: exactArgs(1),
	}
	cmd.RunE = o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
		job, err := send[inventory.Job](ctx, c, http.MethodPost, failoverPath(args[0])+"/cleanup", map[string]bool{"force": force})
		if err != nil {
			return err
		}
		if job, err = await(ctx, c, job.ID, cmd.ErrOrStderr()); err != nil {
			return err
		}
		return out.say(job, "what failover %s made is removed", args[0])
	})
	cmd.Flags().BoolVar(&force, "force", false, "also what was made to take over")
	return cmd
}
