package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
)

// serveOptions are the flags of understudy serve.
type serveOptions struct {
	data        string
	apiListen   string
	relayListen string
	advertise   []string
	names       []string
	logJSON     bool
	debug       bool
}

func newServe() *cobra.Command {
	o := &serveOptions{}
	cmd := &cobra.Command{
		Use:   "serve --data DIR",
		Short: "Run the control plane: API, relay and vault in one process",
		Long: `Runs the API, the relay and the vault in one process, with everything it keeps
below one directory. On the first start it makes its certificate authority, the
vault's key and an operator's token there; whoever can read the directory is an
operator. Back up DIR/pki and DIR/vault.key, apart from the vault: without the key
nobody can read the vault.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runServe(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.data, "data", "", "directory for everything that is kept (required)")
	f.StringVar(&o.apiListen, "api-listen", ":443", "address of the API")
	f.StringVar(&o.relayListen, "relay-listen", ":9443", "address where agents send their logs, TCP and UDP")
	f.StringSliceVar(&o.advertise, "advertise-relay", nil, "host:port under which agents reach the relay (default: the API's host and the relay's port)")
	f.StringSliceVar(&o.names, "name", nil, "further names and addresses of this host in the API's certificate")
	f.BoolVar(&o.logJSON, "log-json", false, "log as JSON lines")
	f.BoolVar(&o.debug, "debug", false, "log more")
	_ = cmd.MarkFlagRequired("data")
	_ = cmd.MarkFlagDirname("data")
	return cmd
}

func runServe(ctx context.Context, o *serveOptions) error {
	log := newLog(o.logJSON, o.debug)
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

func newLog(asJSON, debug bool) *slog.Logger {
	options := &slog.HandlerOptions{Level: slog.LevelInfo}
	if debug {
		options.Level = slog.LevelDebug
	}
	if asJSON {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
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
