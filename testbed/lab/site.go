package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Site is one control plane on loopback, with an operator at its command line.
type Site struct {
	Serve *Process
	API   string // host:port
	Relay string // host:port, tcp and udp
	Data  string // the control plane's data directory

	lab *Lab
	bin string
}

// NewSite prepares a control plane from the binaries in bin; Start it. More flags for
// serve may follow.
func (l *Lab) NewSite(ctx context.Context, bin string, flags ...string) (*Site, error) {
	s := &Site{Data: l.Path("control"), lab: l, bin: bin}
	var err error
	if s.API, err = FreeAddr(ctx); err != nil {
		return nil, err
	}
	if s.Relay, err = FreeAddr(ctx); err != nil {
		return nil, err
	}
	args := append([]string{"serve", "--data", s.Data, "--api-listen", s.API, "--relay-listen", s.Relay}, flags...)
	s.Serve = l.NewProcess("control", filepath.Join(bin, "understudy"), args...)
	return s, nil
}

// Advertise has agents told this address of the relay instead of its own: a proxy's.
func (s *Site) Advertise(addr string) { s.Serve.args = append(s.Serve.args, "--advertise-relay", addr) }

// Start starts the control plane and returns when it answers its operator.
func (s *Site) Start(ctx context.Context) error {
	if err := s.Serve.Start(); err != nil {
		return err
	}
	err := Until(ctx, 20*time.Second, "answer of the control plane", func() (bool, error) {
		_, err := s.CLI(ctx, "machine", "list")
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("%w%s", err, s.Serve.Tail())
	}
	return nil
}

// CLIError is an operator's command that failed.
type CLIError struct {
	Args   []string
	Code   int    // exit code
	Stderr string // what it said
}

func (e *CLIError) Error() string {
	return fmt.Sprintf("understudy %s: exit code %d: %s", strings.Join(e.Args, " "), e.Code, e.Stderr)
}

// ExitCode is the exit code of an operator's command that failed; 0 for any other error.
func ExitCode(err error) int {
	if c, ok := errors.AsType[*CLIError](err); ok {
		return c.Code
	}
	return 0
}

// CLI runs an operator's command and returns what it printed. A failure is a *CLIError.
func (s *Site) CLI(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, "understudy"), args...)
	cmd.Env = append(cmd.Environ(), "UNDERSTUDY_DATA="+s.Data, labVar+"="+s.lab.Dir)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && ctx.Err() == nil {
		return stdout.String(), &CLIError{Args: args, Code: exit.ExitCode(), Stderr: strings.TrimSpace(stderr.String())}
	}
	return stdout.String(), err
}

// Ask runs an operator's command and reads its JSON into v.
func (s *Site) Ask(ctx context.Context, v any, args ...string) error {
	out, err := s.CLI(ctx, append(args, "--output", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), v); err != nil {
		return fmt.Errorf("understudy %s printed %q: %w", strings.Join(args, " "), out, err)
	}
	return nil
}

// Token makes an enrolment token.
func (s *Site) Token(ctx context.Context) (string, error) {
	var token struct {
		Secret string `json:"token"`
	}
	err := s.Ask(ctx, &token, "token", "create")
	return token.Secret, err
}

// Vault runs a verb on the vault, without the control plane.
func (s *Site) Vault(ctx context.Context, verb string) error {
	_, err := s.CLI(ctx, "vault", verb, "--data", s.Data)
	return err
}

// Event is something the operator was told.
type Event struct {
	Time    time.Time `json:"time"`
	Type    string    `json:"type"`
	Message string    `json:"message"`
	Remedy  string    `json:"remedy"`
}

// Events are those of this type, the newest last.
func (s *Site) Events(ctx context.Context, typ string) ([]Event, error) {
	var events []Event
	err := s.Ask(ctx, &events, "event", "list", "--type", typ)
	return events, err
}
