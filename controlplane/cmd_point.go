package main

import (
	"context"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/api"
)

func newPoint(o *operator) *cobra.Command {
	return group("point", "Moments a machine can be brought back to", "", newPointList(o), newPointShow(o), newPointCreate(o), newPointLock(o), newPointUnlock(o))
}

type pointListOptions struct {
	from, to string
	limit    int
}

func newPointList(o *operator) *cobra.Command {
	p := &pointListOptions{}
	cmd := &cobra.Command{
		Use:               "list MACHINE",
		Short:             "List recovery points, the newest last",
		Long:              "Lists recovery points, the newest last. Without --from\nand --to they are the newest 100.\n\n" + momentHelp,
		Example:           "  understudy point list web1 --from 10m\n  understudy point list web1 --from 12:00 --to 12:05 --limit 1000",
		Args:              exactArgs(1),
		ValidArgsFunction: o.completeMachines,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
			return runPointList(ctx, c, out, args[0], p)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&p.from, "from", "", "only from this moment on")
	f.StringVar(&p.to, "to", "", "only up to this moment")
	f.IntVar(&p.limit, "limit", 0, "at most so many, the newest")
	return cmd
}

func runPointList(ctx context.Context, c *client, out *printer, machine string, o *pointListOptions) error {
	limit := o.limit
	switch {
	case limit > 0:
	case o.from == "" && o.to == "":
		limit = 100
	default:
		limit = api.MaxPoints
	}
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	for name, text := range map[string]string{"from": o.from, "to": o.to} {
		if text == "" {
			continue
		}
		at, err := parseMoment(text, time.Now())
		if err != nil {
			return usageError{err}
		}
		query.Set(name, at.UTC().Format(time.RFC3339Nano))
	}
	h, err := get[api.History](ctx, c, machinePath(machine)+"/points", query)
	if err != nil {
		return err
	}
	err = out.show(h.Items, func(t *table) {
		t.row("TIME", "ID", "KIND", "NAME", "LOCKED", "IN DOUBT", "NOT APP")
		for _, p := range h.Items {
			locked := ""
			if p.Locked {
				locked = "yes"
			}
			t.row(clockMillis(p.Time), p.ID, p.Kind, p.Name, locked, inDoubt(p), p.Problem)
		}
	})
	if err != nil || out.json {
		return err
	}
	if err := sayDoubts(out, h); err != nil {
		return err
	}
	if h.Total > len(h.Items) {
		return out.say(nil, "The newest %d of %d; see --from, --to and --limit.", len(h.Items), h.Total)
	}
	if h.Pending != "" {
		return out.say(nil, "%s", h.Pending)
	}
	return nil
}

func newPointShow(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "show MACHINE POINT",
		Short: "Show the point that is meant by latest, latest-app, an id, a name or a moment",
		Long:  "Shows which point is meant, and the disks it brings back.\n\n" + momentHelp + " The newest\npoint not after the moment is meant.",
		Args:  exactArgs(2),
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
			p, err := get[api.PointDetail](ctx, c, pointPath(args[0], pointSpec(args[1], time.Now())), nil)
			if err != nil {
				return err
			}
			return out.show(p, func(t *table) { drawPoint(t, p) })
		}),
		ValidArgsFunction: o.completeMachines,
	}
}

func drawPoint(t *table, p api.PointDetail) {
	t.row("id", p.ID)
	t.row("time", clockMillis(p.Time))
	t.row("kind", p.Kind)
	t.row("name", p.Name)
	for _, name := range p.LockedBy {
		t.row("locked by", name)
	}
	if p.Problem != "" {
		t.row("not app", p.Problem)
	}
	for _, d := range p.InDoubt {
		t.row("in doubt", describeDoubt(d))
	}
	for _, d := range p.Disks {
		t.row("disk", d.Path+"  "+d.Name+"  "+size(d.Size))
	}
}
