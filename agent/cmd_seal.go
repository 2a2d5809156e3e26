package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/agent/journal"
	"github.com/understudy-dr/understudy/agent/pipeline"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/obs"
)

// sealLimit is how long a shutdown waits for it. systemd gives its hooks 90 s.
const sealLimit = 60 * time.Second

func newSeal() *cobra.Command {
	o := runOptions{}
	var level, transport string
	cmd := &cobra.Command{
		Use:   "seal",
		Short: "Write down what was captured until the machine stopped",
		Long: "Run when the machine shuts down, with the options of run, after all processes have ended and all\n" +
			"file systems are unmounted or read-only. What the agent has not taken out of the kernel goes to\n" +
			"the journal's place on the disk, so that the next boot goes on without a resync.",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.complete(level, transport); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), sealLimit)
			defer cancel()
			return runSeal(ctx, o, obs.NewLog(os.Stderr, slog.LevelInfo, o.logJSON))
		},
	}
	o.flags(cmd.Flags(), &level, &transport)
	return cmd
}

func runSeal(ctx context.Context, o runOptions, log *slog.Logger) error {
	source, resume, err := capture.Open(capture.Options{Instance: o.instance, Existing: true, Log: log})
	if err != nil {
		return err
	}
	defer source.Close()
	if err := stillWritten(source.Disks()); err != nil {
		return err
	}
	if o.spillBytes == 0 {
		return journal.ErrNoDiskStage
	}
	files, err := journal.OnDevice(o.spill)
	if err != nil {
		return err
	}
	j, recovered, err := journal.Open(journal.Options{
		MemoryDir: o.memoryDir, MemoryBytes: o.memoryBytes, SpillPath: o.spill, SpillBytes: o.spillBytes, Files: files, Log: log,
	})
	if err != nil {
		return err
	}
	return errors.Join(seal(ctx, source, resume, j, recovered, log), j.Close())
}

func seal(ctx context.Context, source capture.Source, resume capture.Resume, j *journal.Journal, recovered journal.Recovered, log *slog.Logger) error {
	state, err := pipeline.Recall(recovered)
	if err != nil {
		return err
	}
	found, err := capture.Discover(ctx)
	if err != nil {
		return err
	}
	p := pipeline.New(pipeline.Config{
		Machine: state.Machine, Log: log, Source: source, Journal: j,
		State: state, Recovered: recovered, Resume: resume, Events: func(desired.Event) {},
	})
	return p.Seal(ctx, pipeline.Sealing{Found: found, Print: capture.TakePrint})
}
