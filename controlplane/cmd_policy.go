package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/api"
	"github.com/understudy-dr/understudy/controlplane/failover"
	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/problem"
)

func newPolicy(o *operator) *cobra.Command {
	return group("policy", "How closely machines are followed and how long their past is kept", "",
		newPolicyList(o), newPolicyShow(o), newPolicySet(o))
}

func policyPath(name string) string { return "/v1/policies/" + url.PathEscape(name) }

func newPolicyList(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List policies",
		Args:  cobra.NoArgs,
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, _ []string) error {
			policies, err := list[inventory.Policy](ctx, c, "/v1/policies", nil)
			if err != nil {
				return err
			}
			return out.show(policies, func(t *table) {
				t.row("NAME", "RPO TARGET", "RETENTION", "THROTTLE")
				for _, p := range policies {
					t.row(p.Name, millis(p.RPOTargetMS), formatRetention(p.Retention), formatThrottle(p.Throttle))
				}
			})
		}),
	}
}

func newPolicyShow(o *operator) *cobra.Command {
	return &cobra.Command{
		Use:   "show POLICY",
		Short: "Show one policy",
		Args:  exactArgs(1),
		RunE: o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
			p, err := get[inventory.Policy](ctx, c, policyPath(args[0]), nil)
			if err != nil {
				return err
			}
			return out.show(p, func(t *table) { drawPolicy(t, p) })
		}),
	}
}

func drawPolicy(t *table, p inventory.Policy) {
	t.row("name", p.Name)
	t.row("rpo target", millis(p.RPOTargetMS))
	t.row("retention", formatRetention(p.Retention))
	t.row("throttle", formatThrottle(p.Throttle))
	t.row("app-consistent", formatConsistency(p.Consistency))
	t.row("scans", formatScans(p.Consistency))
	t.row("drills", formatDrill(p.Drill))
	t.row("changed", clock(p.Changed))
}

type policySetOptions struct {
	rpo      time.Duration
	keep     string
	throttle []string
	machines []string

	app, deadline time.Duration
	scan, freeze  time.Duration
	scripts       bool
	named         func(flag string) bool

	drill, drillCheck string
	drillBus          string
	drillMemory       byteSize
	drillDeadline     time.Duration
}

func newPolicySet(o *operator) *cobra.Command {
	p := &policySetOptions{}
	cmd := &cobra.Command{
		Use:   "set POLICY",
		Short: "Make or change a policy, and let machines follow it",
		Long: `Makes or changes a policy. What is not named stays as it is; a new policy begins with
the default figures.

Retention is given by stage: all points up to an age, then one an hour up to another,
then one a day. What a stage is not given for stays as it is. Throttle is [DAYS ]FROM-TO RATE in the machine's local time; it can be given
several times, and "none" lifts it.`,
		Example: `  understudy policy set default --rpo 3s
  understudy policy set gold --keep all:4h,hourly:48h,daily:30d --machine web1
  understudy policy set gold --app-every 1h --app-deadline 30s
  understudy policy set gold --drill-every 7d --drill-check webserver
  understudy policy set office --throttle "mon,tue,wed,thu,fri 08:00-18:00 10MiB"`,
		Args: exactArgs(1),
	}
	f := cmd.Flags()
	f.DurationVar(&p.rpo, "rpo", 0, "age that the newest recovery point should not exceed")
	f.StringVar(&p.keep, "keep", "", "which points are kept up to which age, for example all:2h,hourly:24h,daily:15d")
	f.StringArrayVar(&p.throttle, "throttle", nil, "bytes a second at some hours")
	f.DurationVar(&p.app, "app-every", 0, "make an application-consistent point this often; 0: only when asked")
	f.DurationVar(&p.deadline, "app-deadline", 0, "how long one may take, from the first script until everything is thawed")
	f.BoolVar(&p.scripts, "app-scripts", true, "run the machines' scripts around it")
	f.DurationVar(&p.scan, "scan-every", 0, "scan machines whose kernel does not give the data of writes this often; 0: never")
	f.DurationVar(&p.freeze, "scan-freeze", 0, "how long a scan may freeze their file systems: what reading their disks once takes")
	f.StringVar(&p.drill, "drill-every", "", "try this often whether the machines can be brought up, for example 7d; 0: only when asked")
	f.StringVar(&p.drillCheck, "drill-check", "", "program in DATA/checks that finds out whether a machine works")
	f.Var(&p.drillMemory, "drill-memory", "of a machine that is brought up for a try (default: the source's)")
	f.StringVar(&p.drillBus, "drill-bus", "", "how a machine's disks are attached: "+strings.Join(names(failover.Buses), ", ")+" (default: as the source's)")
	f.DurationVar(&p.drillDeadline, "drill-deadline", 0, "until when it must be up (default 10m)")
	p.named = f.Changed
	f.StringSliceVar(&p.machines, "machine", nil, "machines that shall follow this policy")
	_ = cmd.RegisterFlagCompletionFunc("machine", o.completeMachines)
	cmd.RunE = o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
		return runPolicySet(ctx, c, out, args[0], p)
	})
	return cmd
}

func runPolicySet(ctx context.Context, c *client, out *printer, name string, o *policySetOptions) error {
	p, err := get[inventory.Policy](ctx, c, policyPath(name), nil)
	if problem.CodeOf(err) == problem.NotFound {
		p, err = inventory.NewPolicy(name), nil
	}
	if err != nil {
		return err
	}
	if err := o.apply(&p); err != nil {
		return usageError{err}
	}
	p, err = send[inventory.Policy](ctx, c, http.MethodPut, policyPath(name), api.PolicyFigures{
		RPOTargetMS: p.RPOTargetMS, Retention: p.Retention, Throttle: p.Throttle, Consistency: p.Consistency, Drill: p.Drill,
	})
	if err != nil {
		return err
	}
	for _, m := range o.machines {
		if _, err := send[struct{}](ctx, c, http.MethodPut, machinePath(m)+"/policy", map[string]string{"policy": name}); err != nil {
			return err
		}
	}
	return out.show(p, func(t *table) { drawPolicy(t, p) })
}

// apply changes what the operator named.
func (o *policySetOptions) apply(p *inventory.Policy) error {
	if o.rpo != 0 {
		p.RPOTargetMS = o.rpo.Milliseconds()
	}
	if err := applyKeep(&p.Retention, o.keep); err != nil {
		return err
	}
	o.applyConsistency(&p.Consistency)
	if err := o.applyDrill(&p.Drill); err != nil {
		return err
	}
	if len(o.throttle) == 0 {
		return nil
	}
	p.Throttle = []desired.Window{}
	for _, s := range o.throttle {
		if s == "none" {
			continue
		}
		w, err := parseWindow(s)
		if err != nil {
			return err
		}
		p.Throttle = append(p.Throttle, w)
	}
	return nil
}

func (o *policySetOptions) applyConsistency(c *desired.Consistency) {
	if o.named("app-every") {
		c.AppSeconds = int64(o.app.Seconds())
	}
	if o.named("app-deadline") {
		c.DeadlineSeconds = int64(o.deadline.Seconds())
	}
	if o.named("app-scripts") {
		c.NoScripts = !o.scripts
	}
	if o.named("scan-every") {
		c.ScanSeconds = int64(o.scan.Seconds())
	}
	if o.named("scan-freeze") {
		c.ScanFreezeSeconds = int64(o.freeze.Seconds())
	}
}

func (o *policySetOptions) applyDrill(d *inventory.Drill) (err error) {
	if o.named("drill-every") {
		if d.DrillSeconds, err = parseSeconds(o.drill); err != nil {
			return fmt.Errorf("--drill-every: %w", err)
		}
	}
	if o.named("drill-bus") {
		if o.drillBus != "" && !slices.Contains(failover.Buses, failover.Bus(o.drillBus)) {
			return fmt.Errorf("--drill-bus %s: want one of %v", o.drillBus, failover.Buses)
		}
		d.DrillBus = o.drillBus
	}
	if o.named("drill-memory") {
		d.DrillMemory = int64(o.drillMemory)
	}
	if o.named("drill-check") {
		d.DrillCheck = o.drillCheck
	}
	if o.named("drill-deadline") {
		d.DrillDeadline = int64(o.drillDeadline.Seconds())
	}
	return nil
}

func formatDrill(d inventory.Drill) string {
	if d.DrillSeconds == 0 {
		return "only when asked"
	}
	text := "every " + formatSeconds(d.DrillSeconds) + ", up within " + formatSeconds(cmp.Or(d.DrillDeadline, failover.DefaultDeadline))
	if d.DrillCheck != "" {
		text += ", by " + d.DrillCheck
	}
	return text
}

func formatConsistency(c desired.Consistency) string {
	text := "only when asked"
	if c.AppSeconds > 0 {
		text = "every " + formatSeconds(c.AppSeconds)
	}
	deadline := c.DeadlineSeconds
	if deadline == 0 {
		deadline = 10
	}
	text += ", within " + formatSeconds(deadline)
	if c.NoScripts {
		text += ", without scripts"
	}
	return text
}

// formatScans: of machines whose writes are not captured.
func formatScans(c desired.Consistency) string {
	if c.ScanSeconds == 0 {
		return "none"
	}
	freeze := c.ScanFreezeSeconds
	if freeze == 0 {
		freeze = 60
	}
	return "every " + formatSeconds(c.ScanSeconds) + ", frozen for at most " + formatSeconds(freeze)
}

func millis(ms int64) string { return (time.Duration(ms) * time.Millisecond).String() }

// applyKeep reads STAGE:AGE,... and changes the stages that are named.
func applyKeep(r *inventory.Retention, s string) error {
	if s == "" {
		return nil
	}
	stages := map[string]*int64{"all": &r.AllSeconds, "hourly": &r.HourlySeconds, "daily": &r.DailySeconds}
	for _, part := range strings.Split(s, ",") {
		name, age, _ := strings.Cut(part, ":")
		stage := stages[name]
		if stage == nil {
			return fmt.Errorf("--keep %q: want all:AGE, hourly:AGE or daily:AGE", part)
		}
		var err error
		if *stage, err = parseSeconds(age); err != nil {
			return fmt.Errorf("--keep %q: %w", part, err)
		}
	}
	return nil
}

// maxDays is more than anybody lives, and few enough to be counted in nanoseconds.
const maxDays = 100_000

// parseSeconds reads a duration that may be given in days.
func parseSeconds(s string) (int64, error) {
	var days int64
	if n, err := fmt.Sscanf(s, "%dd", &days); err == nil && n == 1 && fmt.Sprintf("%dd", days) == s && days >= 0 && days <= maxDays {
		return days * 86400, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("%q is not a duration such as 90m, 24h or 15d", s)
	}
	return int64(d.Seconds()), nil
}

func formatSeconds(s int64) string {
	switch {
	case s >= 2*86400 && s%86400 == 0 || s == 86400:
		return fmt.Sprintf("%dd", s/86400)
	case s%3600 == 0:
		return fmt.Sprintf("%dh", s/3600)
	case s%60 == 0:
		return fmt.Sprintf("%dm", s/60)
	default:
		return fmt.Sprintf("%ds", s)
	}
}

func formatRetention(r inventory.Retention) string {
	return "all:" + formatSeconds(r.AllSeconds) + ",hourly:" + formatSeconds(r.HourlySeconds) + ",daily:" + formatSeconds(r.DailySeconds)
}

// parseWindow reads [DAYS ]FROM-TO RATE.
func parseWindow(s string) (w desired.Window, err error) {
	fields := strings.Fields(s)
	if len(fields) == 3 {
		w.Days, fields = strings.Split(fields[0], ","), fields[1:]
	}
	if len(fields) != 2 {
		return w, fmt.Errorf("%q is not [DAYS ]FROM-TO RATE", s)
	}
	var ok bool
	if w.From, w.To, ok = strings.Cut(fields[0], "-"); !ok {
		return w, fmt.Errorf("%q is not FROM-TO", fields[0])
	}
	if w.BytesPerSecond, err = parseBytes(fields[1]); err != nil {
		return w, err
	}
	return w, w.Check()
}

func formatThrottle(windows []desired.Window) string {
	var parts []string
	for _, w := range windows {
		parts = append(parts, strings.TrimSpace(fmt.Sprintf("%s %s-%s %s/s", strings.Join(w.Days, ","), w.From, w.To, size(w.BytesPerSecond))))
	}
	return strings.Join(parts, "; ")
}
