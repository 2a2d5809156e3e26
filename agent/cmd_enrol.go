package main

import (
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/agent/enrol"
)

type enrolOptions struct {
	dir, server      string
	token, tokenFile string
	force, noStart   bool
}

func newEnrol() *cobra.Command {
	var o enrolOptions
	cmd := &cobra.Command{
		Use:   "enrol --server HOST[:PORT] (--token TOKEN | --token-file FILE)",
		Short: "Give this machine its identity",
		Long:  "Makes a key that never leaves this machine and has the control plane certify it. The token\n(understudy token create) works once and also proves the control plane to this machine.\nWhere the agent is installed as a service it is enabled and started.",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return runEnrol(cmd, o) },
	}
	cmd.Flags().StringVar(&o.dir, "dir", defaultDir, "where the identity is kept")
	cmd.Flags().StringVar(&o.server, "server", "", "the control plane: host or host:port")
	cmd.Flags().StringVar(&o.token, "token", "", "the enrolment token; whoever lists this machine's processes sees it")
	cmd.Flags().StringVar(&o.tokenFile, "token-file", "", "a file with the token; - for standard input")
	cmd.Flags().BoolVar(&o.force, "force", false, "replace the identity that is there")
	cmd.Flags().BoolVar(&o.noStart, "no-start", false, "leave the service alone")
	_ = cmd.MarkFlagRequired("server")
	cmd.MarkFlagsOneRequired("token", "token-file")
	cmd.MarkFlagsMutuallyExclusive("token", "token-file")
	return cmd
}

func runEnrol(cmd *cobra.Command, o enrolOptions) error {
	token, err := o.secret(cmd.InOrStdin())
	if err != nil {
		return err
	}
	id, err := enrol.Enrol(cmd.Context(), enrol.Options{
		Dir: o.dir, Server: o.server, Token: token, Host: host(), Force: o.force, Now: time.Now,
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "enrolled as machine %s with %s\n", id.Machine, id.Server)
	if o.noStart || o.dir != defaultDir { // the service uses the usual directory
		return nil
	}
	return startService(cmd.Context(), cmd.OutOrStdout())
}

const maxToken = 4 << 10 // bytes of a file that holds one

// secret is the token, from wherever it was given.
func (o enrolOptions) secret(in io.Reader) (string, error) {
	if o.tokenFile == "" {
		return o.token, nil
	}
	if o.tokenFile != "-" {
		f, err := os.Open(o.tokenFile)
		if err != nil {
			return "", fmt.Errorf("the token: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxToken))
	if err != nil {
		return "", fmt.Errorf("the token: %w", err)
	}
	return string(b), nil
}
