package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-dr/understudy/controlplane/push"
	"github.com/understudy-dr/understudy/controlplane/relay"
	"github.com/understudy-dr/understudy/pkg/obs"
)

// serveOptions are the flags of understudy serve.
type serveOptions struct {
	data        string
	apiListen   string
	relayListen string
	advertise   []string
	names       []string
	place       vaultPlace
	spoolLimit  byteSize
	agents      []string
	emulate     bool
	logJSON     bool
	debug       bool
}

func newServe(op *operator) *cobra.Command {
	o := &serveOptions{spoolLimit: relay.DefaultSpool}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the control plane: API, relay and vault in one process",
		Long: `Runs the API, the relay and the vault in one process, with everything it keeps
below one directory. On the first start it makes its certificate authority, the
vault's key and an operator's token there; whoever can read the directory is an
operator. Back up DIR/pki and DIR/vault.key, apart from the vault: without the key
nobody can read the vault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.data = op.data
			return runServe(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.apiListen, "api-listen", ":443", "address of the API")
	f.StringVar(&o.relayListen, "relay-listen", ":9443", "address where agents send their logs, TCP and UDP")
	f.StringSliceVar(&o.advertise, "advertise-relay", nil, "host:port under which agents reach the relay (default: the API's host and the relay's port)")
	f.StringSliceVar(&o.names, "name", nil, "further names and addresses of this host in the API's certificate")
	o.place.flags(f)
	f.Var(&o.spoolLimit, "spool-limit", "how much the relay may keep on disk before the vault has it")
	agentsFlag(f, &o.agents)
	f.BoolVar(&o.emulate, "emulate", false, "bring machines up without KVM, also where this host has it")
	f.BoolVar(&o.logJSON, "log-json", false, "log as JSON lines")
	f.BoolVar(&o.debug, "debug", false, "log more")
	return cmd
}

// gcPercent is how much garbage there may be for what lives, percent. What lives is frames
// and objects, tens of MiB without a pointer to follow: collecting twice as often as is
// usual costs nothing that can be measured, and saves a third of the memory.
const gcPercent = 50

func runServe(ctx context.Context, o *serveOptions) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	log := o.log()
	if _, err := o.relayAddresses(); err != nil {
		return err
	}
	var err error
	if o.data, err = filepath.Abs(o.data); err != nil { // others are told of what lies there
		return err
	}
	if err := os.MkdirAll(o.data, 0o700); err != nil {
		return fmt.Errorf("the data directory: %w", err)
	}
	release, err := lockData(o.data)
	if err != nil {
		return err
	}
	defer release()
	p, err := newPlane(ctx, o, log)
	if err != nil {
		return err
	}
	defer p.close()
	return p.serve(ctx)
}

func (o *serveOptions) agentPrograms() push.Agents { return agentPrograms(o.agents) }

func (o *serveOptions) log() *slog.Logger {
	level := slog.LevelInfo
	if o.debug {
		level = slog.LevelDebug
	}
	return obs.NewLog(os.Stderr, level, o.logJSON)
}

// relayAddresses are what agents are told. Without a host they use the one by which
// they reach the API.
func (o *serveOptions) relayAddresses() ([]string, error) {
	if len(o.advertise) > 0 {
		return o.advertise, nil
	}
	host, port, err := net.SplitHostPort(o.relayListen)
	if err != nil {
		return nil, usageError{fmt.Errorf("--relay-listen: %w", err)}
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = ""
	}
	return []string{net.JoinHostPort(host, port)}, nil
}

func (o *serveOptions) path(name string) string { return filepath.Join(o.data, name) }

// stopTime is how long requests under way may take when the process ends.
const stopTime = 5 * time.Second
