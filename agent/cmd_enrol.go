package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/agent/enrol"
)

type enrolOptions struct {
	dir, server, token string
	force, noStart     bool
}

func newEnrol() *cobra.Command {
	var o enrolOptions
	cmd := &cobra.Command{
		Use:   "enrol --server HOST[:PORT] --token TOKEN",
		Short: "Give this machine its identity",
		Long:  "Makes a key that never leaves this machine and has the control plane certify it. The token\n(understudy token create) works once and also proves the control plane to this machine.\nWhere the agent is installed as a service it is enabled and started.",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return runEnrol(cmd, o) },
	}
	cmd.Flags().StringVar(&o.dir, "dir", defaultDir, "where the identity is kept")
	cmd.Flags().StringVar(&o.server, "server", "", "the control plane: host or host:port")
	cmd.Flags().StringVar(&o.token, "token", "", "the enrolment token")
	cmd.Flags().BoolVar(&o.force, "force", false, "replace the identity that is there")
	cmd.Flags().BoolVar(&o.noStart, "no-start", false, "leave the service alone")
	_ = cmd.MarkFlagRequired("server")
	_ = cmd.MarkFlagRequired("token")
	return cmd
}

func runEnrol(cmd *cobra.Command, o enrolOptions) error {
	id, err := enrol.Enrol(cmd.Context(), enrol.Options{
		Dir: o.dir, Server: o.server, Token: o.token, Host: host(), Force: o.force, Now: time.Now,
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
