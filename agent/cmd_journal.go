package main

import (
	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/agent/journal"
)

func newJournal() *cobra.Command {
	return &cobra.Command{
		Use:   "journal FILE",
		Short: "Show what a journal (.hrl) file holds, as JSON lines",
		Long:  "Reads the file without changing it; an agent may be using it meanwhile.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return journal.Inspect(cmd.OutOrStdout(), args[0])
		},
	}
}
