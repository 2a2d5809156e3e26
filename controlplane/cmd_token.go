package main

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/api"
	"github.com/understudy-dr/understudy/controlplane/inventory"
)

func newToken(o *operator) *cobra.Command {
	return group("token", "Enrolment tokens", `A token lets one machine enrol once. It also carries the fingerprint of this control
plane, so that the machine knows whom it talks to. Nobody keeps its secret.`,
		newTokenCreate(o), newTokenList(o), newTokenRevoke(o))
}

type tokenCreateOptions struct {
	machine, note string
	life          time.Duration
}

func newTokenCreate(o *operator) *cobra.Command {
	t := &tokenCreateOptions{}
	cmd := &cobra.Command{
		Use:     "create",
		Short:   "Make a token",
		Example: "  understudy token create --note \"web servers\"\n  understudy token create --machine web1",
		Args:    cobra.NoArgs,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, _ []string) error {
			return runTokenCreate(ctx, c, out, t)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&t.machine, "machine", "", "let this machine enrol again, and keep its history")
	f.StringVar(&t.note, "note", "", "a note for yourself")
	f.DurationVar(&t.life, "life", inventory.DefaultTokenLife, "how long it can be used, at most 720h")
	_ = cmd.RegisterFlagCompletionFunc("machine", o.completeMachines)
	return cmd
}

func runTokenCreate(ctx context.Context, c *client, out *printer, t *tokenCreateOptions) error {
	made, err := send[api.NewToken](ctx, c, http.MethodPost, "/v1/tokens", map[string]any{
		"machine": t.machine, "note": t.note, "life_seconds": int64(t.life.Seconds()),
	})
	if err != nil {
		return err
	}
	return out.say(made, "%s", made.Secret)
}

func newTokenList(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List tokens",
		Args:  cobra.NoArgs,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, _ []string) error {
			tokens, err := list[inventory.Token](ctx, c, "/v1/tokens", nil)
			if err != nil {
				return err
			}
			return out.show(tokens, func(t *table) {
				t.row("ID", "STATUS", "CREATED", "EXPIRES", "MACHINE", "USED BY", "NOTE")
				for _, k := range tokens {
					t.row(k.ID, k.Status, clock(k.Created), clock(k.Expires), k.Machine, k.UsedBy, k.Note)
				}
			})
		}),
	}
}

func newTokenRevoke(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "revoke TOKEN-ID",
		Short: "Make an unused token useless",
		Args:  exactArgs(1),
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
			if _, err := send[struct{}](ctx, c, http.MethodDelete, "/v1/tokens/"+url.PathEscape(args[0]), nil); err != nil {
				return err
			}
			return out.say(map[string]string{"revoked": args[0]}, "token %s is revoked", args[0])
		}),
	}
}
