package failover

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/pkg/problem"
)

// How a replica shows that it is up.
const (
	byLogin  = "login"  // a login prompt on its serial line
	byAgent  = "agent"  // its agent said so
	byScript = "script" // the operator's check was satisfied
)

// Proof is how a replica looked when it was checked. It outlives the replica.
type Proof struct {
	Up         bool      `json:"up"`
	By         string    `json:"by,omitempty" doc:"login: a login prompt on its serial line; agent: its agent says so; script: the operator's check was satisfied."`
	Said       string    `json:"said,omitempty" doc:"The prompt, the agent's line, or the end of what the check printed."`
	At         time.Time `json:"at"`
	Seconds    float64   `json:"seconds" doc:"Since it was powered on."`
	Screenshot string    `json:"screenshot,omitempty" doc:"File on the control plane's host."`
	Console    string    `json:"console,omitempty" doc:"File with what it printed on its serial line."`
}

// The files of a proof, in a directory of the failover's id.
const (
	screenName  = "screen.png"
	consoleName = "console.txt"
)

const (
	lookAgain  = 250 * time.Millisecond
	checkAgain = 2 * time.Second // after a check that was not satisfied
	maxSaid    = 1000            // bytes
)

// loginPrompt is what getty prints, at the end of a line that waits for an answer.
var loginPrompt = regexp.MustCompile(`(?m)^.*\S+ login: ?(\x1b\[[0-9;?]*[a-zA-Z])*\r?$`)

// kernelPanic is the end of a boot that will never be up.
var kernelPanic = regexp.MustCompile(`(?m)^.*Kernel panic - not syncing.*$`)

// untilUp waits until the replica shows that it is up: with a check of the operator's by
// that, else by a login or its agent. A screen alone proves nothing, since a firmware
// that finds no boot loader shows one, too; it is kept for people.
func (p planner) untilUp(ctx context.Context, t *Task) (any, error) {
	var asked params
	var up powerOn
	var point Point
	if err := errors.Join(t.Params(&asked), t.Output(stepPower, &up), t.Output(stepPoint, &point)); err != nil {
		return nil, err
	}
	limit := time.Duration(cmp.Or(asked.Boot.Deadline, DefaultDeadline)) * time.Second
	wait, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	proof, err := p.look(wait, t, asked, up, point)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if wait.Err() != nil {
		err = fmt.Errorf("it was not up within %s", limit)
	}
	proof.At = time.Now().UTC()
	proof.Seconds = proof.At.Sub(up.Replica.Since).Seconds()
	if kept := p.keep(ctx, t, asked.Dir, &proof); kept != nil {
		return nil, kept
	}
	if err != nil {
		return nil, problem.New(problem.NotUp, "look at its screen and console, which are kept; another point, bus or firmware may boot; then understudy failover cleanup "+t.Job.ID,
			"the replica of %s at point %s: %v%s (%s, %s)", p.nameOf(ctx, t), point.ID, err, lastWords(proof.Said), proof.Screenshot, proof.Console)
	}
	return proof, nil
}

func lastWords(said string) string {
	if said == "" {
		return ""
	}
	return ": " + said
}

// look watches the replica until it is up, has ended, or the context ends.
func (p planner) look(ctx context.Context, t *Task, asked params, up powerOn, point Point) (Proof, error) {
	script := p.scriptOf(t, asked, up, point)
	var tried time.Time
	var said string
	for ctx.Err() == nil {
		s, err := p.Compute.Look(ctx, asked.Dir)
		if err != nil {
			return Proof{}, err
		}
		if !s.Running {
			return Proof{Said: s.Last}, errors.New("it has been powered off")
		}
		if line := kernelPanic.FindString(s.Console); line != "" {
			return Proof{Said: strings.TrimSpace(line)}, errors.New("its kernel panicked")
		}
		switch {
		case script != nil:
			if time.Since(tried) >= checkAgain {
				var ok bool
				if ok, said = script(ctx); ok {
					return Proof{Up: true, By: byScript, Said: said}, nil
				}
				tried = time.Now()
			}
		case s.Heartbeat != "":
			return Proof{Up: true, By: byAgent, Said: strings.TrimSpace(s.Heartbeat)}, nil
		case loginPrompt.MatchString(s.Console):
			return Proof{Up: true, By: byLogin, Said: strings.TrimSpace(loginPrompt.FindString(s.Console))}, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(lookAgain):
		}
	}
	return Proof{Said: said}, nil
}

// scriptOf is the operator's check, nil if none was asked for. It runs on the control
// plane's host, with the replica's addresses in its environment.
func (p planner) scriptOf(t *Task, asked params, up powerOn, point Point) func(context.Context) (bool, string) {
	if asked.Boot.Check == "" {
		return nil
	}
	env := append(os.Environ(), "UNDERSTUDY_FAILOVER="+t.Job.ID, "UNDERSTUDY_MACHINE="+t.Job.Machine.String(),
		"UNDERSTUDY_POINT="+point.ID, "UNDERSTUDY_POINT_TIME="+point.Time.Format(time.RFC3339Nano), "UNDERSTUDY_CONSOLE="+up.Replica.Console)
	for port, addr := range up.Replica.Ports {
		env = append(env, "UNDERSTUDY_PORT_"+port+"="+addr)
	}
	return func(ctx context.Context) (bool, string) {
		cmd := exec.CommandContext(ctx, filepath.Join(p.Checks, asked.Boot.Check)) //nolint:gosec // who can write there is an operator
		cmd.Env = env
		cmd.WaitDelay = time.Second // of children that keep its output open
		out, err := cmd.CombinedOutput()
		said := strings.TrimSpace(string(out[max(0, len(out)-maxSaid):]))
		if err != nil {
			return false, strings.TrimSpace(fmt.Sprintf("check %s: %v: %s", asked.Boot.Check, err, said))
		}
		return true, said
	}
}

// keep writes down how the replica looks, for after it is gone.
func (p planner) keep(ctx context.Context, t *Task, dir string, proof *Proof) error {
	to := filepath.Join(p.Proofs, t.Job.ID)
	if err := os.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("the proof: %w", err)
	}
	s, err := p.Compute.Look(ctx, dir)
	if err != nil {
		return err
	}
	if shot, err := p.Compute.Screenshot(ctx, dir); err == nil { // one that has ended has no screen
		if err := os.WriteFile(filepath.Join(to, screenName), shot, 0o600); err != nil {
			return fmt.Errorf("the proof: %w", err)
		}
		proof.Screenshot = filepath.Join(to, screenName)
	}
	if err := os.WriteFile(filepath.Join(to, consoleName), bytes.ToValidUTF8([]byte(s.Console), []byte("?")), 0o600); err != nil {
		return fmt.Errorf("the proof: %w", err)
	}
	proof.Console = filepath.Join(to, consoleName)
	return nil
}

// checkThere refuses a check that nobody could run, before the machine is started for it.
func (f *Failovers) checkThere(b Boot) error {
	if b.Check == "" {
		return nil
	}
	path := filepath.Join(f.rooms.Checks, b.Check)
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
		return problem.New(problem.NotFound, "put it there, executable, on the control plane's host", "there is no program %s", path)
	}
	if info.Mode()&0o022 != 0 {
		return problem.New(problem.Conflict, "chmod go-w "+path, "%s can be changed by others than its owner", path)
	}
	return nil
}
