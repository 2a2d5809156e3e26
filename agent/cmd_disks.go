package main

import (
	"encoding/json"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/agent/capture"
)

func newDisks() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "disks",
		Short: "List the disks of this machine by their stable names",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			disks, err := capture.Discover(cmd.Context())
			if err != nil {
				return err
			}
			if output == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(disks)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tPATH\tSIZE\tID")
			for _, d := range disks {
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\n", d.Name, d.Path, d.Size, d.ID)
			}
			return w.Flush()
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}
