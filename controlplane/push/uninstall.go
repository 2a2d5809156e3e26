package push

import (
	"context"
	"fmt"

	"github.com/understudy-dr/understudy/pkg/problem"
)

// uninstall takes the agent away. What the control plane keeps of the machine is not
// touched.
func (p *pusher) uninstall(ctx context.Context, t *target, r *Result) error {
	p.tell(t, "check", "what the machine is")
	f, err := t.facts(ctx)
	if err != nil {
		return err
	}
	if root := t.becomeRoot(ctx, f, p.Options); root.Answer == No {
		r.Findings = []Finding{root}
		r.Outcome, r.Message = Unfit, unfitText(r.Findings)
		return nil
	}
	if err := t.installedFacts(ctx, f); err != nil && problem.CodeOf(err) != problem.Damaged { // which this mends
		return err
	}
	r.Machine, r.Version = f.identity.Machine, f.version
	script := ""
	switch {
	case f.installed == bare && p.Purge:
		script = quote(f.program) + " uninstall --purge"
	case f.installed == bare:
		script = quote(f.program) + " uninstall"
	case f.installed == packaged:
		script = removePackage(f.packager, p.Purge)
	case f.state && p.Purge: // what an uninstall without --purge has left
		script = "rm -rf /var/lib/understudy-agent"
	default:
		r.Outcome, r.Message = Unchanged, "there is no agent"
		return nil
	}
	p.tell(t, "uninstall", "version %s", f.version)
	if _, err := t.asRoot(ctx, script, nil); err != nil {
		return p.restart(ctx, t, f, fmt.Errorf("uninstalling: %w", err))
	}
	r.Outcome, r.Message = Uninstalled, "uninstalled"
	if f.identity.Machine != "" && !p.Purge {
		r.Message += "; it keeps its identity, and is the same machine if an agent comes again"
	}
	return nil
}

// restart has an agent whose uninstall failed half-way go on as it was.
func (p *pusher) restart(ctx context.Context, t *target, f *facts, failed error) error {
	if f.installed != bare {
		return failed // the package manager has its own ways
	}
	i := &install{pusher: p, target: t, facts: f}
	i.undoBy("putting the agent back", quote(f.program)+" install")
	return i.undo(ctx, failed)
}
