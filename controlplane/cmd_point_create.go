package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/api"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

type pointCreateOptions struct {
	name        string
	app, detach bool
	wait        time.Duration
}

func newPointCreate(o *operator) *cobra.Command {
	p := &pointCreateOptions{}
	cmd := &cobra.Command{
		Use:   "create MACHINE",
		Short: "Make a recovery point now",
		Long: `Makes a recovery point of the machine as it is now, and waits until it is in the vault.

With --app the point is application-consistent: the machine's scripts run
(/etc/understudy/scripts/customscript.sh and /etc/understudy/consistency.d/*.sh, with
--pre before and --post after), and all file systems on the protected disks are frozen
for a moment. Where that does not succeed within the policy's deadline, the point is
crash-consistent; it says why, and so do an event and exit code 1.`,
		Example:           "  understudy point create web1 --app --name before-upgrade\n  understudy point create web1",
		Args:              exactArgs(1),
		ValidArgsFunction: o.completeMachines,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
			return runPointCreate(ctx, c, out, args[0], p)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&p.name, "name", "", "what the point is called; it begins with a letter")
	f.BoolVar(&p.app, "app", false, "application-consistent")
	f.BoolVar(&p.detach, "detach", false, "ask for it and return at once")
	f.DurationVar(&p.wait, "wait", 5*time.Minute, "wait no longer for it; it may still be made then")
	return cmd
}

func runPointCreate(ctx context.Context, c *client, out *printer, machine string, o *pointCreateOptions) error {
	asked, err := send[api.PointAsked](ctx, c, http.MethodPost, machinePath(machine)+"/points", map[string]any{"name": o.name, "app": o.app})
	if err != nil {
		return err
	}
	if o.detach {
		return out.say(asked, "point %d of %s is asked for; see understudy point list %s", asked.Point, machine, machine)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.wait, problem.New(problem.Unavailable, "see understudy machine show "+machine+": the agent may be away, or a resync under way",
		"%s has not made point %d within %s", machine, asked.Point, o.wait))
	defer cancel()
	p, err := awaitPoint(ctx, c, machine, asked.Point)
	if err != nil {
		return err
	}
	if err := out.show(p, func(t *table) { drawPoint(t, p) }); err != nil {
		return err
	}
	if o.app && p.Kind != desired.PointApp {
		return exitError{fmt.Errorf("point %s of %s is only crash-consistent: %s", p.ID, machine, p.Problem), exitFailed}
	}
	return nil
}

// awaitPoint waits until the machine has made the point and the vault has it.
func awaitPoint(ctx context.Context, c *client, machine string, number uint64) (api.PointDetail, error) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		m, err := get[api.Machine](ctx, c, machinePath(machine), nil)
		if err == nil && m.Protection != nil && m.Protection.Point != nil {
			switch made := m.Protection.Point; {
			case made.Once > number:
				return api.PointDetail{}, problem.New(problem.Conflict, "ask again", "point %d of %s was replaced by a later request before it was made", number, machine)
			case made.Once == number:
				var p api.PointDetail
				p, err = get[api.PointDetail](ctx, c, pointPath(machine, made.At.String()), nil)
				if err == nil {
					return p, nil
				}
				if problem.CodeOf(err) == problem.PointUnknown || problem.CodeOf(err) == problem.NoPoint {
					err = nil // it is on its way to the vault
				}
			}
		}
		if err != nil && ctx.Err() == nil && exitCode(ctx, err) != exitUnreachable {
			return api.PointDetail{}, err
		}
		select {
		case <-ctx.Done():
			if p, ok := errors.AsType[*problem.Problem](context.Cause(ctx)); ok {
				return api.PointDetail{}, p
			}
			return api.PointDetail{}, ctx.Err()
		case <-tick.C:
		}
	}
}
