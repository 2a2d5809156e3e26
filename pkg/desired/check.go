package desired

import (
	"slices"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// Check bounds what an agent may make the control plane keep and show. An agent is
// not trusted: whoever took over its machine speaks in its name.
func (r *Report) Check() error {
	if err := CheckVersion(r.Version); err != nil {
		return err
	}
	if r.Instance == "" || len(r.Instance) > 64 {
		return invalid("instance has %d characters: want 1 to 64", len(r.Instance))
	}
	if len(r.Disks) > maxDisks || len(r.Events) > maxEvents {
		return invalid("%d disks and %d events: at most %d and %d", len(r.Disks), len(r.Events), maxDisks, maxEvents)
	}
	if err := r.Host.check(); err != nil {
		return err
	}
	if err := checkDisks(r.Disks); err != nil {
		return err
	}
	if err := checkEvents(r.Events); err != nil {
		return err
	}
	if err := r.Protection.check(); err != nil {
		return err
	}
	return r.Probe.check()
}

func (p *Protection) check() error {
	if p == nil {
		return nil
	}
	if len(p.Disks) > maxDisks {
		return invalid("%d protected disks: at most %d", len(p.Disks), maxDisks)
	}
	for _, d := range p.Disks {
		if d.ID.IsZero() { // written down, it could not be read again
			return invalid("a protected disk has no id")
		}
	}
	if err := p.Point.check(); err != nil {
		return err
	}
	return p.Verify.check()
}

func (h Host) check() error {
	if h.Hostname == "" {
		return invalid("hostname is empty")
	}
	if err := h.Hardware.check(); err != nil {
		return err
	}
	return checkTexts(map[string]string{"hostname": h.Hostname, "os": h.OS, "kernel": h.Kernel, "agent_version": h.AgentVersion}, 256)
}

// Check bounds an enrolment the same way.
func (r *EnrolRequest) Check() error {
	if err := CheckVersion(r.Version); err != nil {
		return err
	}
	return r.Host.check()
}

func checkDisks(disks []Disk) error {
	seen := make(map[block.DiskID]string, len(disks))
	for _, d := range disks {
		if d.ID.IsZero() || d.Size < 0 || d.SectorSize < 0 {
			return invalid("disk %q has no id or a negative size", d.Name)
		}
		if other, ok := seen[d.ID]; ok {
			return invalid("disks %q and %q have the same id %s", other, d.Name, d.ID)
		}
		seen[d.ID] = d.Name
		if err := checkTexts(map[string]string{"name": d.Name, "path": d.Path, "filesystem": d.Filesystem, "driver": d.Driver}, maxText); err != nil {
			return err
		}
	}
	return nil
}

func checkEvents(events []Event) error {
	for _, e := range events {
		if !slices.Contains([]Severity{Info, Warning, Error}, e.Severity) {
			return invalid("event %q has severity %q: want info, warning or error", e.Type, e.Severity)
		}
		if err := checkTexts(map[string]string{"type": e.Type, "message": e.Message, "remedy": e.Remedy}, maxText); err != nil {
			return err
		}
	}
	return nil
}

func (p Probe) check() error {
	size := len(p.Answer) + len(p.Method)
	for _, c := range p.Checks {
		size += len(c.Name) + len(c.Answer) + len(c.Detail) + len(c.Remedy)
	}
	if size > maxProbe {
		return invalid("the probe's answers have %d bytes: at most %d", size, maxProbe)
	}
	return nil
}

func checkTexts(texts map[string]string, limit int) error {
	for name, s := range texts {
		if len(s) > limit {
			return invalid("%s has %d bytes: at most %d", name, len(s), limit)
		}
	}
	return nil
}

func invalid(format string, args ...any) error {
	return problem.New(problem.Invalid, "upgrade the agent, or look at what runs in its place", format, args...)
}
