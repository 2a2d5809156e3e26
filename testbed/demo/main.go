// Command demo shows the whole path on this machine in about a minute: two live disks
// are protected, agent and control plane are killed on the way, the disks are
// destroyed, and the data is brought back as of the last moment and as of a moment in
// the past. Everything is real: eBPF, TLS over loopback, files with fsync, and kill -9.
//
// The last line is "DEMO OK {json}" with its figures, or it exits with 1 and says what
// failed and where the logs are. Exit code 130: interrupted. Either way it removes what
// it made.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/understudy-dr/understudy/testbed/lab"
)

func main() {
	bin := flag.String("bin", "bin", "directory with the binaries understudy and understudy-agent")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, *bin)
	stop()
	os.Exit(code)
}

// run plays the story in a lab of its own and always closes that, also when the story
// panics.
func run(ctx context.Context, bin string) (code int) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	l, err := lab.New(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	defer func() {
		if err := l.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "demo: could not clean up:", err)
			code = 1
		}
	}()
	s := newStory(l, bin)
	err = s.play(ctx)
	switch {
	case ctx.Err() != nil:
		fmt.Println("\nInterrupted: everything the demo made is being removed.")
		return 130
	case err != nil:
		return failed(l, err)
	}
	figures, err := json.Marshal(s.figures)
	if err != nil {
		return failed(l, err)
	}
	if err := l.Close(); err != nil {
		return failed(l, err)
	}
	fmt.Printf("\nDEMO OK %s\n", figures)
	return 0
}

func failed(l *lab.Lab, err error) int {
	logs, cerr := l.CloseKeepingLogs()
	fmt.Fprintf(os.Stderr, "\nDEMO FAILED: %v\n", errors.Join(err, cerr))
	if logs != "" {
		fmt.Fprintf(os.Stderr, "The logs of the agent and the control plane are in %s\n", logs)
	}
	return 1
}
