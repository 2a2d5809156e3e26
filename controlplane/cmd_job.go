package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/inventory"
)

// A job is asked how far it is after firstPoll, and then ever less often up to pollEvery:
// who waits for a short one should not wait longer than it takes.
const (
	firstPoll = 20 * time.Millisecond
	pollEvery = 300 * time.Millisecond
)

func newJob(o *operator) *cobra.Command {
	return group("job", "What the control plane does and did", "", newJobList(o), newJobShow(o))
}

func jobPath(id string) string { return "/v1/jobs/" + url.PathEscape(id) }

type jobListOptions struct {
	machine string
	limit   int
}

func newJobList(o *operator) *cobra.Command {
	j := &jobListOptions{}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List jobs, the newest first",
		Args:  cobra.NoArgs,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, _ []string) error {
			query := url.Values{"limit": {strconv.Itoa(j.limit)}}
			if j.machine != "" {
				query.Set("machine", j.machine)
			}
			jobs, err := list[inventory.Job](ctx, c, "/v1/jobs", query)
			if err != nil {
				return err
			}
			return out.show(jobs, func(t *table) {
				t.row("ID", "KIND", "STATUS", "MACHINE", "CREATED", "TOOK", "BY")
				for _, j := range jobs {
					t.row(j.ID, j.Kind, j.Status, j.Machine, clock(j.Created), took(j), j.AskedBy)
				}
			})
		}),
	}
	cmd.Flags().StringVar(&j.machine, "machine", "", "only of this machine")
	cmd.Flags().IntVar(&j.limit, "limit", 100, "at most so many")
	_ = cmd.RegisterFlagCompletionFunc("machine", o.completeMachines)
	return cmd
}

func took(j inventory.Job) string {
	if j.Started.IsZero() || j.Ended.IsZero() {
		return ""
	}
	return seconds(j.Ended.Sub(j.Started).Seconds())
}

func newJobShow(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "show JOB",
		Short: "Show one job with its steps and their attempts",
		Args:  exactArgs(1),
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
			j, err := get[inventory.Job](ctx, c, jobPath(args[0]), nil)
			if err != nil {
				return err
			}
			return out.show(j, func(t *table) { drawJob(t, j) })
		}),
	}
}

func drawJob(t *table, j inventory.Job) {
	t.row("id", j.ID)
	t.row("kind", j.Kind)
	t.row("machine", j.Machine)
	t.row("asked", string(j.Params)+" by "+j.AskedBy)
	t.row("status", j.Status)
	t.row("created", clock(j.Created))
	t.row("took", took(j))
	if j.Problem != nil {
		t.row("problem", j.Problem.Detail)
		t.row("what to do", j.Problem.Remedy)
	}
	if p := j.Progress; p != nil && p.Total > 0 {
		t.row("progress", fmt.Sprintf("%s of %s", size(p.Done), size(p.Total)))
	}
	for i, s := range j.Steps {
		t.row(fmt.Sprintf("step %d", i+1), fmt.Sprintf("%s: %s  %s", s.Name, s.Status, s.Output))
		for _, a := range s.Attempts {
			how := "ended " + clock(a.Ended)
			if a.Problem != nil {
				how += ": " + a.Problem.Detail
			}
			t.row("", fmt.Sprintf("began %s, %s", clock(a.Began), how))
		}
	}
}

// await waits until the job has ended, with a progress bar where a human looks on. A
// job that failed is an error.
func await(ctx context.Context, c *client, id string, bar io.Writer) (inventory.Job, error) {
	b := newBar(bar)
	defer b.done()
	// A tenth of what it took so far is the most that a job's end goes unnoticed.
	for pause := firstPoll; ; pause = min(pause+pause/10, pollEvery) {
		j, err := get[inventory.Job](ctx, c, jobPath(id), nil)
		if err != nil {
			return j, err
		}
		switch j.Status {
		case inventory.JobFailed:
			return j, exitError{fmt.Errorf("job %s failed: %w", id, j.Problem), exitJobFailed}
		case inventory.JobDone, inventory.JobCleaned, inventory.JobCommitted:
			return j, nil
		}
		b.set(j.Progress)
		select {
		case <-ctx.Done():
			return j, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// bar is a progress bar on a terminal, and nothing elsewhere.
type bar struct {
	w   io.Writer
	bar *progressbar.ProgressBar
}

func newBar(w io.Writer) *bar {
	if !isTerminal(w) {
		w = nil
	}
	return &bar{w: w}
}

func (b *bar) set(p *inventory.JobProgress) {
	if b.w == nil || p == nil || p.Total <= 0 {
		return
	}
	if b.bar == nil {
		b.bar = progressbar.NewOptions64(p.Total, progressbar.OptionSetWriter(b.w), progressbar.OptionShowBytes(true),
			progressbar.OptionSetWidth(30), progressbar.OptionClearOnFinish(), progressbar.OptionSetPredictTime(true))
	}
	b.bar.ChangeMax64(p.Total)
	_ = b.bar.Set64(p.Done) // to a terminal that may be gone
}

func (b *bar) done() {
	if b.bar != nil {
		_ = b.bar.Clear()
	}
}
