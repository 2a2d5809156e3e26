// Command understudy is the control plane (understudy serve) and the operator's tool,
// which speaks to it over the same API as everybody else.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, newRoot()))
}

// run executes the command and says with which code to exit.
func run(ctx context.Context, root *cobra.Command) int {
	err := root.ExecuteContext(ctx)
	if err != nil {
		fmt.Fprint(os.Stderr, explain(err))
	}
	return exitCode(ctx, err)
}

// newRoot is the command with all its verbs.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "understudy",
		Short:         "Disaster recovery: every second of a protected machine's past, anywhere",
		Long:          "Understudy keeps every block that protected machines write and brings them up\nelsewhere as of any moment. This is its control plane and its operator's tool.\n\n" + exitCodesHelp,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(newServe())
	return root
}
