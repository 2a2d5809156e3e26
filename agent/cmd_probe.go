package main

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/agent/capture"
	"github.com/understudy-dr/understudy/pkg/desired"
)

func newProbe() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Tell whether this machine's writes can be captured exactly",
		Long: "Answers yes, no or unknown for each thing that capture needs, for the machine and for each disk,\n" +
			"with the remedy where there is one. Nothing is changed.\n\n" + exitCodes,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runProbe(cmd, output) },
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table or json")
	return cmd
}

func runProbe(cmd *cobra.Command, output string) error {
	report := capture.Probe(cmd.Context())
	var err error
	switch output {
	case "json":
		e := json.NewEncoder(cmd.OutOrStdout())
		e.SetIndent("", "  ")
		err = e.Encode(report)
	case "table":
		err = report.WriteText(cmd.OutOrStdout())
	default:
		return &exitError{exitUsage, fmt.Errorf("--output %s: want table or json", output)}
	}
	switch {
	case err != nil:
		return err
	case report.Answer == capture.No:
		return &exitError{code: exitUnsupported}
	case report.Answer == capture.Unknown:
		return &exitError{code: exitUnknown}
	}
	return nil
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
