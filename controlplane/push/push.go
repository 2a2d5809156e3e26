// Package push brings the agent to machines by SSH: it looks first whether a machine is
// fit, installs, upgrades or uninstalls, and waits until the machine has reported. For who
// would rather have machines come by themselves it makes the command that they run
// (pull.go).
//
// It runs in the operator's tool, not as a job of the control plane. What opens the
// machines (keys, passwords, sudo) then never leaves the operator's process: the control
// plane has nothing to store, to encrypt or to lose, and one that was taken over is root
// nowhere. It also reaches what only the operator reaches, through his agent, his VPN and
// his known hosts. The price is that the tool must live until the push is over. One that
// dies leaves a machine as it was, or installed and not enrolled; the same command goes on
// from there. The control plane is asked for what only it can give: a one-time token per
// machine, and whether the machine has reported.
//
// # What a push leaves behind
//
// A push that does not succeed takes back what it did: a new agent is uninstalled with its
// identity, an upgraded one is replaced by the program that was there, a token that nobody
// used is revoked. It cannot where the connection is lost meanwhile; it says so.
package push

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/understudy-dr/understudy/pkg/problem"
)

// Verb is what is done to a machine.
type Verb string

// The verbs.
const (
	Install   Verb = "install"
	Upgrade   Verb = "upgrade" // install, also over another version
	Uninstall Verb = "uninstall"
	Check     Verb = "check" // look whether an install would go well, and change nothing
)

// Plane is the control plane as a push needs it.
type Plane interface {
	// Clock is how far the control plane's clock is ahead of this process's, and how
	// wrong that may be.
	Clock(ctx context.Context) (ahead, unsure time.Duration, err error)
	// Token lets one new machine enrol once. The id names it to Revoke.
	Token(ctx context.Context, note string) (secret, id string, err error)
	Revoke(ctx context.Context, id string) error
	// UsedBy is the machine that enrolled with the token; empty if none has.
	UsedBy(ctx context.Context, id string) (machine string, err error)
	// Machine is what is known of a machine; code machine-unknown if nothing is.
	Machine(ctx context.Context, id string) (Machine, error)
	Remove(ctx context.Context, id string) error
	Protect(ctx context.Context, id string, disks []string) error
}

// Machine is an enrolled machine as the control plane knows it.
type Machine struct {
	ID       string
	Version  string    // of its agent
	Reported time.Time // by the control plane's clock; zero: never
}

// Options say what is wanted. The zero value of most is a good one.
type Options struct {
	Verb    Verb
	User    string
	Login   []ssh.AuthMethod // tried in turn
	Sudo    bool             // the user is not root, and becomes it by sudo
	Secret  string           // the user's password, if sudo may ask for it
	Port    int              // of SSH, for hosts that name none; 22 if zero
	Protect []string         // disks, once the machine has reported
	Purge   bool             // Uninstall: the identity and the journal go as well
	Package string           // a deb or rpm of the agent's; empty: the bare program

	Keys    *HostKeys
	Agents  Agents
	Plane   Plane
	Server  string   // how machines reach the control plane, host or host:port; empty: the address this process reaches them from
	APIPort string   // where Server names no port
	Relays  []string // host:port; without a host they are reached by Server's

	Parallel int           // hosts at once; 8 if zero
	Wait     time.Duration // for a machine's first report; 2 minutes if zero
	// Progress is told each step, from several goroutines.
	Progress func(Event)
}

// Event tells what happens at a host now.
type Event struct {
	Time   time.Time `json:"time"`
	Host   string    `json:"host"`
	Step   string    `json:"step"`
	Detail string    `json:"detail,omitempty"`
}

// Outcome is how a host's push ended.
type Outcome string

// The outcomes.
const (
	Installed   Outcome = "installed"
	Upgraded    Outcome = "upgraded"
	Uninstalled Outcome = "uninstalled"
	Unchanged   Outcome = "unchanged" // it was as wanted already
	Fit         Outcome = "fit"       // Check: an install would go well
	Unfit       Outcome = "unfit"     // Findings say why; nothing was changed
	Failed      Outcome = "failed"    // Problem says why; what was done is taken back
)

// Result is how a host's push ended.
type Result struct {
	Host     string           `json:"host"`
	Outcome  Outcome          `json:"outcome"`
	Message  string           `json:"message"`
	Machine  string           `json:"machine,omitempty"`
	Version  string           `json:"version,omitempty"`
	Findings []Finding        `json:"findings,omitempty"`
	Problem  *problem.Problem `json:"problem,omitempty"`
}

const (
	defaultPort     = 22
	defaultParallel = 8
	defaultWait     = 2 * time.Minute
)

// Run pushes to all hosts, several at once, and returns their results in the order of the
// hosts. One that fails holds up none of the others.
func Run(ctx context.Context, hosts []string, o Options) ([]Result, error) {
	o = o.complete()
	targets, err := parseHosts(hosts, o)
	if err != nil {
		return nil, err
	}
	p := &pusher{Options: o}
	if o.Verb != Uninstall {
		if p.ahead, p.unsure, err = o.Plane.Clock(ctx); err != nil {
			return nil, err
		}
	}
	results := make([]Result, len(targets))
	turn := make(chan struct{}, o.Parallel)
	var all sync.WaitGroup
	for i, t := range targets {
		all.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			results[i] = p.push(ctx, t)
		})
	}
	all.Wait()
	return results, ctx.Err()
}

func (o Options) complete() Options {
	if o.Port == 0 {
		o.Port = defaultPort
	}
	if o.Parallel <= 0 {
		o.Parallel = defaultParallel
	}
	if o.Wait <= 0 {
		o.Wait = defaultWait
	}
	if o.Progress == nil {
		o.Progress = func(Event) {}
	}
	return o
}

// pusher is a push under way.
type pusher struct {
	Options
	ahead, unsure time.Duration // of the control plane's clock
}

func (p *pusher) tell(t *target, step, format string, args ...any) {
	p.Progress(Event{Time: time.Now(), Host: t.name, Step: step, Detail: fmt.Sprintf(format, args...)})
}

// push does what is wanted to one host.
func (p *pusher) push(ctx context.Context, t *target) (r Result) {
	r = Result{Host: t.name}
	err := ctx.Err()
	if err == nil {
		p.tell(t, "connect", "%s", t.addr)
		err = t.connect(ctx, p.Options)
	}
	if err == nil {
		defer t.close()
		if p.Verb == Uninstall {
			err = p.uninstall(ctx, t, &r)
		} else {
			err = p.bring(ctx, t, &r)
		}
	}
	if err != nil {
		r.Outcome, r.Message = Failed, err.Error()
		if r.Problem = asProblem(err); r.Problem != nil {
			r.Message = r.Problem.Detail
		}
	}
	p.tell(t, string(r.Outcome), "%s", r.Message)
	return r
}

func asProblem(err error) *problem.Problem {
	if p, ok := errors.AsType[*problem.Problem](err); ok {
		return p
	}
	return nil
}

// parseHosts reads HOST or HOST:PORT. Each may come once: two pushes to one machine would
// take each other's work for a stranger's.
func parseHosts(hosts []string, o Options) ([]*target, error) {
	var targets []*target
	seen := map[string]bool{}
	for _, name := range hosts {
		host, port := strings.Trim(name, "[]"), strconv.Itoa(o.Port)
		if h, p, err := net.SplitHostPort(name); err == nil {
			host, port = h, p
		}
		n, err := strconv.Atoi(port)
		if host == "" || strings.ContainsAny(host, " /@") || err != nil || n < 1 || n > 65535 {
			return nil, problem.New(problem.Invalid, "give it as HOST or HOST:PORT, and the user with --user", "%q is not a host", name)
		}
		addr := net.JoinHostPort(host, port)
		if seen[addr] {
			return nil, problem.New(problem.Invalid, "name it once", "%s is named twice", name)
		}
		seen[addr] = true
		targets = append(targets, &target{name: name, addr: addr, user: o.User})
	}
	return targets, nil
}

// server is how this host reaches the control plane's API, and the relays.
func (p *pusher) server(t *target) (api string, relays []string) {
	host, port := p.Server, p.APIPort
	if h, given, err := net.SplitHostPort(p.Server); err == nil {
		host, port = h, given
	}
	if host == "" {
		host = t.local
	}
	for _, r := range p.Relays {
		if h, port, err := net.SplitHostPort(r); err == nil && h == "" {
			r = net.JoinHostPort(host, port)
		}
		relays = append(relays, r)
	}
	return net.JoinHostPort(host, port), relays
}
