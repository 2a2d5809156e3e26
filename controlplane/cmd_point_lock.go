package main

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/api"
	"github.com/understudy-dr/understudy/pkg/problem"
)

const lockHelp = `

A point can have several locks, each of a name of its own: understudy disk serve has one
as long as it runs, and a machine that runs from a point another, which ends with its
failover.`

func newPointLock(o *operator) *cobra.Command {
	name := ""
	cmd := &cobra.Command{
		Use:   "lock MACHINE POINT --name NAME",
		Short: "Keep a point whatever the retention says",
		Long: `Keeps a recovery point whatever the policy's retention says, until point unlock. A point
without a name can be meant by the lock's from then on.` + lockHelp + "\n\n" + momentHelp,
		Example:           "  understudy point lock web1 14:03:20 --name before-upgrade",
		Args:              exactArgs(2),
		ValidArgsFunction: o.completeMachines,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
			return changeLock(ctx, c, out, http.MethodPut, args[0], pointSpec(args[1], time.Now()), name)
		}),
	}
	cmd.Flags().StringVar(&name, "name", "", "what the lock is called")
	_ = cmd.MarkFlagRequired("name")
	return cmd
}

func newPointUnlock(o *operator) *cobra.Command {
	name := ""
	cmd := &cobra.Command{
		Use:   "unlock MACHINE POINT",
		Short: "Leave a point to the retention again",
		Long: `Takes a lock from a recovery point. With its last lock gone, a point is the retention's
again, which may remove it within a minute. Without --name it is the only lock.

What a killed understudy disk serve has left behind is "served by process …".` + lockHelp + "\n\n" + momentHelp,
		Example:           "  understudy point unlock web1 before-upgrade",
		Args:              exactArgs(2),
		ValidArgsFunction: o.completeMachines,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
			return runPointUnlock(ctx, c, out, args[0], pointSpec(args[1], time.Now()), name)
		}),
	}
	cmd.Flags().StringVar(&name, "name", "", "the lock to take away")
	return cmd
}

func runPointUnlock(ctx context.Context, c *client, out *printer, machine, point, name string) error {
	if name != "" {
		return changeLock(ctx, c, out, http.MethodDelete, machine, point, name)
	}
	p, err := get[api.PointDetail](ctx, c, pointPath(machine, point), nil)
	if err != nil {
		return err
	}
	if len(p.LockedBy) != 1 {
		locks := "none"
		if len(p.LockedBy) > 0 {
			locks = `"` + strings.Join(p.LockedBy, `", "`) + `"`
		}
		return problem.New(problem.Conflict, "say which with --name", "point %s of %s has not one lock: it has %s", p.ID, machine, locks)
	}
	return changeLock(ctx, c, out, http.MethodDelete, machine, p.ID, p.LockedBy[0])
}

func changeLock(ctx context.Context, c *client, out *printer, method, machine, point, name string) error {
	p, err := send[api.PointDetail](ctx, c, method, pointPath(machine, point)+"/locks/"+url.PathEscape(name), nil)
	if err != nil {
		return err
	}
	return out.show(p, func(t *table) { drawPoint(t, p) })
}

func pointPath(machine, point string) string {
	return machinePath(machine) + "/points/" + url.PathEscape(point)
}
