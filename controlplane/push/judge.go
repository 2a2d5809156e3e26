package push

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/pkg/desired"
)

// Answer is one of three.
type Answer string

// The answers.
const (
	Yes     Answer = "yes"
	No      Answer = "no"      // nothing is pushed
	Warning Answer = "warning" // it is pushed all the same
)

// Finding is what was found about one thing that an agent on a machine needs.
type Finding struct {
	Check  string `json:"check"`
	Answer Answer `json:"answer"`
	Detail string `json:"detail,omitempty"`
	Remedy string `json:"remedy,omitempty"`
}

func unfit(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Answer == No })
}

// archOf is a machine's architecture as Go calls it.
var archOf = map[string]string{"x86_64": "amd64", "aarch64": "arm64"}

func judgeSystem(f *facts) []Finding {
	system := Finding{Check: "system", Answer: Yes, Detail: fmt.Sprintf("%s, %s %s", f.name, f.system, f.kernel)}
	if f.system != "Linux" {
		system.Answer, system.Remedy = No, "the agent that is pushed protects Linux 5.10 or newer"
	}
	arch := Finding{Check: "architecture", Answer: Yes, Detail: f.machine}
	if archOf[f.machine] == "" {
		arch.Answer, arch.Remedy = No, "there are agents for x86_64 and aarch64"
	}
	manager := Finding{Check: "service manager", Answer: Yes, Detail: "systemd"}
	if !f.systemd {
		manager = Finding{"service manager", No, "this machine is not run by systemd", "start understudy-agent run by the means that the machine has"}
	}
	findings := []Finding{system, arch, manager}
	if len(f.missing) > 0 {
		findings = append(findings, Finding{"tools", No, "missing: " + strings.Join(f.missing, ", "), "install coreutils"})
	}
	return findings
}

// judgeClock looks at how far a machine's clock is ahead of the control plane's.
func judgeClock(ahead, unsure time.Duration) Finding {
	off, direction := ahead, "ahead of"
	if ahead < 0 {
		off, direction = -ahead, "behind"
	}
	f := Finding{Check: "clock", Answer: Yes, Detail: fmt.Sprintf("%s %s the control plane's, give or take %s", off.Round(time.Second/10), direction, unsure.Round(time.Second/10))}
	if off -= unsure; off <= tellSkew { // so far at least
		return f
	}
	f.Answer, f.Remedy = Warning, "points bear the machine's time; set its clock (chrony, ntp)"
	if off > desired.MaxSkew {
		f.Answer, f.Remedy = No, "set the wrong one right (chrony, ntp): certificates are not valid yet, or no more"
	}
	return f
}

// tellSkew is how far a clock may be off before it is worth a word.
const tellSkew = 5 * time.Second

// judgeInstalled looks at the agent that is there already.
func judgeInstalled(f *facts, o Options, known *Machine) []Finding {
	var findings []Finding
	no := func(check, remedy, detail string, args ...any) {
		findings = append(findings, Finding{check, No, fmt.Sprintf(detail, args...), remedy})
	}
	switch {
	case o.Package != "" && f.packager == "":
		no("package", "push without --package", "the machine has neither dpkg nor rpm")
	case o.Package != "" && !strings.HasSuffix(o.Package, packageOf[f.packager]):
		no("package", "give the "+packageOf[f.packager]+" with --package", "%s is not what %s installs", o.Package, f.packager)
	}
	switch {
	case f.installed == bare && o.Package != "":
		no("installed agent", "push --uninstall first (the machine keeps its identity)", "an agent without a package is there (%s, version %s)", f.program, f.version)
	case f.installed == packaged && o.Package == "" && o.Verb != Install:
		no("installed agent", "push the newer package with --package, or upgrade it by apt or dnf", "the agent came in a package (version %s)", f.version)
	}
	if id := f.identity; id.Machine != "" && known == nil {
		no("identity", "if it shall belong to this control plane: push --uninstall --purge first, which takes its identity away",
			"it has enrolled as machine %s with %s, and this control plane does not know that machine", id.Machine, id.Server)
	}
	return findings
}

var packageOf = map[string]string{"dpkg": ".deb", "rpm": ".rpm", "": ""}

func judgeStage(err error) (Finding, bool) {
	none := (*noPlaceError)(nil)
	if !errors.As(err, &none) {
		return Finding{}, false
	}
	return Finding{"temporary directory", No, strings.Join(none.places, "; "), "make room in one of them, or mount one without noexec"}, true
}

// probe is what the agent itself says of the machine, as much of it as counts here.
type probe struct {
	Kernel string  `json:"kernel"`
	Answer string  `json:"answer"`
	Checks []check `json:"checks"`
	Room   []check `json:"room"`
	Reach  []check `json:"reach"`
	Disks  []struct {
		Disk struct {
			ID   string `json:"id"`
			Name string `json:"name"`
			Path string `json:"path"`
		} `json:"disk"`
		Answer string  `json:"answer"`
		Checks []check `json:"checks"`
	} `json:"disks"`
}

// parseProbe reads what the agent printed. It runs on a machine that may have been taken
// over: nothing of this is more than a line to an operator.
func parseProbe(out string) (p probe, err error) { return p, json.Unmarshal([]byte(out), &p) }

type check struct {
	Feature string `json:"feature"`
	Answer  string `json:"answer"`
	Detail  string `json:"detail"`
	Remedy  string `json:"remedy"`
}

func (c check) finding(prefix string) Finding {
	f := Finding{Check: prefix + c.Feature, Answer: No, Detail: c.Detail, Remedy: c.Remedy}
	switch c.Answer {
	case "yes":
		f.Answer = Yes
	case "unknown":
		f.Answer = Warning
	}
	return f
}

// judgeProbe looks at what the agent found; at the kernel's part only if it was root.
func judgeProbe(p probe, disks []string, asRoot bool) []Finding {
	var findings []Finding
	if asRoot {
		capture := Finding{Check: "capture", Answer: Yes, Detail: "kernel " + p.Kernel}
		before := len(findings)
		for _, c := range p.Checks {
			if c.Answer != "yes" {
				findings = append(findings, orScanned(c.finding("capture: ")))
			}
		}
		if len(findings) == before {
			findings = append(findings, capture)
		}
		for _, want := range disks {
			findings = append(findings, judgeDisk(p, want))
		}
		for _, c := range p.Room {
			findings = append(findings, c.finding(""))
		}
	}
	for _, c := range p.Reach {
		findings = append(findings, c.finding(""))
	}
	return findings
}

// orScanned: a machine whose writes cannot be captured can still be scanned, which is its
// operator's to decide.
func orScanned(f Finding) Finding {
	if f.Answer == No {
		f.Answer = Warning
		f.Remedy += "; or have its disks scanned: understudy policy set NAME --scan-every 12h --scan-freeze 5m"
	}
	return f
}

func judgeDisk(p probe, want string) Finding {
	f := Finding{Check: "disk " + want, Answer: Yes}
	var there []string
	for _, d := range p.Disks {
		there = append(there, d.Disk.Path)
		if want != d.Disk.Path && want != d.Disk.Name && want != d.Disk.ID {
			continue
		}
		f.Detail = d.Disk.Path + " " + d.Disk.Name
		if i := slices.IndexFunc(d.Checks, func(c check) bool { return c.Answer == "no" }); i >= 0 {
			c := d.Checks[i].finding("")
			f.Answer, f.Detail, f.Remedy = No, c.Check+": "+c.Detail, c.Remedy
		}
		return f
	}
	return Finding{f.Check, No, "the machine has no such disk; it has " + strings.Join(there, ", "), "correct --protect"}
}
