package main

import (
	"context"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/inventory"
)

func newAudit(o *operator) *cobra.Command {
	return group("audit", "Who did what", "", newAuditList(o))
}

func newAuditList(o *operator) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List what operators did, the newest first",
		Args:  cobra.NoArgs,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, _ []string) error {
			entries, err := list[inventory.Entry](ctx, c, "/v1/audit", url.Values{"limit": {strconv.Itoa(limit)}})
			if err != nil {
				return err
			}
			return out.show(entries, func(t *table) {
				t.row("TIME", "WHO", "WHAT", "TARGET", "RESULT")
				for _, e := range entries {
					t.row(clock(e.Time), e.Who, e.Verb, e.Target, e.Result)
				}
			})
		}),
	}
	cmd.Flags().IntVar(&limit, "limit", 100, "at most so many")
	return cmd
}
