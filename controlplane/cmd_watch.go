package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/api"
)

type watchOptions struct{ every time.Duration }

func newWatch(o *operator) *cobra.Command {
	w := &watchOptions{}
	cmd := &cobra.Command{
		Use:   "watch [MACHINE]",
		Short: "Follow machines live: state, RPO, churn, progress",
		Long: `Follows all machines, or one, until interrupted. With --output json it prints one
line a machine each time, as of machine show, with the time added. While the control
plane does not answer, it says so and goes on.`,
		Args:              maxArgs(1),
		ValidArgsFunction: o.completeMachines,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
			return runWatch(ctx, c, out, w, args)
		}),
	}
	cmd.Flags().DurationVar(&w.every, "every", time.Second, "how often")
	return cmd
}

// sighting is a machine at a moment, for programs.
type sighting struct {
	Time time.Time `json:"time"`
	api.Machine
}

func runWatch(ctx context.Context, c *client, out *printer, o *watchOptions, args []string) error {
	if o.every < 100*time.Millisecond {
		return usage("--every: want 100ms or more")
	}
	look := func() ([]api.Machine, error) {
		if len(args) == 0 {
			return list[api.Machine](ctx, c, "/v1/machines", nil)
		}
		m, err := get[api.Machine](ctx, c, machinePath(args[0]), nil)
		return []api.Machine{m}, err
	}
	screen := &screen{w: out.w, live: isTerminal(out.w)}
	tick := time.NewTicker(o.every)
	defer tick.Stop()
	for first := true; ; first = false {
		machines, err := look()
		if err != nil && (first || ctx.Err() != nil || exitCode(ctx, err) != exitUnreachable) {
			return err
		}
		if err := showSightings(out, screen, machines, err); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

func showSightings(out *printer, s *screen, machines []api.Machine, failed error) error {
	now := time.Now()
	if !out.json {
		return s.draw(now, machines, failed)
	}
	if failed != nil {
		return out.line(map[string]any{"time": now, "error": failed.Error()})
	}
	for _, m := range machines {
		if err := out.line(sighting{Time: now, Machine: m}); err != nil {
			return err
		}
	}
	return nil
}

// screen redraws a table in place on a terminal, and appends it elsewhere.
type screen struct {
	w     io.Writer
	live  bool
	lines int
}

func (s *screen) draw(now time.Time, machines []api.Machine, failed error) error {
	var b bytes.Buffer
	fmt.Fprintln(&b, now.Format("15:04:05"))
	if failed != nil {
		fmt.Fprint(&b, explain(failed))
	} else {
		t := &table{w: tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)}
		t.row("HOSTNAME", "STATE", "CONTACT", "RPO", "CHURN", "SENDING", "WAITING", "PROGRESS")
		for _, m := range machines {
			t.row(watchRow(m)...)
		}
		if err := t.w.Flush(); err != nil {
			return err
		}
	}
	text := b.Bytes()
	if s.live {
		if s.lines > 0 {
			fmt.Fprintf(s.w, "\x1b[%dA\x1b[J", s.lines) // up to where it began, and clear
		}
		s.lines = bytes.Count(text, []byte{'\n'})
	}
	_, err := s.w.Write(text)
	return err
}

func watchRow(m api.Machine) []any {
	churn, sending, waiting, progress := "", "", "", ""
	if p := m.Protection; p != nil {
		churn = size(p.Churn) + "/s"
		waiting = size(p.Ring.Used + p.Memory.Used + p.Spill.Used)
	}
	if r := m.Replication; r != nil {
		sending = size(r.BytesPerSecond) + "/s"
	}
	if p := m.Status.Progress; p != nil && p.Total > 0 {
		progress = fmt.Sprintf("%d%% of %s", p.Done*100/p.Total, size(p.Total))
		if p.ETASeconds > 0 {
			progress += ", " + seconds(p.ETASeconds) + " left"
		}
	}
	state := string(m.Status.State)
	if m.Status.Reason != "" {
		state += " (" + m.Status.Reason + ")"
	}
	return []any{m.Hostname, state, m.Status.Contact, rpo(m.Status), churn, sending, waiting, progress}
}
