package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/pflag"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/objstore/dir"
	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/pkg/problem"
)

// vaultPlace says where a vault and its key are.
type vaultPlace struct {
	vault string // a directory; empty: DATA/vault
	key   string // a file; empty: DATA/vault.key
}

func (p *vaultPlace) flags(f *pflag.FlagSet) {
	f.StringVar(&p.vault, "vault", "", "directory of the vault (default: DATA/vault)")
	f.StringVar(&p.key, "vault-key", "", "file with the vault's key (default: DATA/vault.key)")
}

// in fills in what nobody named from the data directory.
func (p *vaultPlace) in(data string) vaultPlace {
	q := *p
	if q.vault == "" {
		q.vault = filepath.Join(data, vaultName)
	}
	if q.key == "" {
		q.key = filepath.Join(data, vaultKeyName)
	}
	return q
}

func (p vaultPlace) store() (objstore.Store, error) {
	path := strings.TrimPrefix(p.vault, "file://")
	if strings.Contains(path, "://") {
		return nil, usageError{fmt.Errorf("--vault %q: this build knows vaults in directories only", p.vault)}
	}
	s, err := dir.Open(path)
	if err != nil {
		return nil, fmt.Errorf("the vault %s: %w", p.vault, err)
	}
	return objstore.Retry(s, objstore.DefaultRetry), nil
}

// open opens a vault that is there.
func (p vaultPlace) open(ctx context.Context, log *slog.Logger) (*vault.Vault, error) {
	return p.openWith(ctx, vault.Options{Log: log})
}

// openWith opens a vault that is there with more than the usual options. The key is
// read from its file.
func (p vaultPlace) openWith(ctx context.Context, options vault.Options) (*vault.Vault, error) {
	if !exists(p.vault) {
		return nil, problem.New(problem.NotFound, "name the right one with --vault or --data", "there is no vault in %s", p.vault)
	}
	store, err := p.store()
	if err != nil {
		return nil, err
	}
	key, err := vault.ReadKeyFile(p.key)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, p.keyMissing()
	}
	if err != nil {
		return nil, err
	}
	options.Key = key
	return vault.Open(ctx, store, options)
}

// openOrCreate opens the vault of a control plane, and makes it on the first start.
func (p vaultPlace) openOrCreate(ctx context.Context, metrics prometheus.Registerer, log *slog.Logger) (*vault.Vault, error) {
	store, err := p.store()
	if err != nil {
		return nil, err
	}
	key, err := p.readOrMakeKey(ctx, store, log)
	if err != nil {
		return nil, err
	}
	options := vault.Options{Key: key, Log: log, Metrics: metrics}
	v, err := vault.Open(ctx, store, options)
	if errors.Is(err, vault.ErrNotVault) {
		log.Info("a new vault is made", "vault", p.vault)
		v, err = vault.Create(ctx, store, options)
	}
	return v, err
}

// readOrMakeKey makes a key only where there is no vault yet: a vault that is there
// was made with another one, which somebody has to bring back.
func (p vaultPlace) readOrMakeKey(ctx context.Context, store objstore.Store, log *slog.Logger) (vault.Key, error) {
	key, err := vault.ReadKeyFile(p.key)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if _, err := vault.Open(ctx, store, vault.Options{}); !errors.Is(err, vault.ErrNotVault) {
		return key, p.keyMissing()
	}
	log.Warn("a new key for the vault is made: keep a copy of it elsewhere, without it nobody can read the vault", "file", p.key)
	return vault.CreateKeyFile(p.key)
}

func (p vaultPlace) keyMissing() error {
	return problem.New(problem.NotFound, "restore it from your backup, or name it with --vault-key; without it nobody can read the vault",
		"there is a vault in %s, but its key %s is missing", p.vault, p.key)
}
