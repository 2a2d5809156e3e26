package inventory

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"regexp"
	"time"

	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// DefaultPolicy is the name of the policy that machines begin with.
const DefaultPolicy = "default"

// MinRPOTarget bounds how many objects a machine makes: one a third of its target.
const MinRPOTarget = time.Second

const (
	maxWindows   = 64
	maxRetention = 3650 * 86400 // seconds
)

// Policy says how closely a machine is followed and for how long its past is kept.
type Policy struct {
	Name        string           `json:"name"`
	RPOTargetMS int64            `json:"rpo_target_ms" doc:"The age in milliseconds that the newest recovery point should not exceed."`
	Retention   Retention        `json:"retention"`
	Throttle    []desired.Window `json:"throttle"`
	desired.Consistency
	Drill
	Changed time.Time `json:"changed"`
}

// Retention says how densely recovery points are kept as they age. Each stage begins
// where the one before it ends.
type Retention struct {
	AllSeconds    int64 `json:"all_seconds" doc:"Every point is kept up to this age."`
	HourlySeconds int64 `json:"hourly_seconds" doc:"Then one an hour up to this age."`
	DailySeconds  int64 `json:"daily_seconds" doc:"Then one a day up to this age."`
}

// NewPolicy is a policy with the default figures: 15 s; every point for 2 hours,
// hourly to 24 hours, daily to 15 days.
func NewPolicy(name string) Policy {
	const hour, day = 3600, 86400
	return Policy{
		Name:        name,
		RPOTargetMS: 15_000,
		Retention:   Retention{AllSeconds: 2 * hour, HourlySeconds: day, DailySeconds: 15 * day},
		Throttle:    []desired.Window{},
	}
}

var policyName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// Check says what is wrong with the policy, if anything is.
func (p Policy) Check() error {
	bad := func(format string, args ...any) error {
		return problem.New(problem.Invalid, "correct it and send the policy again", "policy "+p.Name+": "+format, args...)
	}
	if !policyName.MatchString(p.Name) {
		return bad("a name has 1 to 63 of a-z 0-9 . _ - and begins with a letter or digit")
	}
	if p.RPOTargetMS < MinRPOTarget.Milliseconds() || p.RPOTargetMS > (24*time.Hour).Milliseconds() {
		return bad("the RPO target is %d ms: want %s to 24h", p.RPOTargetMS, MinRPOTarget)
	}
	if len(p.Throttle) > maxWindows {
		return bad("%d throttle windows: at most %d", len(p.Throttle), maxWindows)
	}
	if r := p.Retention; r.AllSeconds < 0 || r.HourlySeconds < r.AllSeconds || r.DailySeconds < r.HourlySeconds || r.DailySeconds > maxRetention {
		return bad("each stage of the retention must reach at least as far back as the one before it, and none further than %d days", maxRetention/86400)
	}
	if err := p.Consistency.Check(); err != nil {
		return bad("%v", err)
	}
	if err := p.Drill.Check(); err != nil {
		return bad("%v", err)
	}
	for _, w := range p.Throttle {
		if err := w.Check(); err != nil {
			return bad("%v", err)
		}
	}
	return nil
}

func (inv *Inventory) ensureDefaultPolicy(ctx context.Context) error {
	return inv.update(ctx, func(tx *sql.Tx) error {
		return inv.putPolicy(ctx, tx, NewPolicy(DefaultPolicy), "DO NOTHING")
	})
}

// Policies lists all policies by name.
func (inv *Inventory) Policies(ctx context.Context) ([]Policy, error) {
	return list(ctx, inv.read, scanPolicy, selectPolicy+" ORDER BY name")
}

// Policy is the policy of this name. The error is a problem with code not-found.
func (inv *Inventory) Policy(ctx context.Context, name string) (Policy, error) {
	return policyByName(ctx, inv.read, name)
}

// SetPolicy writes the policy and tells the machines that follow it.
func (inv *Inventory) SetPolicy(ctx context.Context, p Policy) (Policy, error) {
	if err := p.Check(); err != nil {
		return Policy{}, err
	}
	err := inv.update(ctx, func(tx *sql.Tx) error {
		const replace = "DO UPDATE SET rpo_target_ms = excluded.rpo_target_ms, retention = excluded.retention, throttle = excluded.throttle, consistency = excluded.consistency, drill = excluded.drill, changed_at = excluded.changed_at"
		if err := inv.putPolicy(ctx, tx, p, replace); err != nil {
			return err
		}
		_, err := exec(ctx, tx, "UPDATE machines SET generation = generation + 1 WHERE policy = ?", p.Name)
		return err
	})
	if err != nil {
		return Policy{}, err
	}
	inv.wake()
	return inv.Policy(ctx, p.Name)
}

func (inv *Inventory) putPolicy(ctx context.Context, tx *sql.Tx, p Policy, onConflict string) error {
	if p.Throttle == nil {
		p.Throttle = []desired.Window{}
	}
	retention, err := toJSON(p.Retention)
	if err != nil {
		return err
	}
	throttle, err := toJSON(p.Throttle)
	if err != nil {
		return err
	}
	consistency, err := toJSON(p.Consistency)
	if err != nil {
		return err
	}
	drill, err := toJSON(p.Drill)
	if err != nil {
		return err
	}
	_, err = exec(ctx, tx, "INSERT INTO policies (name, rpo_target_ms, retention, throttle, consistency, drill, changed_at) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) "+onConflict,
		p.Name, p.RPOTargetMS, retention, throttle, consistency, drill, nanos(inv.now()))
	return err
}

const selectPolicy = "SELECT name, rpo_target_ms, retention, throttle, consistency, drill, changed_at FROM policies"

func policyByName(ctx context.Context, q queryer, name string) (Policy, error) {
	found, err := list(ctx, q, scanPolicy, selectPolicy+" WHERE name = ?", name)
	if err != nil {
		return Policy{}, err
	}
	if len(found) == 0 {
		return Policy{}, problem.New(problem.NotFound, "see understudy policy list; make it with understudy policy set", "there is no policy %q", name)
	}
	return found[0], nil
}

func scanPolicy(rows *sql.Rows) (p Policy, err error) {
	var retention, throttle, consistency, drill string
	var changed int64
	if err := rows.Scan(&p.Name, &p.RPOTargetMS, &retention, &throttle, &consistency, &drill, &changed); err != nil {
		return p, err
	}
	p.Changed = moment(changed)
	if err := json.Unmarshal([]byte(retention), &p.Retention); err != nil {
		return p, fmt.Errorf("policy %s: %w", p.Name, err)
	}
	if err := json.Unmarshal([]byte(throttle), &p.Throttle); err != nil {
		return p, fmt.Errorf("policy %s: %w", p.Name, err)
	}
	if err := json.Unmarshal([]byte(consistency), &p.Consistency); err != nil {
		return p, fmt.Errorf("policy %s: %w", p.Name, err)
	}
	if err := json.Unmarshal([]byte(drill), &p.Drill); err != nil {
		return p, fmt.Errorf("policy %s: %w", p.Name, err)
	}
	return p, nil
}
