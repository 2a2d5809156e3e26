package main

import (
	"context"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/inventory"
)

// followEvery is how often events are asked for.
const followEvery = time.Second

func newEvent(o *operator) *cobra.Command {
	return group("event", "What happened", "", newEventList(o))
}

type eventListOptions struct {
	machine, kind string
	limit         int
	follow        bool
}

func newEventList(o *operator) *cobra.Command {
	e := &eventListOptions{}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List events, the newest last",
		Long:  "Lists events, the newest last. With --follow, or --output json and --follow, one line\nan event as they come, until interrupted.",
		Args:  cobra.NoArgs,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, _ []string) error {
			return runEventList(ctx, c, out, e)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&e.machine, "machine", "", "only of this machine")
	f.StringVar(&e.kind, "type", "", "only of this type, for example ring-overflow")
	f.IntVar(&e.limit, "limit", 100, "at most so many of the past")
	f.BoolVarP(&e.follow, "follow", "f", false, "go on with events as they come")
	_ = cmd.RegisterFlagCompletionFunc("machine", o.completeMachines)
	return cmd
}

func runEventList(ctx context.Context, c *client, out *printer, e *eventListOptions) error {
	query := url.Values{"limit": {strconv.Itoa(e.limit)}}
	if e.machine != "" {
		query.Set("machine", e.machine)
	}
	if e.kind != "" {
		query.Set("type", e.kind)
	}
	events, err := list[inventory.Event](ctx, c, "/v1/events", query)
	if err != nil {
		return err
	}
	if !e.follow {
		return out.show(events, func(t *table) {
			t.row("TIME", "SEVERITY", "TYPE", "MESSAGE")
			for _, v := range events {
				t.row(clock(v.Time), v.Severity, v.Type, sentence(v))
			}
		})
	}
	return follow(ctx, c, out, query, events)
}

func follow(ctx context.Context, c *client, out *printer, query url.Values, events []inventory.Event) error {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	var last int64
	for {
		for _, v := range events {
			if err := out.say(v, "%s  %-7s  %-20s  %s", clock(v.Time), v.Severity, v.Type, sentence(v)); err != nil {
				return err
			}
			last = max(last, v.ID)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		if last > 0 {
			query.Set("after", strconv.FormatInt(last, 10))
			query.Set("limit", "1000")
		}
		var err error
		if events, err = list[inventory.Event](ctx, c, "/v1/events", query); err != nil {
			return err
		}
	}
}

func sentence(e inventory.Event) string {
	if e.Remedy == "" {
		return e.Message
	}
	return e.Message + " (what to do: " + e.Remedy + ")"
}
