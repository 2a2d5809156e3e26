package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/api"
	"github.com/understudy-dr/understudy/controlplane/inventory"
)

// usage is a command line that makes no sense.
func usage(text string) error { return usageError{errors.New(text)} }

func exactArgs(n int) cobra.PositionalArgs { return asUsage(cobra.ExactArgs(n)) }
func minArgs(n int) cobra.PositionalArgs   { return asUsage(cobra.MinimumNArgs(n)) }
func maxArgs(n int) cobra.PositionalArgs   { return asUsage(cobra.MaximumNArgs(n)) }

// asUsage gives cobra's complaints the right exit code, and the usage line.
func asUsage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{errors.New(err.Error() + "\n  usage: " + cmd.UseLine())}
		}
		return nil
	}
}

// group is a verb that only holds others: alone it shows them, and an unknown one is a
// mistake.
func group(use, short, long string, verbs ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: asUsage(cobra.NoArgs), RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(verbs...)
	return cmd
}

// completionTime bounds how long a shell waits for suggestions.
const completionTime = 2 * time.Second

// completeMachines suggests machines for the first argument.
func (o *operator) completeMachines(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	machines := suggest[api.Machine](cmd, o, "/v1/machines")
	names := make([]string, 0, len(machines))
	for _, m := range machines {
		names = append(names, m.Hostname+"\t"+string(m.Status.State))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeMachineAndDisks suggests a machine, and then its disks.
func (o *operator) completeMachineAndDisks(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return o.completeMachines(cmd, args, typed)
	}
	var names []string
	for _, d := range suggest[inventory.Disk](cmd, o, machinePath(args[0])+"/disks") {
		names = append(names, d.Path+"\t"+d.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// suggest lists what there is; nothing if nobody can be asked.
func suggest[T any](cmd *cobra.Command, o *operator, path string) []T {
	o.complete() // cobra does not run the usual preparation before it asks
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTime)
	defer cancel()
	c, err := o.client()
	if err != nil {
		return nil
	}
	items, _ := list[T](ctx, c, path, nil)
	return items
}
