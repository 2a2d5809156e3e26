package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/understudy-dr/understudy/controlplane/push"
	"github.com/understudy-dr/understudy/pkg/problem"
)

type pushOptions struct {
	user, key, passwordFile    string
	sudo                       bool
	port, parallel             int
	dryRun, upgrade, uninstall bool
	purge                      bool
	protect                    []string
	packageFile                string
	agents                     []string
	hostKeys                   []string
	acceptNew                  bool
	knownHosts                 string
	controlPlane               string
	wait                       time.Duration
}

func newPush(o *operator) *cobra.Command {
	p := &pushOptions{}
	cmd := &cobra.Command{
		Use:   "push HOST...",
		Short: "Install the agent on machines by SSH",
		Long: `Installs the agent on machines by SSH, enrols them, and waits until each has reported.
First it looks, and changes nothing: the system, root or sudo, the clock, the kernel, room
on the disks, the ways to the control plane. It tells all that is in the way and what to do
about it, and pushes where nothing is. What fails on the way is taken back.

Where an agent is installed already, nothing is done; --upgrade brings this version, while
the capture goes on in the kernel. --uninstall takes the agent away, with --purge its
identity and journal, too; what the control plane keeps of the machine stays.

It logs in with --key, with --password-file (which sudo is given as well, if it asks), or
by the SSH agent. All of this stays in this process; the machine is given a token that
works once. A host that is met first shows its key; keys that were accepted are kept, and
another one is refused.

On a terminal it shows a line a host, elsewhere, or with --output json, lines of JSON: one
for each step, and a last one a host with its outcome.

Exit codes: 0 all is as wanted; 12 a machine is not fit, and the others are done; 13 it
failed at a machine; 2, 5, 6 and 130 as usual.`,
		Example: "  understudy push web1 web2 --user admin --sudo --key ~/.ssh/id_ed25519 --dry-run\n" +
			"  understudy push web1 --protect /dev/sda --protect /dev/sdb\n  understudy push web1 --upgrade",
		Args: minArgs(1),
	}
	cmd.RunE = o.verb(func(ctx context.Context, c *client, out *printer, args []string) error {
		return runPush(ctx, cmd, c, out, args, p)
	})
	p.flags(cmd.Flags())
	return cmd
}

func (p *pushOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&p.user, "user", "root", "log in as this user")
	f.StringVar(&p.key, "key", "", "log in with the private key in this file")
	f.StringVar(&p.passwordFile, "password-file", "", "log in with the password in this file")
	f.BoolVar(&p.sudo, "sudo", false, "become root by sudo")
	f.IntVar(&p.port, "port", 22, "of sshd, where HOST does not say")
	f.IntVar(&p.parallel, "parallel", 8, "so many hosts at once")
	f.BoolVar(&p.dryRun, "dry-run", false, "only look, and tell everything that was found")
	f.BoolVar(&p.upgrade, "upgrade", false, "bring this version where another is installed")
	f.BoolVar(&p.uninstall, "uninstall", false, "take the agent away")
	f.BoolVar(&p.purge, "purge", false, "with --uninstall: the machine's identity and journal as well")
	f.StringArrayVar(&p.protect, "protect", nil, "protect this disk afterwards: path, stable name or id; may be repeated")
	f.StringVar(&p.packageFile, "package", "", "install this deb or rpm of the agent's instead of the bare program")
	agentsFlag(f, &p.agents)
	f.StringArrayVar(&p.hostKeys, "host-key", nil, "the host's key is this one: SHA256:..., or HOST=SHA256:... for several hosts")
	f.BoolVar(&p.acceptNew, "accept-new-host-key", false, "take the key of a host that is met first")
	f.StringVar(&p.knownHosts, "known-hosts", "", "where keys of hosts are kept (default: understudy/known_hosts among your settings)")
	controlPlaneFlag(f, &p.controlPlane, "this one's address as --server has it, or the address of this host that each machine is reached from")
	f.DurationVar(&p.wait, "wait", 2*time.Minute, "wait no longer for a machine's first report")
}

func agentsFlag(f *pflag.FlagSet, dirs *[]string) {
	f.StringSliceVar(dirs, "agents", nil, "where the agent's programs are: DIR/linux-amd64/understudy-agent, or DIR/understudy-agent (default: those that came with this program)")
}

func agentPrograms(dirs []string) push.Agents {
	if len(dirs) > 0 {
		return push.Agents{Dirs: dirs}
	}
	return push.DefaultAgents()
}

func controlPlaneFlag(f *pflag.FlagSet, address *string, otherwise string) {
	f.StringVar(address, "control-plane", "", "HOST or HOST:PORT by which machines reach the control plane (default: "+otherwise+")")
}

func (p *pushOptions) verb() (push.Verb, error) {
	switch {
	case p.upgrade && p.uninstall:
		return "", usage("--upgrade or --uninstall, not both")
	case p.uninstall && (p.dryRun || len(p.protect) > 0 || p.packageFile != ""):
		return "", usage("--uninstall goes with none of --dry-run, --protect and --package")
	case p.purge && !p.uninstall:
		return "", usage("--purge is for --uninstall")
	case p.dryRun:
		return push.Check, nil
	case p.uninstall:
		return push.Uninstall, nil
	case p.upgrade:
		return push.Upgrade, nil
	default:
		return push.Install, nil
	}
}

func runPush(ctx context.Context, cmd *cobra.Command, c *client, out *printer, hosts []string, p *pushOptions) error {
	verb, err := p.verb()
	if err != nil {
		return err
	}
	view := newPushView(out, hosts, cmd.InOrStdin())
	o := push.Options{
		Verb: verb, User: p.user, Sudo: p.sudo, Port: p.port, Protect: p.protect, Purge: p.purge, Package: p.packageFile,
		Agents: agentPrograms(p.agents), Plane: planeOf{c}, Parallel: p.parallel, Wait: p.wait, Progress: view.tell,
	}
	if err := errors.Join(p.login(ctx, &o), p.keys(&o, hosts, view)); err != nil {
		return err
	}
	host, port, err := c.asSeenByMachines(p.controlPlane)
	if err != nil {
		return err
	}
	o.Server, o.APIPort = host, port
	if verb != push.Uninstall {
		if o.Relays, err = c.relays(ctx); err != nil {
			return err
		}
	}
	results, err := push.Run(ctx, hosts, o)
	if shown := view.end(results, verb == push.Check); shown != nil || err != nil {
		return errors.Join(err, shown)
	}
	return pushEnd(results)
}

// pushEnd is the exit code of them all; the view has told the rest.
func pushEnd(results []push.Result) error {
	count := map[push.Outcome]int{}
	for _, r := range results {
		count[r.Outcome]++
	}
	switch {
	case count[push.Failed] > 0:
		return exitError{fmt.Errorf("it failed at %d of %d hosts", count[push.Failed], len(results)), exitPushFailed}
	case count[push.Unfit] > 0:
		return exitError{fmt.Errorf("%d of %d hosts are not fit; nothing was changed there", count[push.Unfit], len(results)), exitUnfit}
	}
	return nil
}

func (p *pushOptions) login(ctx context.Context, o *push.Options) error {
	if p.key != "" {
		key, err := push.KeyLogin(p.key)
		if err != nil {
			return err
		}
		o.Login = append(o.Login, key)
	}
	if p.passwordFile != "" {
		password, err := push.Password(p.passwordFile)
		if err != nil {
			return err
		}
		o.Login, o.Secret = append(o.Login, push.PasswordLogin(password)...), password
	}
	if socket := os.Getenv("SSH_AUTH_SOCK"); len(o.Login) == 0 && socket != "" {
		agent, err := push.AgentLogin(ctx, socket)
		o.Login = append(o.Login, agent)
		return err
	}
	if len(o.Login) == 0 {
		return usage("name a --key or a --password-file: there is no SSH agent")
	}
	return nil
}

func (p *pushOptions) keys(o *push.Options, hosts []string, view *pushView) error {
	k := &push.HostKeys{Path: p.knownHosts, Pinned: map[string]string{}, AcceptNew: p.acceptNew, Ask: view.asker()}
	if k.Path == "" {
		dir, err := os.UserConfigDir()
		if err != nil {
			return usage("there is no home directory: name a file with --known-hosts")
		}
		k.Path = filepath.Join(dir, "understudy", "known_hosts")
	}
	for _, text := range p.hostKeys {
		host, pin, named := strings.Cut(text, "=")
		if !named || strings.HasPrefix(text, "SHA256:") {
			host, pin = hosts[0], text
			if len(hosts) > 1 {
				return usage("--host-key: with several hosts want HOST=SHA256:...")
			}
		}
		if !strings.HasPrefix(pin, "SHA256:") {
			return usage("--host-key " + text + ": want SHA256:... as ssh-keygen -l shows it")
		}
		k.Pinned[host] = strings.TrimRight(pin, "=")
	}
	o.Keys = k
	return nil
}

// asSeenByMachines is the control plane's host and port for machines. The host is empty
// where all that is known is that it is this one.
func (c *client) asSeenByMachines(given string) (host, port string, err error) {
	u, err := url.Parse(c.server)
	if err != nil {
		return "", "", err
	}
	host, port = u.Hostname(), cmp.Or(u.Port(), "443")
	if ip := net.ParseIP(host); host == "localhost" || ip != nil && ip.IsLoopback() {
		host = ""
	}
	if given == "" {
		return host, port, nil
	}
	if h, p, err := net.SplitHostPort(given); err == nil {
		return h, p, nil
	}
	if strings.ContainsAny(given, "/@ ") {
		return "", "", problem.New(problem.Invalid, "give it as HOST or HOST:PORT", "--control-plane %q is no address", given)
	}
	return strings.Trim(given, "[]"), port, nil
}
