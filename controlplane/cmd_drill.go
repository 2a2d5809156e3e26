package main

import (
	"context"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/failover"
	"github.com/understudy-dr/understudy/controlplane/inventory"
)

func newDrill(o *operator) *cobra.Command {
	return group("drill", "Try whether machines can be brought up", `A drill is a failover test --boot that cleans up after itself, whatever becomes of it.
Policies ask for them (understudy policy set NAME --drill-every 7d); one runs at a time.
A machine that does not come up is an event (drill-failed); how it looked is kept, and
understudy failover show tells of it.`,
		newDrillNow(o), newDrillList(o))
}

func newDrillNow(o *operator) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "now MACHINE",
		Short:             "Try now whether a machine can be brought up",
		Args:              exactArgs(1),
		ValidArgsFunction: o.completeMachines,
	}
	cmd.RunE = o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
		f, err := send[failover.Failover](ctx, c, http.MethodPost, machinePath(args[0])+"/drills", nil)
		if err != nil {
			return err
		}
		return showWhenUp(ctx, cmd, c, out, f.ID)
	})
	return cmd
}

func newDrillList(o *operator) *cobra.Command {
	var machine string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List drills, the newest first",
		Args:  cobra.NoArgs,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, _ []string) error {
			query := url.Values{}
			if machine != "" {
				query.Set("machine", machine)
			}
			all, err := list[failover.Failover](ctx, c, "/v1/drills", query)
			if err != nil {
				return err
			}
			return out.show(all, func(t *table) {
				t.row("ID", "MACHINE", "BEGAN", "RESULT", "UP AFTER", "SCREENSHOT")
				for _, f := range all {
					drawDrill(t, f)
				}
			})
		}),
	}
	cmd.Flags().StringVar(&machine, "machine", "", "only of this machine")
	_ = cmd.RegisterFlagCompletionFunc("machine", o.completeMachines)
	return cmd
}

func drawDrill(t *table, f failover.Failover) {
	result, up, shot := string(f.Status), "", ""
	if f.Status == inventory.JobDone {
		result = "up"
	}
	if f.Proof != nil {
		up, shot = seconds(f.Proof.Seconds), f.Proof.Screenshot
	}
	t.row(f.ID, f.Machine, clock(f.Created), result, up, shot)
}
