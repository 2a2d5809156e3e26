package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/understudy-dr/understudy/pkg/obs"
)

// newDocs writes the manual; packages and the build call it, operators need not.
func newDocs() *cobra.Command {
	cmd := group("docs", "Write the manual", "", &cobra.Command{
		Use:   "man DIR",
		Short: "Write a man page for each verb into a directory",
		Args:  exactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fmt.Errorf("the manual: %w", err)
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true // the same build gives the same pages
			return doc.GenManTree(root, &doc.GenManHeader{Title: "UNDERSTUDY", Section: "1", Source: "understudy " + obs.BuildVersion(), Manual: "Understudy"}, args[0])
		},
	})
	cmd.Hidden = true
	return cmd
}
