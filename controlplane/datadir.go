package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/controlplane/inventory"
)

// What lies in the data directory.
const (
	addressName   = "api.url" // where the API answers, for the operator's tool
	checksName    = "checks"  // the operator's programs that try whether a replica works
	inventoryName = "inventory.db"
	lockName      = "lock"
	pkiName       = "pki"
	recoveredName = "recovered" // copies of failovers for which nobody named a place
	proofsName    = "proofs"    // how replicas looked
	spoolName     = "spool"
	tokenName     = "operator.token"
	vaultName     = "vault"
	vaultKeyName  = "vault.key"
)

// lockData makes sure that one process uses the data directory: two writers would
// each believe the inventory and the spool to be theirs alone.
func lockData(dir string) (release func(), err error) {
	path := filepath.Join(dir, lockName)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the data directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		pid, _ := os.ReadFile(path)
		_ = f.Close()
		return nil, fmt.Errorf("another understudy serve (process %s) uses %s: stop it first, or choose another --data", strings.TrimSpace(string(pid)), dir)
	}
	err = errors.Join(f.Truncate(0), ignoreCount(f.WriteAt(fmt.Appendln(nil, os.Getpid()), 0)))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("the data directory: %w", err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

func ignoreCount(_ int, err error) error { return err }

// operatorToken reads the operator's token, or draws one where there is none.
func operatorToken(dir string) (string, error) {
	path := filepath.Join(dir, tokenName)
	b, err := os.ReadFile(path)
	if err == nil {
		if token := strings.TrimSpace(string(b)); len(token) >= 32 {
			return token, nil
		}
		return "", fmt.Errorf("%s is too short for a token: delete it and start again, and a new one is made", path)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("the operator's token: %w", err)
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails: crypto/rand ends the process instead
	token := "uso1_" + hex.EncodeToString(secret)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", fmt.Errorf("the operator's token: %w", err)
	}
	_, err = f.WriteString(token + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return "", fmt.Errorf("the operator's token: %w", err)
	}
	return token, nil
}

func openInventory(ctx context.Context, dir string, log *slog.Logger) (*inventory.Inventory, error) {
	return inventory.Open(ctx, filepath.Join(dir, inventoryName), time.Now, log)
}

// exists says whether there is anything at the path.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
