package inventory

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

func addJob(t *testing.T, inv *Inventory) Job {
	t.Helper()
	j, err := inv.AddJob(t.Context(), "failover-test", block.NewMachineID(), map[string]string{"point": "latest"}, "admin", []string{"one", "two"})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func lease(t *testing.T, inv *Inventory, owner string, skip ...string) (Job, bool) {
	t.Helper()
	j, found, err := inv.LeaseJob(t.Context(), owner, 30*time.Second, skip)
	if err != nil {
		t.Fatal(err)
	}
	return j, found
}

func TestLeaseIsExclusiveAndEnds(t *testing.T) {
	inv, c := open(t)
	job := addJob(t, inv)
	got, found := lease(t, inv, "a")
	if !found || got.ID != job.ID || got.Status != JobRunning || len(got.Steps) != 2 {
		t.Fatal(got, found)
	}
	if _, found := lease(t, inv, "b"); found {
		t.Fatal("leased twice")
	}
	if _, found := lease(t, inv, "a", job.ID); found {
		t.Fatal("given again to the process that works on it")
	}
	if _, found := lease(t, inv, "a"); !found {
		t.Fatal("a restarted owner must get its job back at once")
	}
	c.pass(20 * time.Second)
	if err := inv.RenewLease(t.Context(), job.ID, "a", 30*time.Second); err != nil {
		t.Fatal(err)
	}
	c.pass(20 * time.Second)
	if _, found := lease(t, inv, "b"); found {
		t.Fatal("a renewed lease was taken")
	}
	c.pass(20 * time.Second)
	if _, found := lease(t, inv, "b"); !found {
		t.Fatal("an ended lease was not taken")
	}
	want(t, inv.RenewLease(t.Context(), job.ID, "a", time.Minute), problem.Conflict, job.ID)
}

func TestJobsAreLeasedInOrder(t *testing.T) {
	inv, c := open(t)
	first := addJob(t, inv)
	c.pass(time.Second)
	second := addJob(t, inv)
	if got, _ := lease(t, inv, "a"); got.ID != first.ID {
		t.Error("not the oldest")
	}
	if got, _ := lease(t, inv, "a", first.ID); got.ID != second.ID {
		t.Error("not the next")
	}
	if _, found := lease(t, inv, "a", first.ID, second.ID); found {
		t.Error("a third of two")
	}
}

func TestAttemptsStayOnRecord(t *testing.T) {
	inv, c := open(t)
	job := addJob(t, inv)
	lease(t, inv, "a")
	for range maxAttempts + 5 {
		if err := inv.BeginAttempt(t.Context(), job.ID, 0); err != nil {
			t.Fatal(err)
		}
		c.pass(time.Second)
		if err := inv.EndAttempt(t.Context(), job.ID, 0, nil, problem.New(problem.Unavailable, "wait", "away")); err != nil {
			t.Fatal(err)
		}
	}
	if err := inv.BeginAttempt(t.Context(), job.ID, 0); err != nil {
		t.Fatal(err)
	}
	if err := inv.EndAttempt(t.Context(), job.ID, 0, map[string]int{"n": 7}, nil); err != nil {
		t.Fatal(err)
	}
	j, err := inv.Job(t.Context(), job.ID)
	if err != nil {
		t.Fatal(err)
	}
	s := j.Steps[0]
	if s.Status != JobDone || string(s.Output) != `{"n":7}` || len(s.Attempts) != maxAttempts {
		t.Fatalf("%+v", s)
	}
	if first := s.Attempts[0]; !first.Began.Equal(j.Created) || first.Problem.Code != problem.Unavailable {
		t.Error("the first attempt must stay", first)
	}
	if last := s.Attempts[len(s.Attempts)-1]; last.Problem != nil || last.Ended.IsZero() {
		t.Error(last)
	}
	want(t, inv.BeginAttempt(t.Context(), job.ID, 2), problem.NotFound)
}

func TestFinishJob(t *testing.T) {
	inv, c := open(t)
	job := addJob(t, inv)
	lease(t, inv, "a")
	c.pass(time.Minute)
	p := problem.New(problem.NoPoint, "wait", "nothing yet")
	if err := inv.FinishJob(t.Context(), job.ID, JobFailed, p, desired.Event{Type: "job-failed", Severity: desired.Error, Message: "m"}); err != nil {
		t.Fatal(err)
	}
	j, err := inv.Job(t.Context(), job.ID)
	if err != nil || j.Status != JobFailed || j.Problem.Code != problem.NoPoint || j.Ended.Sub(j.Started) != time.Minute {
		t.Fatal(j, err)
	}
	if _, found := lease(t, inv, "a"); found {
		t.Fatal("an ended job was leased")
	}
	if e := events(t, inv, "job-failed"); len(e) != 1 || e[0].Machine != job.Machine.String() {
		t.Fatal(e)
	}
	var params map[string]string
	if err := json.Unmarshal(j.Params, &params); err != nil || params["point"] != "latest" {
		t.Fatal(params, err)
	}
	jobs, err := inv.Jobs(t.Context(), JobFilter{Machine: job.Machine, Kinds: []string{"failover-test"}})
	if err != nil || len(jobs) != 1 || len(jobs[0].Steps) != 2 {
		t.Fatal(jobs, err)
	}
	if jobs, err = inv.Jobs(t.Context(), JobFilter{Kinds: []string{"cleanup"}}); err != nil || len(jobs) != 0 {
		t.Fatal(jobs, err)
	}
}

// TestRestartedJobBeginsAnew, with its old attempts on record; one under way does not.
func TestRestartedJobBeginsAnew(t *testing.T) {
	inv, _ := open(t)
	job := addJob(t, inv)
	_, err := inv.RestartJob(t.Context(), job.ID, map[string]string{"point": "1.2"}, 0)
	want(t, err, problem.Conflict, job.ID)
	lease(t, inv, "a")
	if err := errors.Join(inv.BeginAttempt(t.Context(), job.ID, 0), inv.EndAttempt(t.Context(), job.ID, 0, "made", nil),
		inv.FinishJob(t.Context(), job.ID, JobDone, nil, desired.Event{Type: "x", Severity: desired.Info})); err != nil {
		t.Fatal(err)
	}
	got, err := inv.RestartJob(t.Context(), job.ID, map[string]string{"point": "1.2"}, 0)
	if err != nil || got.Status != JobQueued || !got.Started.IsZero() || !got.Ended.IsZero() || string(got.Params) != `{"point":"1.2"}` {
		t.Fatalf("%+v, %v", got, err)
	}
	if s := got.Steps[0]; s.Status != JobQueued || len(s.Output) != 0 || len(s.Attempts) != 1 {
		t.Errorf("%+v", s)
	}
	if again, found := lease(t, inv, "a"); !found || again.ID != job.ID {
		t.Error("nobody takes it up")
	}
}
