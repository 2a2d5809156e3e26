package main

import (
	"context"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/api"
	"github.com/understudy-dr/understudy/controlplane/inventory"
)

type protectOptions struct{ policy string }

func newProtect(o *operator) *cobra.Command {
	p := &protectOptions{}
	cmd := &cobra.Command{
		Use:   "protect MACHINE DISK...",
		Short: "Protect disks of a machine",
		Long: `Protects disks, named by id, stable name or present path. Capture begins at once; the
first copy runs beside the machine's work, and from its end on every moment can be
brought back. All disks of a machine share one log: a moment is one cut through all
of them.`,
		Example:           "  understudy protect web1 /dev/sda /dev/sdb",
		Args:              minArgs(2),
		ValidArgsFunction: o.completeMachineAndDisks,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
			disks, err := send[api.Items[inventory.Disk]](ctx, c, http.MethodPost, machinePath(args[0])+"/protect",
				map[string]any{"disks": args[1:], "policy": p.policy})
			if err != nil {
				return err
			}
			return out.say(disks.Items, "%s of %s will be protected; follow it with: understudy watch %s", count(len(disks.Items), "disk"), args[0], args[0])
		}),
	}
	cmd.Flags().StringVar(&p.policy, "policy", "", "policy that the machine shall follow (default: as before)")
	return cmd
}

type unprotectOptions struct{ all bool }

func newUnprotect(o *operator) *cobra.Command {
	u := &unprotectOptions{}
	cmd := &cobra.Command{
		Use:   "unprotect MACHINE (DISK...|--all)",
		Short: "End the protection of disks",
		Long: `Ends the protection of disks. Capture stops, and no new points include them. The vault
keeps what it has of them until the retention ends.`,
		Args:              minArgs(1),
		ValidArgsFunction: o.completeMachineAndDisks,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
			if u.all == (len(args) > 1) {
				return usage("name the disks, or say --all")
			}
			disks, err := send[api.Items[inventory.Disk]](ctx, c, http.MethodPost, machinePath(args[0])+"/unprotect",
				map[string]any{"disks": append([]string{}, args[1:]...)})
			if err != nil {
				return err
			}
			return out.say(disks.Items, "protection of %s of %s ends", count(len(disks.Items), "disk"), args[0])
		}),
	}
	cmd.Flags().BoolVar(&u.all, "all", false, "all disks of the machine")
	return cmd
}

func newResync(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "resync MACHINE",
		Short: "Compare all protected disks with the vault and repair",
		Long: `Asks the agent to compare its protected disks with the vault and to send what differs.
A new epoch begins (reason operator); earlier points stay, and new ones follow when
the comparison is complete.`,
		Args:              exactArgs(1),
		ValidArgsFunction: o.completeMachines,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
			asked, err := send[api.ResyncAsked](ctx, c, http.MethodPost, machinePath(args[0])+"/resync", nil)
			if err != nil {
				return err
			}
			return out.say(asked, "resync %d of %s is asked for; follow it with: understudy watch %s", asked.Resync, args[0], args[0])
		}),
	}
}
