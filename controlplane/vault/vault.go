package vault

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/vault/sealed"
	"github.com/understudy-dr/understudy/pkg/block"
)

// The window of versions of vault.json this build reads.
const (
	oldestVersion = 1
	newestVersion = 1
	formatName    = "understudy-vault"
)

// Options are what a vault needs besides its store. Only Key is required.
type Options struct {
	Key Key
	Log *slog.Logger
	// Metrics receives the vault's collectors.
	Metrics prometheus.Registerer
	// Owner names this process in writer leases, for messages. Default: the host name.
	Owner string
	// IndexCache and PayloadCache bound the memory for decoded frame indexes and for
	// decrypted payloads, in bytes, over all machines and views. Default 64 MiB each.
	IndexCache, PayloadCache int64
	// Now is the clock; default time.Now.
	Now func() time.Time
}

// Vault is an open vault. It is safe for concurrent use; several processes may have
// the same vault open.
type Vault struct {
	store    objstore.Store
	id       string
	created  time.Time
	wrapping sealed.Key // wraps the machines' data keys
	opts     Options
	log      *slog.Logger
	metrics  *metrics
	indexes  *cache[string, frames]
	payloads *cache[unit, []byte]
	hashes   *cache[string, []stretch]
	limits   limits
	buffers  sync.Pool // *[]byte, for objects on their way to the store
	packed   sync.Pool // *[]byte, for compressed frames
	raw      sync.Pool // *[]byte, for payloads that nobody keeps

	mu       sync.Mutex
	machines map[block.MachineID]*Machine
}

// document is vault.json, in the clear.
type document struct {
	Format  string    `json:"format"`
	Version int       `json:"version"`
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	// Check is the id wrapped under the key that wraps data keys: it tells a foreign
	// key from a damaged object.
	Check []byte `json:"check"`
}

// Create makes a vault in an empty store.
func Create(ctx context.Context, store objstore.Store, opts Options) (*Vault, error) {
	salt := sealed.NewKey()
	doc := document{Format: formatName, Version: newestVersion, ID: hex.EncodeToString(salt[:16]), Created: time.Now().UTC().Truncate(time.Second)}
	doc.Check = wrap(wrappingKey(opts.Key, doc.ID), "vault "+doc.ID, []byte(doc.ID))
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("vault: encoding %s: %w", vaultName, err)
	}
	switch err := store.Put(ctx, vaultName, append(b, '\n')); {
	case errors.Is(err, objstore.ErrExists):
		return nil, fmt.Errorf("%w: %s", ErrExists, store)
	case err != nil:
		return nil, fmt.Errorf("vault: creating: %w", err)
	}
	return Open(ctx, store, opts)
}

// Open opens the vault in a store. It reads one object; machines are read when they
// are asked for.
func Open(ctx context.Context, store objstore.Store, opts Options) (*Vault, error) {
	b, err := store.Get(ctx, vaultName, 0, 1<<16)
	if errors.Is(err, objstore.ErrNotFound) {
		return nil, fmt.Errorf("%w: %s holds no %s; make one with `understudy vault create`", ErrNotVault, store, vaultName)
	}
	if err != nil {
		return nil, fmt.Errorf("vault: opening: %w", err)
	}
	doc, err := parseDocument(b)
	if err != nil {
		return nil, fmt.Errorf("%w (%s in %s)", err, vaultName, store)
	}
	wrapping := wrappingKey(opts.Key, doc.ID)
	id, err := unwrap(wrapping, "vault "+doc.ID, doc.Check)
	if err != nil || string(id) != doc.ID {
		return nil, fmt.Errorf("%w: vault %s in %s; give the key file it was created with", ErrForeignKey, doc.ID, store)
	}
	opts = opts.withDefaults()
	v := &Vault{
		store: store, id: doc.ID, created: doc.Created, wrapping: wrapping, opts: opts, log: opts.Log,
		indexes:  newCache[string, frames](opts.IndexCache),
		payloads: newCache[unit, []byte](opts.PayloadCache),
		hashes:   newCache[string, []stretch](hashCache),
		limits:   defaultLimits,
		machines: make(map[block.MachineID]*Machine),
	}
	v.metrics, err = newMetrics(opts.Metrics)
	return v, err
}

func (o Options) withDefaults() Options {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Owner == "" {
		o.Owner = hostname()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.IndexCache == 0 {
		o.IndexCache = 64 << 20
	}
	if o.PayloadCache == 0 {
		o.PayloadCache = 64 << 20
	}
	return o
}

func wrappingKey(master Key, vaultID string) sealed.Key {
	return master.Derive([]byte(vaultID), "understudy wrapping 1")
}

// parseDocument judges vault.json: not ours, another version, malformed.
func parseDocument(b []byte) (document, error) {
	var doc document
	if err := json.Unmarshal(b, &doc); err != nil || doc.Format != formatName {
		return doc, fmt.Errorf("%w: the file is something else", ErrNotVault)
	}
	switch {
	case doc.Version > newestVersion:
		return doc, fmt.Errorf("%w: version %d, this build reads up to %d: upgrade understudy", ErrNewer, doc.Version, newestVersion)
	case doc.Version < oldestVersion:
		return doc, fmt.Errorf("%w: version %d, this build reads from %d: migrate it with the release that made it", ErrOlder, doc.Version, oldestVersion)
	case doc.ID == "" || len(doc.Check) == 0:
		return doc, fmt.Errorf("%w: the file lacks its id or its key check", ErrNotVault)
	}
	return doc, nil
}

// ID is the vault's own identity.
func (v *Vault) ID() string { return v.id }

// Created is when the vault was made.
func (v *Vault) Created() time.Time { return v.created }

// Machines lists every machine that ever stored something, by id.
func (v *Vault) Machines(ctx context.Context) ([]block.MachineID, error) {
	var ids []block.MachineID
	for info, err := range v.store.List(ctx, keyPrefix) {
		if err != nil {
			return nil, fmt.Errorf("vault: listing machines: %w", err)
		}
		name := strings.TrimSuffix(strings.TrimPrefix(info.Key, keyPrefix), jsonSuffix)
		if id, err := block.ParseMachineID(name); err == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// keyDocument is keys/<machine>.json.
type keyDocument struct {
	Version int             `json:"version"`
	Machine block.MachineID `json:"machine"`
	Created time.Time       `json:"created"`
	Wrapped []byte          `json:"wrapped"`
}

func parseKeyDocument(b []byte) (doc keyDocument, err error) {
	if err := json.Unmarshal(b, &doc); err != nil {
		return doc, fmt.Errorf("vault: malformed key document: %w", err)
	}
	if doc.Version != 1 {
		return doc, fmt.Errorf("vault: key document of version %d, this build reads 1", doc.Version)
	}
	return doc, nil
}

// dataKey unwraps a machine's key; ErrNoMachine if it has none.
func (v *Vault) dataKey(ctx context.Context, id block.MachineID) (key sealed.Key, err error) {
	b, err := v.store.Get(ctx, keyName(id), 0, 1<<16)
	if errors.Is(err, objstore.ErrNotFound) {
		return key, fmt.Errorf("%w: %s in vault %s", ErrNoMachine, id, v.store)
	}
	if err != nil {
		return key, fmt.Errorf("vault: reading the key of machine %s: %w", id, err)
	}
	doc, err := parseKeyDocument(b)
	if err == nil {
		var secret []byte
		if secret, err = unwrap(v.wrapping, "machine "+id.String(), doc.Wrapped); err == nil && len(secret) == len(key) {
			return sealed.Key(secret), nil
		}
	}
	return key, &DamageError{Machine: id, Object: keyName(id), Affected: "every recovery point of the machine", Err: err}
}

// makeDataKey is dataKey for a machine that may be new.
func (v *Vault) makeDataKey(ctx context.Context, id block.MachineID) (sealed.Key, error) {
	key, err := v.dataKey(ctx, id)
	if !errors.Is(err, ErrNoMachine) {
		return key, err
	}
	key = sealed.NewKey()
	doc := keyDocument{Version: 1, Machine: id, Created: v.opts.Now().UTC(), Wrapped: wrap(v.wrapping, "machine "+id.String(), key[:])}
	b, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return key, fmt.Errorf("vault: encoding the key of machine %s: %w", id, err)
	}
	// Whoever comes first makes the key; it is read back so that all use that one.
	if err := v.store.Put(ctx, keyName(id), append(bytes.TrimSpace(b), '\n')); err != nil && !errors.Is(err, objstore.ErrExists) {
		return key, fmt.Errorf("vault: storing the key of machine %s: %w", id, err)
	}
	return v.dataKey(ctx, id)
}
