package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/agent/capture"
)

func newDetach() *cobra.Command {
	var instance string
	cmd := &cobra.Command{
		Use:   "detach",
		Short: "Take the capture out of the kernel",
		Long:  "The capture stays in the kernel when the agent stops, so that nothing is missed. This takes it\nout: the next start of the agent resynchronises its disks by range hash.",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			source, _, err := capture.Open(capture.Options{Instance: instance})
			if err != nil {
				return err
			}
			n := len(source.Disks())
			if err := source.Remove(); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "detached; %d disks are no longer captured\n", n)
			return nil
		},
	}
	cmd.Flags().StringVar(&instance, "instance", defaultInstance, "which agent of this machine")
	return cmd
}
