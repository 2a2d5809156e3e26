// Command understudy-agent is the mobility service of a protected machine: it captures
// every block write, keeps it in a journal and ships it to a relay.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/pkg/obs"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// Exit codes, documented in the help and in the man page.
const (
	exitOK          = 0
	exitFailure     = 1 // it was tried and failed
	exitUsage       = 2 // the command line is wrong; nothing was tried
	exitUnsupported = 3 // probe: this machine cannot be captured
	exitUnknown     = 4 // probe: could not tell
)

const exitCodes = `Exit codes:
  0  done
  1  it was tried and failed; the message says what to do
  2  the command line is wrong; nothing was tried
  3  probe: this machine or disk cannot be captured
  4  probe: could not tell`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(execute(ctx, os.Args[1:]))
}

// execute is the one place that turns errors into exit codes.
func execute(ctx context.Context, args []string) int {
	root := newRoot()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var coded *exitError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &coded):
		if coded.err != nil {
			fmt.Fprintln(os.Stderr, "understudy-agent:", coded.err)
		}
		return coded.code
	}
	fmt.Fprintln(os.Stderr, "understudy-agent:", err)
	if problem.CodeOf(err) == problem.Invalid {
		return exitUsage
	}
	return exitFailure
}

// exitError is an error with an exit code of its own; a nil err prints nothing.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return fmt.Sprint(e.err) }
func (e *exitError) Unwrap() error { return e.err }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "understudy-agent",
		Short:         "The agent of a machine protected by Understudy",
		Long:          "The agent captures every block write of the protected disks of this machine and ships\nthem to a relay.\n\n" + exitCodes,
		Version:       obs.BuildVersion(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &exitError{exitUsage, err} })
	root.AddCommand(newRun(), newEnrol(), newProbe(), newDisks(), newJournal(), newDetach(), newInstall(), newUninstall(), newFreezer(), newEarly(), newSeal())
	return root
}
