package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/inventory"
)

func newDisk(o *operator) *cobra.Command {
	return group("disk", "Disks of machines, now and in the past", "", newDiskList(o), newDiskServe(o))
}

func newDiskList(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:               "list MACHINE",
		Short:             "List the disks of a machine",
		Args:              exactArgs(1),
		ValidArgsFunction: o.completeMachines,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
			disks, err := list[inventory.Disk](ctx, c, machinePath(args[0])+"/disks", nil)
			if err != nil {
				return err
			}
			return out.show(disks, func(t *table) {
				t.row("PATH", "SIZE", "PROTECTED", "NAME", "ID", "CONTENT")
				for _, d := range disks {
					t.row(d.Path, size(d.Size), diskStatus(d), d.Name, d.ID, d.Filesystem)
				}
			})
		}),
	}
}

func diskStatus(d inventory.Disk) string {
	switch {
	case d.Protected.IsZero():
		return "no"
	case !d.Present:
		return "yes, but it is gone"
	default:
		return fmt.Sprintf("since %s", clock(d.Protected))
	}
}
