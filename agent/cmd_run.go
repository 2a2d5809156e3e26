package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/understudy-dr/understudy/agent/consistency"
	"github.com/understudy-dr/understudy/agent/journal"
	"github.com/understudy-dr/understudy/pkg/obs"
	"github.com/understudy-dr/understudy/pkg/wire"
)

const (
	defaultDir      = "/var/lib/understudy-agent"
	defaultInstance = "agent"
)

// runOptions are the agent's settings; sizes are in bytes.
type runOptions struct {
	dir, instance string
	memoryDir     string
	memoryBytes   int64
	spill         string
	spillBytes    int64
	ringBytes     int
	capture       string // auto, exact or scan
	transport     wire.Transport
	relays        []string
	metrics       string
	scripts       string
	hush          *consistency.Hush // what the log is written to
	logLevel      slog.Level
	logJSON       bool
}

func newRun() *cobra.Command {
	o := runOptions{logLevel: slog.LevelInfo, hush: consistency.NewHush(os.Stderr)}
	var level, transport string
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Protect this machine",
		Long: "Captures, keeps and ships the writes of the disks that the control plane wants protected.\n" +
			"When it stops, the capture goes on in the kernel; the next run takes it up.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.complete(level, transport); err != nil {
				return err
			}
			return managed(cmd.Context(), func(ctx context.Context) error {
				return runService(ctx, o, obs.NewLog(o.hush, o.logLevel, o.logJSON))
			})
		},
	}
	o.flags(cmd.Flags(), &level, &transport)
	return cmd
}

// flags are those of every verb that does a part of what run does: they are given the
// same options.
func (o *runOptions) flags(f *pflag.FlagSet, level, transport *string) {
	f.StringVar(&o.dir, "dir", defaultDir, "where the identity and what must survive a reboot are kept")
	f.StringVar(&o.instance, "instance", defaultInstance, "name of the capture in the kernel, where several agents share one")
	f.StringVar(&o.memoryDir, "memory-dir", journal.DefaultMemoryDir(), "the journal's memory stage: a directory in a tmpfs")
	f.Int64Var(&o.memoryBytes, "memory-bytes", journal.DefaultMemory, "its size")
	f.StringVar(&o.spill, "spill", "", "the journal's disk stage (default DIR/spill.hrl)")
	f.Int64Var(&o.spillBytes, "spill-bytes", journal.DefaultSpill, "its size; 0 for none")
	f.IntVar(&o.ringBytes, "ring-bytes", 0, "size of the kernel's ring, a power of two (default 64 MiB)")
	f.StringVar(&o.capture, "capture", captureAuto, "exact: every write; scan: compare frozen disks, as the policy says; auto: scan where the kernel cannot do the other")
	f.StringVar(transport, "transport", "auto", "to the relay: auto, tcp or quic")
	f.StringSliceVar(&o.relays, "relay", nil, "host:port of the relay, instead of what the control plane says")
	f.StringVar(&o.scripts, "scripts", consistency.DefaultScripts, "where the scripts for application-consistent points are")
	f.StringVar(&o.metrics, "metrics-listen", "", "serve Prometheus metrics on this address")
	f.StringVar(level, "log-level", "info", "debug, info, warn or error")
	f.BoolVar(&o.logJSON, "log-json", false, "write the log as JSON")
}

// complete checks what the flags said.
func (o *runOptions) complete(level, transport string) error {
	if err := o.logLevel.UnmarshalText([]byte(level)); err != nil {
		return &exitError{exitUsage, err}
	}
	o.transport = wire.Transport(transport)
	if !slices.Contains([]wire.Transport{wire.Auto, wire.TCP, wire.QUIC}, o.transport) {
		return &exitError{exitUsage, fmt.Errorf("--transport %s: want auto, tcp or quic", transport)}
	}
	if !slices.Contains([]string{captureAuto, captureExact, captureScan}, o.capture) {
		return &exitError{exitUsage, fmt.Errorf("--capture %s: want auto, exact or scan", o.capture)}
	}
	if o.spill == "" {
		o.spill = filepath.Join(o.dir, "spill.hrl")
	}
	return nil
}
