package push

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/pkg/problem"
)

// bring installs the agent on a target, or finds out whether it could.
func (p *pusher) bring(ctx context.Context, t *target, r *Result) error {
	p.tell(t, "check", "what the machine is")
	f, err := t.facts(ctx)
	if err != nil {
		return err
	}
	i := &install{pusher: p, target: t, facts: f}
	defer i.close()
	if err := i.look(ctx); err != nil {
		return err
	}
	r.Findings, r.Machine, r.Version = i.findings, i.facts.identity.Machine, i.facts.version
	fresh := f.installed == "" || p.Verb == Upgrade && i.version != "" && f.version != i.version
	enrol := f.identity.Machine == ""
	switch {
	case unfit(i.findings):
		r.Outcome, r.Message = Unfit, unfitText(i.findings)
		return nil
	case p.Verb == Check:
		r.Outcome, r.Message = Fit, "an install would go well"
		if !enrol && f.installed != "" {
			r.Message = "already installed, version " + f.version
		}
		return nil
	case !fresh && !enrol:
		r.Outcome, r.Message = Unchanged, "already installed, version "+f.version
		if f.active != "active" {
			r.Message += "; its service is " + f.active + ", and its log there says why (journalctl -u understudy-agent)"
		}
		return nil
	}
	if err := i.do(ctx, fresh, enrol); err != nil {
		return i.undo(ctx, err)
	}
	r.Outcome, r.Machine, r.Version = Installed, i.machine, i.version
	r.Message = fmt.Sprintf("installed, version %s, as machine %s", i.version, i.machine)
	if f.installed != "" && fresh {
		r.Outcome, r.Message = Upgraded, fmt.Sprintf("upgraded from version %s to %s, machine %s", f.version, i.version, i.machine)
	}
	return p.protect(ctx, t, i.machine)
}

func unfitText(findings []Finding) string {
	var texts []string
	for _, f := range findings {
		if f.Answer == No {
			texts = append(texts, f.Check)
		}
	}
	return "not fit: " + strings.Join(texts, ", ")
}

// protect has the control plane protect disks of a machine that has just reported.
func (p *pusher) protect(ctx context.Context, t *target, machine string) error {
	if len(p.Protect) == 0 {
		return nil
	}
	p.tell(t, "protect", "%s", strings.Join(p.Protect, ", "))
	if err := p.Plane.Protect(ctx, machine, p.Protect); err != nil {
		return problem.New(problem.CodeOf(err), "understudy protect "+machine+" "+strings.Join(p.Protect, " "), "the agent is installed on %s, but its disks are not protected: %v", t.name, err)
	}
	return nil
}

// takeAwayScript makes sure of an uninstall: the service manager may know nothing of a unit
// whose install failed.
//
//go:embed scripts/takeaway.sh
var takeAwayScript string

// install is an install or upgrade of one target under way.
type install struct {
	*pusher
	target   *target
	facts    *facts
	findings []Finding
	stage    *stage // nil where nothing was copied
	packed   bool   // a package was copied as well
	version  string // of the agent that was copied, or of the package
	machine  string // what the target is to the control plane

	token string                        // id of the one that was made
	back  []func(context.Context) error // takes back what was done, the last first
}

func (i *install) close() {
	if i.stage != nil {
		i.stage.close()
	}
}

// do installs what was copied, enrols the machine and waits until it has reported.
func (i *install) do(ctx context.Context, fresh, enrol bool) error {
	began := time.Now().Add(i.ahead - i.unsure) // by the control plane's clock, at the latest
	if fresh {
		if err := i.place(ctx); err != nil {
			return err
		}
	} else {
		i.version = i.facts.version
	}
	if enrol {
		if err := i.enrol(ctx); err != nil {
			return err
		}
	}
	return i.await(ctx, began)
}

// place installs the program.
func (i *install) place(ctx context.Context) error {
	t, f := i.target, i.facts
	i.tell(t, "install", "version %s", i.version)
	if i.Package != "" {
		return i.placePackage(ctx)
	}
	agent, old := quote(i.stage.path(stagedAgent)), quote(i.stage.path("old"))
	if f.installed == bare {
		if _, err := t.asRoot(ctx, "cp -p "+quote(f.program)+" "+old+" && chmod 700 "+old, nil); err != nil {
			return fmt.Errorf("keeping the agent that is there: %w", err)
		}
		i.undoBy("putting the old agent back", old+" install")
	} else {
		i.undoBy("uninstalling", agent+" uninstall"+i.purgeNew()+"\n"+takeAwayScript)
	}
	f.program = "/usr/local/bin/understudy-agent"
	if _, err := t.asRoot(ctx, agent+" install", nil); err != nil {
		return fmt.Errorf("installing the agent: %w", err)
	}
	return nil
}

// purgeNew has an uninstall take the state with it, unless it was there before.
func (i *install) purgeNew() string {
	if i.facts.state {
		return ""
	}
	return " --purge"
}

// placePackage leaves the rest to the package manager, which takes a package that failed
// back by itself. The old one of an upgrade is nowhere: it stays the newer.
func (i *install) placePackage(ctx context.Context) error {
	manager := i.facts.packager
	file := quote(i.stage.path(stagedName(1, Agent{Path: i.Package})))
	if i.facts.installed == "" {
		i.undoBy("removing the package", removePackage(manager, !i.facts.state))
	}
	put := map[string]string{"dpkg": "DEBIAN_FRONTEND=noninteractive dpkg -i " + file, "rpm": "rpm -U " + file}[manager]
	if _, err := i.target.asRoot(ctx, put, nil); err != nil {
		return fmt.Errorf("installing the package: %w", err)
	}
	i.facts.program = "/usr/bin/understudy-agent"
	return nil
}

// removePackage is the script for it; rpm knows no purge.
func removePackage(manager string, purge bool) string {
	switch {
	case manager == "dpkg" && purge:
		return "dpkg -P understudy-agent"
	case manager == "dpkg":
		return "dpkg -r understudy-agent"
	case purge:
		return "rpm -e understudy-agent && rm -rf /var/lib/understudy-agent"
	default:
		return "rpm -e understudy-agent"
	}
}

// enrol gives the machine its identity, which starts the service. The token goes by
// standard input and lives in no file.
func (i *install) enrol(ctx context.Context) error {
	i.tell(i.target, "enrol", "")
	secret, id, err := i.Plane.Token(ctx, "push to "+i.target.name)
	if err != nil {
		return err
	}
	i.token = id
	if i.facts.installed != "" || i.facts.state { // else the uninstall takes it along
		i.undoBy("taking the identity away", "systemctl stop understudy-agent; cd /var/lib/understudy-agent && rm -f identity.json identity.pem enrolling.pem")
	}
	api, _ := i.server(i.target)
	_, err = i.target.asRoot(ctx, quote(i.facts.program)+" enrol --server "+quote(api)+" --token-file -", strings.NewReader(secret+"\n"))
	// Whom the target says that it is now, is not asked: a machine that was taken over could
	// name another, which would be removed if this fails.
	used, usedErr := i.Plane.UsedBy(ctx, id)
	if i.machine = used; used != "" {
		i.token = ""
		i.back = append(i.back, func(ctx context.Context) error { return i.Plane.Remove(ctx, used) })
	}
	if err := errors.Join(err, usedErr); err != nil {
		return fmt.Errorf("enrolling: %w", err)
	}
	if used == "" {
		return errors.New("enrolling: nobody has used the token")
	}
	return nil
}

// pollEvery is how often the control plane is asked whether a machine has reported.
const pollEvery = 500 * time.Millisecond

// await waits for the machine's report by the agent that was installed.
func (i *install) await(ctx context.Context, began time.Time) error {
	i.tell(i.target, "wait", "for its first report")
	limit := time.NewTimer(i.Wait)
	defer limit.Stop()
	for {
		m, err := i.Plane.Machine(ctx, i.machine)
		if err == nil && m.Reported.After(began) && m.Version == i.version {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			return problem.New(problem.Unavailable, "see what its log says; push again once that is put right",
				"%s has not reported within %s (%s)", i.target.name, i.Wait, i.service(ctx))
		case <-time.After(pollEvery):
		}
	}
}

// service is what the target says of the agent's service, in a line.
func (i *install) service(ctx context.Context) string {
	out, err := i.target.asRoot(ctx, "systemctl is-active understudy-agent; journalctl -u understudy-agent -n 3 -o cat 2>/dev/null; true", nil)
	if err != nil {
		return err.Error()
	}
	return "its service: " + lastWords(out)
}

// undoBy notes a script that takes back what comes next.
func (i *install) undoBy(what, script string) {
	i.back = append(i.back, func(ctx context.Context) error {
		if _, err := i.target.asRoot(ctx, script, nil); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
}

// undoTime is how long what was done may take to be taken back.
const undoTime = 2 * time.Minute

// undo takes back what was done before it failed, and says so in the error.
func (i *install) undo(ctx context.Context, failed error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	i.tell(i.target, "undo", "%v", failed)
	var left error
	for n := len(i.back) - 1; n >= 0; n-- {
		left = errors.Join(left, i.back[n](ctx))
	}
	if i.token != "" {
		left = errors.Join(left, i.Plane.Revoke(ctx, i.token))
	}
	code, remedy, detail := problem.CodeOf(failed), "", failed.Error()
	if p := asProblem(failed); p != nil {
		remedy, detail = p.Remedy, p.Detail
	}
	if left != nil {
		return problem.New(code, "look at the machine; push again goes on, push --uninstall takes it away", "%s; and it could not be taken back: %v", detail, left)
	}
	return problem.New(code, remedy, "%s; the machine is as it was", detail)
}
