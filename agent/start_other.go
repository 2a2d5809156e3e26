//go:build !linux

package main

import (
	"context"
	"fmt"
	"io"
)

// startService has a service take up the new identity. Where there is none it says what
// to run.
func startService(_ context.Context, out io.Writer) error {
	s, err := manager(idle{})
	if err != nil {
		return err
	}
	if !installed(s) {
		fmt.Fprintln(out, "the agent is not a service of this machine: understudy-agent run protects it")
		return nil
	}
	if err := s.Restart(); err != nil {
		return fmt.Errorf("this machine is enrolled, but the service does not start: %w", err)
	}
	return nil
}
