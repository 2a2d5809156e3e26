package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/journal"
)

func newUninstall() *cobra.Command {
	var purge bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Undo install: stop the service, take the capture out of the kernel, delete the program",
		Long: "The identity and the journal stay, so that an agent installed again is the same machine; with\n" +
			"--purge they go, too. What the control plane keeps of this machine is not touched.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runUninstall(cmd, purge) },
	}
	cmd.Flags().BoolVar(&purge, "purge", false, "delete the identity and the journal as well")
	return cmd
}

func runUninstall(cmd *cobra.Command, purge bool) error {
	if _, err := vacated("removing the service"); err != nil {
		return err
	}
	if err := release(); err != nil {
		return err
	}
	gone := []string{installedProgram(), journal.DefaultMemoryDir()}
	if purge {
		gone = append(gone, defaultDir)
	}
	for _, path := range gone {
		if err := os.RemoveAll(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("uninstall: %w", err)
		}
	}
	fmt.Fprintln(cmd.OutOrStdout(), "uninstalled")
	return nil
}

// release takes the capture out of the kernel, if this system has any.
func release() error {
	source, _, err := capture.Open(capture.Options{Instance: defaultInstance})
	if errors.Is(err, capture.ErrUnsupported) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := source.Remove(); err != nil {
		return err
	}
	_ = os.Remove(captures) // unless another agent of this machine has something there
	return nil
}

// captures is where agents of this machine pin what they have in the kernel.
const captures = "/sys/fs/bpf/understudy"
