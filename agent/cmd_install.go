package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/agent/enrol"
)

func newInstall() *cobra.Command {
	return &cobra.Command{
		Use:   "install",
		Short: "Make this program a service of this machine",
		Long: "Copies this program to where services live, makes it a service with the same settings as the\n" +
			"package, and starts it if this machine has enrolled; if not, enrol starts it. A service that is\n" +
			"there is replaced and restarted: the capture stays in the kernel meanwhile.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runInstall(cmd) },
	}
}

func runInstall(cmd *cobra.Command) error {
	s, err := vacated("replacing the service that is there")
	if err != nil {
		return err
	}
	_, err = os.Stat(installedProgram())
	fresh := errors.Is(err, fs.ErrNotExist)
	if err := place(installedProgram()); err != nil {
		return err
	}
	if err := s.Install(); err != nil {
		if fresh { // half a service is worse than none
			_, _ = os.Remove(ownUnit), os.Remove(installedProgram())
		}
		return fmt.Errorf("installing the service: %w", err)
	}
	if _, err := enrol.Load(defaultDir, time.Now); errors.Is(err, enrol.ErrNotEnrolled) {
		fmt.Fprintf(cmd.OutOrStdout(), "installed %s; understudy-agent enrol starts it\n", installedProgram())
		return nil
	}
	if err := s.Start(); err != nil {
		return fmt.Errorf("starting the service: %w", err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "installed %s and started it\n", installedProgram())
	return nil
}

// place copies the program that runs to path, whole or not at all.
func place(path string) error {
	own, err := os.Executable()
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	if own == path {
		return nil
	}
	from, err := os.Open(own)
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	defer from.Close()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("install: %w", err)
	}
	fresh := path + ".new"
	to, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	_, err = io.Copy(to, from)
	if err := errors.Join(err, to.Sync(), to.Close()); err != nil {
		return fmt.Errorf("install: %s: %w", fresh, err)
	}
	return os.Rename(fresh, path)
}
