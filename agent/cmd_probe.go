package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/desired"
)

type probeOptions struct {
	output string
	reach  []string
}

func newProbe() *cobra.Command {
	var o probeOptions
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Tell whether this machine's writes can be captured exactly",
		Long: "Answers yes, no or unknown for each thing that capture needs, for the machine and for each disk,\n" +
			"with the remedy where there is one; also whether the agent's files have room, and with --reach\n" +
			"whether a control plane takes connections from here. Nothing is changed.\n\n" + exitCodes,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runProbe(cmd, o) },
	}
	cmd.Flags().StringVarP(&o.output, "output", "o", "table", "table or json")
	cmd.Flags().StringArrayVar(&o.reach, "reach", nil, "host:port that must take connections from here; may be repeated")
	return cmd
}

// surroundings is what an agent on this machine needs beside a kernel that lets it capture.
type surroundings struct {
	Room  []capture.Check `json:"room"`
	Reach []capture.Check `json:"reach,omitempty"`
}

func runProbe(cmd *cobra.Command, o probeOptions) error {
	if o.output != "json" && o.output != "table" {
		return &exitError{exitUsage, fmt.Errorf("--output %s: want table or json", o.output)}
	}
	report := capture.Probe(cmd.Context())
	report.Reboot = append(report.Reboot, placeForStop(defaultDir)...)
	around := surroundings{Room: roomForFiles(), Reach: reachAll(cmd.Context(), o.reach)}
	var err error
	if o.output == "json" {
		e := json.NewEncoder(cmd.OutOrStdout())
		e.SetIndent("", "  ")
		err = e.Encode(struct {
			capture.Report
			surroundings
		}{report, around})
	} else {
		err = errors.Join(report.WriteText(cmd.OutOrStdout()), around.writeText(cmd.OutOrStdout()))
	}
	switch {
	case err != nil:
		return err
	case report.Answer == capture.No:
		return &exitError{code: exitUnsupported}
	case report.Answer == capture.Unknown:
		return &exitError{code: exitUnknown}
	case slices.ContainsFunc(around.checks(), func(c capture.Check) bool { return c.Answer == capture.No }):
		return &exitError{code: exitFailure}
	}
	return nil
}

func (s surroundings) checks() []capture.Check { return slices.Concat(s.Room, s.Reach) }

func (s surroundings) writeText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintf(t, "\nthe agent's files and ways:\n")
	capture.WriteChecks(t, s.checks())
	return t.Flush()
}

// probed is the machine's own answer: neither its kernel nor its settings change
// while the agent runs.
var probed = sync.OnceValue(func() desired.Probe {
	report := capture.Probe(context.Background())
	p := desired.Probe{Answer: string(report.Answer), Method: "ebpf"}
	for _, c := range report.Checks {
		p.Checks = append(p.Checks, desired.Check{Name: c.Feature, Answer: string(c.Answer), Detail: c.Detail, Remedy: c.Remedy})
	}
	return p
})
