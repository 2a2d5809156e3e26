package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/obs"
)

func newEarly() *cobra.Command {
	o := runOptions{}
	var level, transport string
	cmd := &cobra.Command{
		Use:   "early",
		Short: "Begin to capture, before the machine writes to its disks",
		Long: "Run in the initramfs and by the first units of a boot, with the options of run: captures the\n" +
			"writes of all disks from then on, for the agent to take up. A disk that was written to before is\n" +
			"named, and compared by hash.",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.complete(level, transport); err != nil {
				return err
			}
			return runEarly(cmd.Context(), o, obs.NewLog(os.Stderr, slog.LevelWarn, o.logJSON))
		},
	}
	o.flags(cmd.Flags(), &level, &transport)
	return cmd
}

func runEarly(ctx context.Context, o runOptions, log *slog.Logger) error {
	if o.capture == captureScan {
		return nil // nothing is captured here
	}
	origin, err := capture.Early(ctx, capture.Options{Instance: o.instance, RingBytes: o.ringBytes, Log: log})
	if errors.Is(err, capture.ErrBusy) {
		return nil // the agent itself runs
	}
	if err != nil {
		return err
	}
	missed := 0
	for id, d := range origin.Disks {
		if d.Missed != "" {
			missed++
			log.Warn("writes went by before the capture began", "disk", id, "why", d.Missed)
		}
	}
	fmt.Printf("understudy-agent: captures %d disks from their first write of this boot, %d from later on\n", len(origin.Disks)-missed, missed)
	return nil
}
