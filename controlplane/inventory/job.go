package inventory

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// JobStatus says how far a job or one of its steps has come.
type JobStatus string

const (
	JobQueued  JobStatus = "queued"
	JobRunning JobStatus = "running"
	JobDone    JobStatus = "done"
	JobFailed  JobStatus = "failed"
	JobCleaned JobStatus = "cleaned" // a failover whose copies were removed again

	JobCommitted JobStatus = "committed" // a failover that is final
)

// Takeover is the kind of the jobs after which a machine is another one than its source.
const Takeover = "failover-run-boot"

// maxAttempts bounds the attempts of a step that are kept: the first and the newest.
const maxAttempts = 20

// Job is something long that the control plane does. It is written down before it
// begins, and each of its steps before that begins: whoever finds the job after a
// crash goes on with the step that was under way.
type Job struct {
	ID       string           `json:"id"`
	Kind     string           `json:"kind"`
	Machine  block.MachineID  `json:"machine"`
	Params   json.RawMessage  `json:"params"`
	Status   JobStatus        `json:"status"`
	AskedBy  string           `json:"asked_by"`
	Created  time.Time        `json:"created"`
	Started  time.Time        `json:"started,omitzero"`
	Ended    time.Time        `json:"ended,omitzero"`
	Problem  *problem.Problem `json:"problem,omitempty" doc:"Why it failed."`
	Steps    []JobStep        `json:"steps"`
	Progress *JobProgress     `json:"progress,omitempty" doc:"Of the step that runs, where it can tell."`
}

// JobStep is one step of a job.
type JobStep struct {
	Name     string          `json:"name"`
	Status   JobStatus       `json:"status"`
	Output   json.RawMessage `json:"output,omitempty" doc:"What it found or made."`
	Attempts []Attempt       `json:"attempts"`
}

// Attempt is one try of a step; those that failed stay on record.
type Attempt struct {
	Began   time.Time        `json:"began"`
	Ended   time.Time        `json:"ended,omitzero" doc:"Absent: it runs, or it was cut short."`
	Problem *problem.Problem `json:"problem,omitempty"`
}

// JobProgress is how far the running step is.
type JobProgress struct {
	Done       int64   `json:"done_bytes"`
	Total      int64   `json:"total_bytes"`
	Rate       float64 `json:"bytes_per_second"`
	ETASeconds float64 `json:"eta_seconds,omitempty"`
}

// AddJob queues a job with these steps.
func (inv *Inventory) AddJob(ctx context.Context, kind string, machine block.MachineID, params any, askedBy string, steps []string) (Job, error) {
	text, err := toJSON(params)
	if err != nil {
		return Job{}, err
	}
	id := make([]byte, 6)
	_, _ = rand.Read(id) // never fails: crypto/rand ends the process instead
	name := hex.EncodeToString(id)
	err = inv.update(ctx, func(tx *sql.Tx) error {
		if _, err := exec(ctx, tx, "INSERT INTO jobs (id, kind, machine, params, status, asked_by, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
			name, kind, machine.String(), text, JobQueued, askedBy, nanos(inv.now())); err != nil {
			return err
		}
		for i, step := range steps {
			if _, err := exec(ctx, tx, "INSERT INTO steps (job, ord, name, status) VALUES (?, ?, ?, ?)", name, i, step, JobQueued); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return Job{}, err
	}
	return inv.Job(ctx, name)
}

// Job is the job with this id. The error is a problem with code not-found.
func (inv *Inventory) Job(ctx context.Context, id string) (Job, error) {
	return jobByID(ctx, inv.read, id)
}

// JobFilter chooses jobs. The zero filter chooses all.
type JobFilter struct {
	Machine block.MachineID
	Kinds   []string
	Limit   int // 0: 100
}

// Jobs lists the newest jobs that fit, the newest first.
func (inv *Inventory) Jobs(ctx context.Context, f JobFilter) ([]Job, error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	machine := ""
	if !f.Machine.IsZero() {
		machine = f.Machine.String()
	}
	kinds, err := toJSON(append([]string{}, f.Kinds...))
	if err != nil {
		return nil, err
	}
	jobs, err := list(ctx, inv.read, scanJob, selectJob+` WHERE (?1 = '' OR machine = ?1) AND
		(json_array_length(?2) = 0 OR kind IN (SELECT value FROM json_each(?2))) ORDER BY created_at DESC, id LIMIT ?3`, machine, kinds, f.Limit)
	if err != nil {
		return nil, err
	}
	for i := range jobs {
		if jobs[i].Steps, err = steps(ctx, inv.read, jobs[i].ID); err != nil {
			return nil, err
		}
	}
	return jobs, nil
}

// LeaseJob takes the oldest job that is queued, or whose lease has ended, for so long.
// A job that this owner holds already is given to it again: its process is a new one,
// and the old one is dead. skip lists jobs that this process works on.
func (inv *Inventory) LeaseJob(ctx context.Context, owner string, life time.Duration, skip []string) (Job, bool, error) {
	working, err := toJSON(append([]string{}, skip...))
	if err != nil {
		return Job{}, false, err
	}
	var job Job
	found := false
	err = inv.update(ctx, func(tx *sql.Tx) error {
		now := nanos(inv.now())
		jobs, err := list(ctx, tx, scanJob, selectJob+` WHERE (status = ?1 OR (status = ?2 AND (lease_until < ?3 OR lease_owner = ?4)))
			AND id NOT IN (SELECT value FROM json_each(?5)) ORDER BY created_at LIMIT 1`, JobQueued, JobRunning, now, owner, working)
		if err != nil || len(jobs) == 0 {
			return err
		}
		job, found = jobs[0], true
		if _, err := exec(ctx, tx, "UPDATE jobs SET status = ?, lease_owner = ?, lease_until = ?, started_at = CASE started_at WHEN 0 THEN ? ELSE started_at END WHERE id = ?",
			JobRunning, owner, now+life.Nanoseconds(), now, job.ID); err != nil {
			return err
		}
		job, err = jobByID(ctx, tx, job.ID)
		return err
	})
	return job, found, err
}

// RenewLease prolongs the owner's lease. The error is a problem with code conflict if
// somebody else holds it now: stop working on the job.
func (inv *Inventory) RenewLease(ctx context.Context, id, owner string, life time.Duration) error {
	return inv.note(ctx, func(tx *sql.Tx) error {
		n, err := exec(ctx, tx, "UPDATE jobs SET lease_until = ? WHERE id = ? AND lease_owner = ? AND status = ?",
			nanos(inv.now())+life.Nanoseconds(), id, owner, JobRunning)
		if err == nil && n == 0 {
			return problem.New(problem.Conflict, "nothing is to be done: the other goes on with it", "another control plane has taken over job %s", id)
		}
		return err
	})
}

// BeginAttempt writes down that a step is about to be tried.
func (inv *Inventory) BeginAttempt(ctx context.Context, job string, step int) error {
	return inv.step(ctx, job, step, func(s *JobStep) {
		s.Status = JobRunning
		s.Attempts = append(s.Attempts, Attempt{Began: inv.now().UTC()})
		if len(s.Attempts) > maxAttempts {
			s.Attempts = append(s.Attempts[:1], s.Attempts[2:]...)
		}
	})
}

// EndAttempt writes down how it went: what the step made, or what went wrong.
func (inv *Inventory) EndAttempt(ctx context.Context, job string, step int, output any, p *problem.Problem) error {
	text, err := json.Marshal(output)
	if err != nil {
		return err
	}
	return inv.step(ctx, job, step, func(s *JobStep) {
		s.Status = JobDone
		if p != nil {
			s.Status = JobFailed
		} else if output != nil {
			s.Output = text
		}
		if n := len(s.Attempts); n > 0 {
			s.Attempts[n-1].Ended, s.Attempts[n-1].Problem = inv.now().UTC(), p
		}
	})
}

func (inv *Inventory) step(ctx context.Context, job string, ord int, change func(*JobStep)) error {
	return inv.update(ctx, func(tx *sql.Tx) error {
		found, err := steps(ctx, tx, job)
		if err != nil {
			return err
		}
		if ord >= len(found) {
			return problem.New(problem.NotFound, "see understudy job list", "job %s has no step %d", job, ord+1)
		}
		s := found[ord]
		change(&s)
		attempts, err := toJSON(s.Attempts)
		if err != nil {
			return err
		}
		_, err = exec(ctx, tx, "UPDATE steps SET status = ?, output = ?, attempts = ? WHERE job = ? AND ord = ?", s.Status, string(s.Output), attempts, job, ord)
		return err
	})
}

// FinishJob ends a job with this status, and tells it as an event of its machine.
func (inv *Inventory) FinishJob(ctx context.Context, id string, status JobStatus, p *problem.Problem, e desired.Event) error {
	text := ""
	if p != nil {
		var err error
		if text, err = toJSON(p); err != nil {
			return err
		}
	}
	return inv.update(ctx, func(tx *sql.Tx) error {
		job, err := jobByID(ctx, tx, id)
		if err != nil {
			return err
		}
		if _, err := exec(ctx, tx, "UPDATE jobs SET status = ?, ended_at = CASE ended_at WHEN 0 THEN ? ELSE ended_at END, lease_owner = '', lease_until = 0, problem = ? WHERE id = ?",
			status, nanos(inv.now()), text, id); err != nil {
			return err
		}
		return inv.addEvent(ctx, tx, job.Machine, e)
	})
}

// RestartJob queues a job that has ended again, with other parameters and its steps from
// this one on before it. What they made before is forgotten; their attempts stay on record.
func (inv *Inventory) RestartJob(ctx context.Context, id string, params any, from int) (Job, error) {
	text, err := toJSON(params)
	if err != nil {
		return Job{}, err
	}
	err = inv.update(ctx, func(tx *sql.Tx) error {
		n, err := exec(ctx, tx, "UPDATE jobs SET status = ?, params = ?, started_at = 0, ended_at = 0, problem = '' WHERE id = ? AND status IN (?, ?, ?)",
			JobQueued, text, id, JobDone, JobFailed, JobCommitted)
		if err == nil && n == 0 {
			err = problem.New(problem.Conflict, "see understudy job show "+id, "job %s is not at an end from which it could begin anew", id)
		}
		if err == nil {
			_, err = exec(ctx, tx, "UPDATE steps SET status = ?, output = '' WHERE job = ? AND ord >= ?", JobQueued, id, from)
		}
		return err
	})
	if err != nil {
		return Job{}, err
	}
	return inv.Job(ctx, id)
}

const selectJob = "SELECT id, kind, machine, params, status, asked_by, created_at, started_at, ended_at, problem FROM jobs"

func jobByID(ctx context.Context, q queryer, id string) (Job, error) {
	found, err := list(ctx, q, scanJob, selectJob+" WHERE id = ?", id)
	if err != nil {
		return Job{}, err
	}
	if len(found) == 0 {
		return Job{}, problem.New(problem.NotFound, "see understudy job list", "there is no job %q", id)
	}
	found[0].Steps, err = steps(ctx, q, id)
	return found[0], err
}

func scanJob(rows *sql.Rows) (j Job, err error) {
	var machine, params, p string
	var created, started, ended int64
	if err := rows.Scan(&j.ID, &j.Kind, &machine, &params, &j.Status, &j.AskedBy, &created, &started, &ended, &p); err != nil {
		return j, err
	}
	j.Created, j.Started, j.Ended, j.Params = moment(created), moment(started), moment(ended), json.RawMessage(params)
	if p != "" {
		if err := json.Unmarshal([]byte(p), &j.Problem); err != nil {
			return j, err
		}
	}
	j.Machine, err = block.ParseMachineID(machine)
	return j, err
}

func steps(ctx context.Context, q queryer, job string) ([]JobStep, error) {
	return list(ctx, q, func(rows *sql.Rows) (s JobStep, err error) {
		var output, attempts string
		if err := rows.Scan(&s.Name, &s.Status, &output, &attempts); err != nil {
			return s, err
		}
		if output != "" {
			s.Output = json.RawMessage(output)
		}
		err = json.Unmarshal([]byte(attempts), &s.Attempts)
		return s, err
	}, "SELECT name, status, output, attempts FROM steps WHERE job = ? ORDER BY ord", job)
}
