//go:build testbed

package testbed

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// TestInterruptedDemoLeavesNothing stops the demo at different places.
func TestInterruptedDemoLeavesNothing(t *testing.T) {
	demo := filepath.Join(t.TempDir(), "demo")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", demo, "./demo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for place, s := range map[string]syscall.Signal{" 2. ": syscall.SIGINT, " 4. ": syscall.SIGTERM, "Protected": syscall.SIGINT} {
		t.Run(strings.TrimSpace(place), func(t *testing.T) {
			dir, err := interrupt(t, demo, place, s)
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 130 {
				t.Errorf("%v, want exit code 130", err)
			}
			if left := lab.Leftovers(dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is still there: %v", dir, err)
			}
		})
	}
}

// interrupt runs the demo until it prints this, signals it, and returns its lab's
// directory and how it ended.
func interrupt(t *testing.T, demo, place string, s syscall.Signal) (dir string, err error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), demo, "-bin", binaries(t))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sent := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if found := regexp.MustCompile(`/\S*understudy-lab-\d+`).FindString(lines.Text()); found != "" && dir == "" {
			dir = found
		}
		if !sent && dir != "" && strings.Contains(lines.Text(), place) {
			sent = true
			if err := cmd.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !sent {
		t.Errorf("the demo never printed %q", place)
	}
	return dir, cmd.Wait()
}
