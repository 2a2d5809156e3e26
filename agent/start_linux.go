package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"

	"github.com/understudy-dr/understudy/pkg/problem"
)

// startService enables and starts the agent's unit, or has a running agent take up its
// new identity. Where there is no unit it says what to run.
func startService(ctx context.Context, out io.Writer) error {
	s, err := manager(idle{})
	if err != nil || !installed(s) {
		fmt.Fprintln(out, "the agent is not a service of this machine: understudy-agent run protects it")
		return nil //nolint:nilerr // enrolment is done; a machine without systemd runs the agent as it likes
	}
	for _, verb := range []string{"enable", "restart"} {
		if said, err := exec.CommandContext(ctx, "systemctl", verb, serviceName).CombinedOutput(); err != nil {
			return problem.New(problem.Unavailable, "the identity is kept; look at journalctl -u "+serviceName+" and start it again: systemctl start "+serviceName,
				"this machine is enrolled, but systemctl %s %s failed: %s", verb, serviceName, said)
		}
	}
	fmt.Fprintln(out, "the agent is running: systemctl status "+serviceName)
	return nil
}
