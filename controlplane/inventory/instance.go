package inventory

import (
	"context"
	"database/sql"
	"time"

	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

const (
	keepInstances = 1000        // of a machine: a service that restarts in a loop must not fill the table
	backAfter     = time.Second // a report this much after the first return is no straggler
)

const conflictRemedy = "leave the agent running on the machine that was enrolled; on the other, delete the agent's identity and enrol it with a token of its own"

// instance is an agent process that reported as the machine.
type instance struct {
	order int64     // of appearance
	back  time.Time // when it was first heard after another had taken over
	told  time.Time // when the operator was told of it
}

// succeed decides which agent process speaks for the machine, as the relay does: a new
// process takes over, because most often the old one is dead. If the old one is heard
// again, both live: one machine is a clone of the other. Then the older one speaks on,
// the younger is refused until the older falls silent, and the operator is told.
func (inv *Inventory) succeed(ctx context.Context, tx *sql.Tx, m Machine, r desired.Report) (refused, err error) {
	if r.Instance == m.Instance {
		return nil, nil
	}
	caller, known, err := instanceOf(ctx, tx, m, r.Instance)
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, addInstance(ctx, tx, m, r.Instance)
	}
	current, _, err := instanceOf(ctx, tx, m, m.Instance)
	if err != nil {
		return nil, err
	}
	p := problem.New(problem.IdentityConflict, conflictRemedy, "two agents report as machine %s, from the hosts %q and %q",
		m.ID, m.Report.Host.Hostname, r.Host.Hostname)
	now := inv.now()
	switch {
	case now.Sub(m.Reported) > goneAfter:
		return nil, setInstance(ctx, tx, m, r.Instance)
	case caller.order > current.order:
		return p, inv.tellConflict(ctx, tx, m, r.Instance, caller, p)
	case caller.back.IsZero():
		// It may be the last word of a process that was killed, still on its way when its
		// successor began. One that lives comes again.
		_, err := exec(ctx, tx, "UPDATE instances SET back_at = ? WHERE machine = ? AND instance = ?", nanos(now), m.ID.String(), r.Instance)
		return p, err
	case now.Sub(caller.back) < backAfter:
		return p, nil
	}
	if err := setInstance(ctx, tx, m, r.Instance); err != nil {
		return nil, err
	}
	return nil, inv.tellConflict(ctx, tx, m, r.Instance, caller, p)
}

func (inv *Inventory) tellConflict(ctx context.Context, tx *sql.Tx, m Machine, name string, i instance, p *problem.Problem) error {
	now := inv.now()
	if now.Sub(i.told).Abs() < tellEvery {
		return nil
	}
	if _, err := exec(ctx, tx, "UPDATE instances SET told_at = ? WHERE machine = ? AND instance = ?", nanos(now), m.ID.String(), name); err != nil {
		return err
	}
	return inv.addEvent(ctx, tx, m.ID, desired.Event{Type: string(p.Code), Severity: desired.Error, Message: p.Detail, Remedy: p.Remedy})
}

func instanceOf(ctx context.Context, tx *sql.Tx, m Machine, name string) (instance, bool, error) {
	found, err := list(ctx, tx, func(rows *sql.Rows) (i instance, err error) {
		var back, told int64
		err = rows.Scan(&i.order, &back, &told)
		i.back, i.told = moment(back), moment(told)
		return i, err
	}, "SELECT id, back_at, told_at FROM instances WHERE machine = ? AND instance = ?", m.ID.String(), name)
	if err != nil || len(found) == 0 {
		return instance{}, false, err
	}
	return found[0], true, nil
}

func addInstance(ctx context.Context, tx *sql.Tx, m Machine, name string) error {
	if _, err := exec(ctx, tx, "INSERT INTO instances (machine, instance) VALUES (?, ?)", m.ID.String(), name); err != nil {
		return err
	}
	if _, err := exec(ctx, tx, "DELETE FROM instances WHERE machine = ?1 AND id NOT IN (SELECT id FROM instances WHERE machine = ?1 ORDER BY id DESC LIMIT ?2)",
		m.ID.String(), keepInstances); err != nil {
		return err
	}
	return setInstance(ctx, tx, m, name)
}

func setInstance(ctx context.Context, tx *sql.Tx, m Machine, name string) error {
	_, err := exec(ctx, tx, "UPDATE machines SET instance = ? WHERE id = ?", name, m.ID.String())
	return err
}
