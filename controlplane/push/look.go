package push

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/understudy-dr/understudy/pkg/problem"
)

// look finds everything that keeps an agent from this machine, not only the first.
func (i *install) look(ctx context.Context) error {
	t, f := i.target, i.facts
	i.findings = judgeSystem(f)
	ahead, unsure, err := t.clock(ctx)
	if err != nil {
		return err
	}
	i.findings = append(i.findings, judgeClock(ahead-i.ahead, unsure+i.unsure), t.becomeRoot(ctx, f, i.Options))
	known, err := i.lookInstalled(ctx)
	if err != nil {
		return err
	}
	i.findings = append(i.findings, judgeInstalled(f, i.Options, known)...)
	if f.installed != "" && known != nil && i.Verb == Install {
		return nil // there is nothing to bring
	}
	return i.lookWithAgent(ctx)
}

func (i *install) lookInstalled(ctx context.Context) (*Machine, error) {
	if i.target.root == byNothing {
		return nil, nil
	}
	if err := i.target.installedFacts(ctx, i.facts); err != nil {
		return nil, err
	}
	if i.facts.identity.Machine == "" {
		return nil, nil
	}
	m, err := i.Plane.Machine(ctx, i.facts.identity.Machine)
	if problem.CodeOf(err) == problem.MachineUnknown {
		return nil, nil
	}
	i.machine = m.ID
	return &m, err
}

// lookWithAgent copies the agent and has it look.
func (i *install) lookWithAgent(ctx context.Context) error {
	arch := archOf[i.facts.machine]
	if i.facts.system != "Linux" || arch == "" || len(i.facts.missing) > 0 {
		return nil // it could not run, and that is among the findings
	}
	agent, err := i.Agents.Find(arch)
	if p := asProblem(err); p != nil {
		i.findings = append(i.findings, Finding{"agent", No, p.Detail, p.Remedy})
		return nil
	} else if err != nil {
		return err
	}
	files := []Agent{agent}
	if i.packed = i.Package != "" && i.Verb != Check && !unfit(i.findings); i.packed {
		deb, err := describePackage(i.Package)
		if err != nil {
			return err
		}
		files = append(files, deb)
	}
	i.tell(i.target, "copy", "")
	i.stage, err = i.pusher.stage(ctx, i.target, files...)
	if f, ok := judgeStage(err); ok {
		i.findings = append(i.findings, f)
		return nil
	} else if err != nil {
		return err
	}
	return i.probe(ctx)
}

// probe has the agent that was copied look at the machine.
func (i *install) probe(ctx context.Context) error {
	i.tell(i.target, "check", "what the agent finds")
	agent := quote(i.stage.path(stagedAgent))
	out, err := i.target.asRoot(ctx, agent+" --version", nil)
	if err != nil {
		return fmt.Errorf("the agent does not run on %s: %w", i.target.name, err)
	}
	words := strings.Fields(out)
	if len(words) == 0 {
		return fmt.Errorf("the agent on %s does not tell its version", i.target.name)
	}
	i.version = words[len(words)-1]
	if err := i.packageVersion(ctx); err != nil {
		return err
	}
	api, relays := i.server(i.target)
	script := agent + " probe --output json --reach " + quote(api)
	for _, r := range relays {
		script += " --reach " + quote(r)
	}
	out, err = i.target.asRoot(ctx, script, nil)
	if failed := (*scriptError)(nil); errors.As(err, &failed) && failed.code < 0 {
		return err
	}
	found, parseErr := parseProbe(out)
	if parseErr != nil {
		return fmt.Errorf("the agent on %s cannot tell about the machine: %w", i.target.name, errors.Join(err, parseErr))
	}
	i.findings = append(i.findings, judgeProbe(found, i.Protect, i.target.root != byNothing)...)
	return nil
}

// packageVersion is the version that a package brings, which may be another than that of
// the agent that looks.
func (i *install) packageVersion(ctx context.Context) error {
	if !i.packed {
		return nil
	}
	file := quote(i.stage.path(stagedName(1, Agent{Path: i.Package})))
	ask := map[string]string{"dpkg": "dpkg-deb -f " + file + " Version", "rpm": "rpm -qp --qf '%{VERSION}' " + file}[i.facts.packager]
	out, err := i.target.asRoot(ctx, ask, nil)
	if err != nil {
		return problem.New(problem.Invalid, "check --package", "%s does not take %s for a package: %v", i.target.name, i.Package, err)
	}
	i.version = strings.TrimSpace(out)
	return nil
}
