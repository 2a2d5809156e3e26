package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore/dir"
	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/pkg/block"
)

// bytes measures what the history takes in the vault once it is thinned to the points
// that restic and borg keep of it, too. It ends the control plane.
func (h *history) bytes(ctx context.Context) error {
	if err := h.site.Serve.Stop(30 * time.Second); err != nil {
		return err
	}
	came, err := bytesBelow(h.vaultDir())
	if err != nil {
		return err
	}
	if err := h.thin(ctx); err != nil {
		return err
	}
	kept, err := bytesBelow(h.vaultDir())
	if err != nil {
		return err
	}
	return h.fileBytes(came, kept)
}

// thin leaves the history's points in the vault and no others.
func (h *history) thin(ctx context.Context) error {
	store, err := dir.Open(h.vaultDir())
	if err != nil {
		return err
	}
	key, err := vault.ReadKeyFile(filepath.Join(h.site.Data, "vault.key"))
	if err != nil {
		return err
	}
	v, err := vault.Open(ctx, store, vault.Options{Key: key})
	if err != nil {
		return err
	}
	id, err := block.ParseMachineID(h.machine.ID())
	if err != nil {
		return err
	}
	m, err := v.Machine(ctx, id)
	if err != nil {
		return err
	}
	for i, p := range h.points {
		at, err := block.ParsePosition(p.ID)
		if err == nil {
			err = m.Lock(ctx, at, fmt.Sprintf("stretch-%d", i))
		}
		if err != nil {
			return err
		}
	}
	// Everything but what is locked, and the newest.
	report, err := m.Thin(ctx, vault.Retention{All: time.Nanosecond, Hourly: time.Nanosecond, Daily: time.Nanosecond})
	if err == nil && report.Points > len(h.points)+1 {
		err = errors.New("thinning left more points than were asked for")
	}
	return err
}

func (h *history) fileBytes(came, kept int64) error {
	packed, raw, err := h.uniqueLZ4()
	if err != nil {
		return err
	}
	note := fmt.Sprintf("%s; %d MiB in the vault before thinning", h, came/mib)
	r := row{Unit: "×", Better: lower, Rounds: 1, Ours: mibs(kept), Note: note}
	ratio := func(id, what, theirs string, of int64, target float64, tools []string) error {
		r.ID, r.What, r.Theirs, r.Target, r.Tools = "vault/"+id, what, theirs, target, tools
		r.Value = spreadOf([]float64{float64(kept) / float64(of)})
		return h.add(r)
	}
	err = errors.Join(
		ratio("lz4", "vault ÷ LZ4 of the unique churn", mibs(packed), packed, 1.05, nil),
		ratio("unique", "vault ÷ unique churn", mibs(raw), raw, 0, nil),
		ratio("written", "vault ÷ bytes written", mibs(h.written), h.written, 0, nil))
	for i, k := range h.keepers {
		theirs, kerr := k.kept()
		if err = errors.Join(err, kerr); err != nil {
			return err
		}
		err = ratio(k.name, "vault ÷ repository of "+k.name, mibs(theirs), theirs, 0, []string{h.versions[i] + ": " + k.again})
	}
	return err
}

func mibs(n int64) string { return number(float64(n)/mib) + " MiB" }
