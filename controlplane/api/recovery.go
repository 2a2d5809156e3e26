package api

import (
	"context"
	"time"

	"github.com/understudy-dr/understudy/controlplane/failover"
	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/block"
)

// History is a stretch of a machine's recovery points.
type History struct {
	Items   []failover.Point `json:"items"`
	Total   int              `json:"total" doc:"Points in the stretch, of which items are the newest."`
	Oldest  *failover.Point  `json:"oldest" doc:"Of all the machine's points; null if there is none."`
	Newest  *failover.Point  `json:"newest" doc:"Of all the machine's points; null if there is none."`
	Pending string           `json:"pending,omitempty" doc:"Why the newest epoch has no points yet."`
	Doubts  []failover.Doubt `json:"doubts,omitempty" doc:"What proofs found, with the stretches of disks."`
}

// PointDetail is a recovery point with the disks that it brings back.
type PointDetail struct {
	failover.Point
	LockedBy []string    `json:"locked_by,omitempty" doc:"Names of its locks, the oldest first; while there is one, it is kept whatever the retention says."`
	Disks    []PointDisk `json:"disks"`
}

// PointDisk is a disk as of a point.
type PointDisk struct {
	ID   block.DiskID `json:"id"`
	Name string       `json:"name" doc:"The stable name."`
	Path string       `json:"path" doc:"Where it was then."`
	Size int64        `json:"size" doc:"Bytes."`
}

// MaxPoints is how many points one answer can have.
const MaxPoints = 100_000

type pointsInput struct {
	MachinePath
	From  time.Time `query:"from" doc:"RFC 3339; absent: from the oldest."`
	To    time.Time `query:"to" doc:"RFC 3339; absent: to the newest."`
	Limit int       `query:"limit" minimum:"1" maximum:"100000" default:"100"`
}

func (s *server) listPoints(ctx context.Context, in *pointsInput) (*body[History], error) {
	m, err := s.Inventory.Resolve(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	return answer(s.Points.Points(ctx, m.ID, in.From, in.To, in.Limit))
}

// PointPath names a point of a machine in a path.
type PointPath struct {
	MachinePath
	Point string `path:"point" maxLength:"256" doc:"latest, latest-app, an id, a name, or a time (RFC 3339): the newest point not after it."`
}

func (s *server) getPoint(ctx context.Context, in *PointPath) (*body[PointDetail], error) {
	m, err := s.Inventory.Resolve(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	return answer(s.Points.Point(ctx, m.ID, in.Point))
}

type lockInput struct {
	PointPath
	Lock string `path:"lock" minLength:"1" maxLength:"128" doc:"The lock's name; one that names no other point names this one."`
}

func (s *server) lockPoint(ctx context.Context, in *lockInput) (*body[PointDetail], error) {
	m, err := s.Inventory.Resolve(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	return answer(s.Points.Lock(ctx, m.ID, in.Point, in.Lock))
}

func (s *server) unlockPoint(ctx context.Context, in *lockInput) (*body[PointDetail], error) {
	m, err := s.Inventory.Resolve(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	return answer(s.Points.Unlock(ctx, m.ID, in.Point, in.Lock))
}

type startFailoverInput struct {
	MachinePath
	Body struct {
		Kind   string `json:"kind" enum:"test,run" doc:"test: a copy to try; run: the copy that is to take over."`
		Point  string `json:"point,omitempty" maxLength:"256" doc:"latest, latest-app, an id, a name, or a time (RFC 3339); absent: latest."`
		Dir    string `json:"dir,omitempty" maxLength:"4096" doc:"On the control plane's host; absent: one below its data directory."`
		Format string `json:"format,omitempty" enum:"raw,vhd" doc:"Absent: raw."`

		Boot *failover.Boot `json:"boot,omitempty" doc:"Bring a machine up from the disks as they are, instead of copying them."`

		InDoubt bool `json:"in_doubt,omitempty" doc:"Also a point that may show other bytes than the disks had."`
	}
}

func (s *server) startFailover(ctx context.Context, in *startFailoverInput) (*body[failover.Failover], error) {
	m, err := s.Inventory.Resolve(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	kind := map[string]failover.Kind{"test": failover.Test, "run": failover.Run}
	if in.Body.Boot != nil {
		kind = map[string]failover.Kind{"test": failover.TestBoot, "run": failover.RunBoot}
	}
	return answer(s.Failovers.Start(ctx, failover.Request{
		Kind: kind[in.Body.Kind], Machine: m.ID, Point: in.Body.Point, Dir: in.Body.Dir, Format: in.Body.Format,
		InDoubt: in.Body.InDoubt, Boot: in.Body.Boot, AskedBy: callerOf(ctx).operator,
	}))
}

type machineQuery struct {
	Machine string `query:"machine" maxLength:"256" doc:"Only of this machine."`
}

func (s *server) listFailovers(ctx context.Context, in *machineQuery) (*body[Items[failover.Failover]], error) {
	machine, err := s.optionalMachine(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	return answerItems(s.Failovers.List(ctx, machine))
}

func (s *server) startDrill(ctx context.Context, in *MachinePath) (*body[failover.Failover], error) {
	m, err := s.Inventory.Resolve(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	return answer(s.Failovers.StartDrill(ctx, m.ID, callerOf(ctx).operator))
}

func (s *server) listDrills(ctx context.Context, in *machineQuery) (*body[Items[failover.Failover]], error) {
	machine, err := s.optionalMachine(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	return answerItems(s.Failovers.Drills(ctx, machine))
}

type failoverPath struct {
	Failover string `path:"failover" maxLength:"64"`
}

func (s *server) getFailover(ctx context.Context, in *failoverPath) (*body[failover.Failover], error) {
	return answer(s.Failovers.Get(ctx, in.Failover))
}

type changePointInput struct {
	Failover string `path:"failover" maxLength:"64"`
	Body     struct {
		Point   string `json:"point" maxLength:"256" doc:"latest, latest-app, an id, a name, or a time (RFC 3339)."`
		InDoubt bool   `json:"in_doubt,omitempty" doc:"Also a point that may show other bytes than the disks had."`
		Force   bool   `json:"force,omitempty" doc:"What the machine wrote since it booted may be lost."`
	}
}

func (s *server) changePoint(ctx context.Context, in *changePointInput) (*body[failover.Failover], error) {
	return answer(s.Failovers.ChangePoint(ctx, in.Failover, in.Body.Point, in.Body.InDoubt, in.Body.Force))
}

func (s *server) powerOn(ctx context.Context, in *failoverPath) (*body[failover.Failover], error) {
	return answer(s.Failovers.PowerOn(ctx, in.Failover))
}

func (s *server) commitFailover(ctx context.Context, in *failoverPath) (*body[failover.Failover], error) {
	return answer(s.Failovers.Commit(ctx, in.Failover))
}

// picture is an answer that is no JSON.
type picture struct {
	Type string `header:"Content-Type"`
	Body []byte
}

func (s *server) screenshot(ctx context.Context, in *failoverPath) (*picture, error) {
	shot, err := s.Failovers.Screenshot(ctx, in.Failover)
	if err != nil {
		return nil, err
	}
	return &picture{Type: "image/png", Body: shot}, nil
}

type cleanInput struct {
	Failover string `path:"failover" maxLength:"64"`
	Body     struct {
		Force bool `json:"force,omitempty" doc:"Also what was made to take over, which may be in use."`
	}
}

func (s *server) cleanFailover(ctx context.Context, in *cleanInput) (*body[inventory.Job], error) {
	return answer(s.Failovers.Clean(ctx, in.Failover, in.Body.Force, callerOf(ctx).operator))
}

type jobsInput struct {
	Machine string `query:"machine" maxLength:"256" doc:"Only of this machine."`
	Limit   int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

func (s *server) listJobs(ctx context.Context, in *jobsInput) (*body[Items[inventory.Job]], error) {
	machine, err := s.optionalMachine(ctx, in.Machine)
	if err != nil {
		return nil, err
	}
	jobs, err := s.Inventory.Jobs(ctx, inventory.JobFilter{Machine: machine, Limit: in.Limit})
	for i := range jobs {
		jobs[i] = s.Progress(jobs[i])
	}
	return answerItems(jobs, err)
}

type jobPath struct {
	Job string `path:"job" maxLength:"64"`
}

func (s *server) getJob(ctx context.Context, in *jobPath) (*body[inventory.Job], error) {
	job, err := s.Inventory.Job(ctx, in.Job)
	return answer(s.Progress(job), err)
}
