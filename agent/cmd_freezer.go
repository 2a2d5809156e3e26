package main

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/agent/consistency"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// newFreezer is the process that freezes file systems for the agent and thaws them
// whatever becomes of it. Nobody else calls it.
func newFreezer() *cobra.Command {
	return &cobra.Command{
		Use: "freezer", Hidden: true, Args: cobra.NoArgs,
		Short: "Freeze file systems for the agent, and thaw them",
		RunE:  func(*cobra.Command, []string) error { return consistency.Freeze(os.Stdin, os.Stdout) },
	}
}

func newQuiescer(o runOptions) *consistency.Quiescer {
	return consistency.New(consistency.Options{
		Freezer: []string{"/proc/self/exe", "freezer"}, // also after an upgrade has replaced the file
		Record:  filepath.Join(o.memoryDir, "frozen.json"),
		Scripts: o.scripts,
	})
}

// thaw lets file systems go on that an earlier agent froze, if it was killed together with
// its freezer.
func (s *service) thaw() {
	thawed, err := s.quiescer.Recover()
	if err != nil {
		s.log.Error("cannot thaw what an earlier agent froze", "err", err)
	}
	if len(thawed) == 0 && err == nil {
		return
	}
	e := desired.Event{Time: time.Now(), Type: "thawed", Severity: desired.Warning,
		Message: "an earlier agent was killed with file systems frozen; they are thawed now: " + strings.Join(thawed, ", "),
		Remedy:  "find what killed the agent together with its freezer process"}
	if err != nil {
		e.Severity, e.Message, e.Remedy = desired.Error, "what an earlier agent froze cannot be thawed: "+err.Error(), "thaw it: fsfreeze --unfreeze MOUNTPOINT"
	}
	s.log.Warn("thawed", "mounts", thawed)
	s.news.add(e)
}
