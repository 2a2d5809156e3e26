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

	"github.com/understudy-dr/understudy/pkg/obs"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, newRoot()))
}

// run executes the command and says with which code to exit.
func run(ctx context.Context, root *cobra.Command) int {
	err := root.ExecuteContext(ctx)
	code := exitCode(ctx, err)
	if code != exitOK && code != exitInterrupted { // who interrupts knows why
		fmt.Fprint(os.Stderr, explain(err))
	}
	return code
}

// newRoot is the command with all its verbs.
func newRoot() *cobra.Command {
	o := &operator{}
	root := &cobra.Command{
		Use:   "understudy",
		Short: "Disaster recovery: every second of a protected machine's past, anywhere",
		Long: `Understudy keeps every block that protected machines write and brings them up
elsewhere as of any moment. This is its control plane and its operator's tool.

` + exitCodesHelp,
		Version:           obs.BuildVersion(),
		SilenceUsage:      true,
		SilenceErrors:     true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return o.prepare() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	o.flags(root)
	root.AddCommand(newServe(o), newPush(o), newToken(o), newMachine(o), newDisk(o), newPolicy(o), newProtect(o), newUnprotect(o), newResync(o), newVerify(o),
		newWatch(o), newPoint(o), newFailover(o), newDrill(o), newVault(o), newJob(o), newEvent(o), newAudit(o), newDocs())
	return root
}
