package inventory

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// Record takes in what a machine's agent reports and answers with the generation of
// what is wanted of it. Errors are problems with code invalid, version-unknown,
// identity-conflict or machine-unknown.
func (inv *Inventory) Record(ctx context.Context, machine block.MachineID, r desired.Report) (desired.ReportReply, error) {
	if err := r.Check(); err != nil {
		return desired.ReportReply{}, err
	}
	if err := inv.restrain(machine, &r); err != nil {
		return desired.ReportReply{}, err
	}
	var reply desired.ReportReply
	var refused error // answered after the commit: the conflict itself is a fact to keep
	err := inv.note(ctx, func(tx *sql.Tx) error {
		m, err := machineByID(ctx, tx, machine)
		if err != nil {
			return err
		}
		if refused, err = inv.succeed(ctx, tx, m, r); err != nil || refused != nil {
			return err
		}
		if m, err = catchUp(ctx, tx, m, r); err != nil {
			return err
		}
		reply = desired.ReportReply{Generation: m.Generation, Time: inv.now().UTC()}
		return inv.take(ctx, tx, m, r)
	})
	if err == nil {
		err = refused
	}
	return reply, err
}

// catchUp brings our numbers past those that the agent has seen: an inventory that was
// rebuilt, or restored from a backup, counts from further back, and the agent would
// take its next requests for old ones.
func catchUp(ctx context.Context, tx *sql.Tx, m Machine, r desired.Report) (Machine, error) {
	if r.Generation > m.Generation {
		m.Generation = r.Generation + 1
	}
	if p := r.Protection; p != nil && p.Resync > m.Resync {
		m.Resync = p.Resync
	}
	if p := r.Protection; p != nil && p.Verify != nil && p.Verify.Once > m.Verify.Once {
		m.Verify.Once = p.Verify.Once
	}
	if p := r.Protection; p != nil && p.Point != nil {
		m.Point.Once, m.PointMade = max(m.Point.Once, p.Point.Once), max(m.PointMade, p.Point.Once)
	}
	_, err := exec(ctx, tx, "UPDATE machines SET generation = ?1, resync = ?2, verify = ?4, point = ?5, point_made = ?6 WHERE id = ?3 AND (generation <> ?1 OR resync <> ?2 OR verify <> ?4 OR point <> ?5 OR point_made <> ?6)",
		m.Generation, m.Resync, m.ID.String(), m.Verify.Once, m.Point.Once, m.PointMade)
	return m, err
}

// take keeps the report and what follows from it.
func (inv *Inventory) take(ctx context.Context, tx *sql.Tx, m Machine, r desired.Report) error {
	now := inv.now()
	events := r.Events
	if e, odd := clockEvent(m, r, now); odd {
		events = append(slices.Clone(events), e)
	}
	r.Events = nil
	text, err := toJSON(r)
	if err != nil {
		return err
	}
	if _, err := exec(ctx, tx, "UPDATE machines SET hostname = ?, reported_at = ?, report = ? WHERE id = ?", r.Host.Hostname, nanos(now), text, m.ID.String()); err != nil {
		return err
	}
	if !slices.Equal(m.Report.Disks, r.Disks) || m.Reported.IsZero() {
		if err := putDisks(ctx, tx, m.ID, r.Disks); err != nil {
			return err
		}
	}
	for _, e := range events {
		if err := inv.addEvent(ctx, tx, m.ID, e); err != nil {
			return err
		}
	}
	return nil
}

// clockEvent notices that the clocks began to disagree, or ceased to.
func clockEvent(m Machine, r desired.Report, now time.Time) (desired.Event, bool) {
	before := desired.CheckClocks(m.Report.Time, m.Reported)
	after := desired.CheckClocks(r.Time, now)
	if m.Reported.IsZero() {
		before = nil
	}
	switch {
	case before == nil && after != nil:
		return desired.Event{Time: now, Type: "clock", Severity: desired.Warning,
			Message: fmt.Sprintf("machine %s: %s", r.Host.Hostname, skew(r.Time, now)),
			Remedy:  "set the wrong clock right; times of recovery points are the machine's; the RPO shown allows for it"}, true
	case before != nil && after == nil:
		return desired.Event{Time: now, Type: "clock", Severity: desired.Info,
			Message: fmt.Sprintf("machine %s: its clock and the control plane's agree again", r.Host.Hostname)}, true
	default:
		return desired.Event{}, false
	}
}

func skew(agent, ours time.Time) string {
	if d := agent.Sub(ours).Round(time.Second); d > 0 {
		return "its clock is " + d.String() + " ahead of the control plane's"
	} else {
		return "its clock is " + (-d).String() + " behind the control plane's"
	}
}
