package push

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/problem"
)

//go:embed scripts/facts.sh
var factsScript string

//go:embed scripts/installed.sh
var installedScript string

// How an agent is installed.
const (
	bare     = "bare"    // as a program by itself
	packaged = "package" // by the package manager
)

// facts are what a target says of itself.
type facts struct {
	system, machine, kernel, name string
	uid                           string
	systemd                       bool
	missing                       []string // tools
	packager                      string   // dpkg or rpm

	installed string // bare, packaged or empty
	program   string // where the agent's is
	version   string // of it
	active    string // what systemd says of it
	state     bool   // /var/lib/understudy-agent is there
	identity  identity
}

// identity is the identity.json of an agent that has enrolled.
type identity struct {
	Machine string `json:"machine"`
	Server  string `json:"server"`
}

// pairs reads key=value lines; a key may come several times.
func pairs(out string) map[string][]string {
	m := map[string][]string{}
	for line := range strings.Lines(out) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && value != "" {
			m[key] = append(m[key], value)
		}
	}
	return m
}

func first(values []string) string {
	if len(values) == 0 {
		return ""
	}
	return values[0]
}

// facts asks what needs no root.
func (t *target) facts(ctx context.Context) (*facts, error) {
	out, err := t.run(ctx, factsScript, nil)
	if err != nil {
		return nil, fmt.Errorf("looking at %s: %w", t.name, err)
	}
	m := pairs(out)
	return &facts{
		system: first(m["system"]), machine: first(m["machine"]), kernel: first(m["kernel"]), name: first(m["name"]), uid: first(m["uid"]),
		systemd: first(m["systemd"]) == "yes", missing: m["missing"], packager: first(m["packager"]),
		installed: first(m["installed"]), program: first(m["program"]),
	}, nil
}

// installedFacts asks what root alone can see.
func (t *target) installedFacts(ctx context.Context, f *facts) error {
	out, err := t.asRoot(ctx, "program="+quote(f.program)+"\n"+installedScript, nil)
	if err != nil {
		return fmt.Errorf("looking at the agent of %s: %w", t.name, err)
	}
	if err := f.parseInstalled(out); err != nil {
		return problem.New(problem.Damaged, "push --uninstall --purge and install it anew, or mend the file", "%s has enrolled, but its /var/lib/understudy-agent/identity.json makes no sense: %v", t.name, err)
	}
	return nil
}

// parseInstalled reads what installed.sh says. The error is about the identity; the rest is
// read all the same.
func (f *facts) parseInstalled(out string) error {
	m := pairs(out)
	f.version, f.active, f.state = first(m["version"]), first(m["active"]), first(m["state"]) == "yes"
	text := first(m["identity"])
	if text == "" {
		return nil
	}
	var id identity
	if err := json.Unmarshal([]byte(text), &id); err != nil {
		return err
	}
	// An id and nothing else: the control plane knows machines by their names as well.
	if _, err := block.ParseMachineID(id.Machine); err != nil {
		return err
	}
	f.identity = id
	return nil
}

// clock is how far the target's clock is ahead of this process's, and how wrong that may
// be: by half the way there and back, and by the second that date cuts off.
func (t *target) clock(ctx context.Context) (ahead, unsure time.Duration, err error) {
	asked := time.Now()
	out, err := t.run(ctx, "date -u +%s", nil)
	if err != nil {
		return 0, 0, fmt.Errorf("asking %s for its time: %w", t.name, err)
	}
	took := time.Since(asked)
	at, err := parseClock(out)
	if err != nil {
		return 0, 0, fmt.Errorf("asking %s for its time: %w", t.name, err)
	}
	return at.Sub(asked.Add(took / 2)), took/2 + time.Second/2, nil
}

func parseClock(out string) (time.Time, error) {
	seconds, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	return time.Unix(seconds, 0).Add(time.Second / 2), err
}

// becomeRoot finds out how scripts become root. What keeps them from it is a finding.
func (t *target) becomeRoot(ctx context.Context, f *facts, o Options) Finding {
	yes := Finding{Check: "root", Answer: Yes}
	t.secret = o.Secret
	switch {
	case f.uid == "0":
		t.root, yes.Detail = byLogin, t.user+" is root"
		return yes
	case !o.Sudo:
		return Finding{"root", No, t.user + " is not root", "push with --sudo, or as --user root"}
	}
	_, withoutErr := t.run(ctx, "sudo -n true", nil)
	if withoutErr == nil {
		t.root, yes.Detail = bySudo, "by sudo, without a password"
		return yes
	}
	err := withoutErr
	if t.secret != "" {
		if _, err = t.run(ctx, "sudo -k -S -p '' true", strings.NewReader(t.secret+"\n")); err == nil {
			t.root, yes.Detail = byPassword, "by sudo, with the password"
			return yes
		}
	}
	return Finding{"root", No, fmt.Sprintf("sudo does not let %s be root: %v", t.user, err), sudoRemedy(t.user, err.Error())}
}

func sudoRemedy(user, said string) string {
	switch {
	case strings.Contains(said, "tty"):
		return fmt.Sprintf("allow sudo without a terminal: \"Defaults:%s !requiretty\" in /etc/sudoers.d", user)
	case strings.Contains(said, "not found"):
		return "install sudo, or push as --user root"
	case strings.Contains(said, "password is required"):
		return fmt.Sprintf("give the password with --password-file, or allow it without one: \"%s ALL=(ALL) NOPASSWD: ALL\" in /etc/sudoers.d", user)
	default:
		return fmt.Sprintf("allow it: \"%s ALL=(ALL) NOPASSWD: ALL\" in /etc/sudoers.d", user)
	}
}
