package main

import (
	"context"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/api"
	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/controlplane/push"
	"github.com/understudy-dr/understudy/pkg/desired"
)

func newToken(o *operator) *cobra.Command {
	return group("token", "Enrolment tokens", `A token lets one machine enrol once. It also carries the fingerprint of this control
plane, so that the machine knows whom it talks to. Nobody keeps its secret.`,
		newTokenCreate(o), newTokenList(o), newTokenRevoke(o))
}

type tokenCreateOptions struct {
	machine, note string
	life          time.Duration
	command       bool
	controlPlane  string
}

func newTokenCreate(o *operator) *cobra.Command {
	t := &tokenCreateOptions{}
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token",
		Long: `Makes a token. With --command it prints the command that installs the agent on a machine
and enrols it there, for a person or a tool that may run it as root: it fetches the agent
from this control plane, by TLS and only after it has compared the fingerprint.`,
		Example: "  understudy token create --note \"web servers\"\n  understudy token create --command\n  understudy token create --machine web1",
		Args:    cobra.NoArgs,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, _ []string) error {
			return runTokenCreate(ctx, c, out, t)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&t.machine, "machine", "", "let this machine enrol again, and keep its history")
	f.StringVar(&t.note, "note", "", "a note for yourself")
	f.DurationVar(&t.life, "life", inventory.DefaultTokenLife, "how long it can be used, at most 720h")
	f.BoolVar(&t.command, "command", false, "print the command that installs and enrols a machine with it")
	controlPlaneFlag(f, &t.controlPlane, "this one's address as --server has it, or this host's name")
	_ = cmd.RegisterFlagCompletionFunc("machine", o.completeMachines)
	return cmd
}

// installCommand is a token with the command that uses it.
type installCommand struct {
	api.NewToken
	Command string `json:"command"`
}

func runTokenCreate(ctx context.Context, c *client, out *printer, t *tokenCreateOptions) error {
	host, port, err := c.asSeenByMachines(t.controlPlane)
	if err != nil {
		return err
	}
	made, err := send[api.NewToken](ctx, c, http.MethodPost, "/v1/tokens", map[string]any{
		"machine": t.machine, "note": t.note, "life_seconds": int64(t.life.Seconds()),
	})
	if err != nil {
		return err
	}
	if !t.command {
		return out.say(made, "%s", made.Secret)
	}
	token, err := desired.ParseToken(made.Secret)
	if err != nil {
		return err
	}
	if host == "" {
		if host, err = os.Hostname(); err != nil {
			return err
		}
	}
	command, err := push.Command(host, port, token)
	if err != nil {
		return err
	}
	return out.say(installCommand{made, command}, "%s", command)
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
