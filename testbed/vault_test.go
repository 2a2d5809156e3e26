//go:build testbed

package testbed

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// volume puts one of the control plane's directories on a small volume of its own.
func volume(t *testing.T, v **lab.Tmpfs, name string, size int64) func(*rig) {
	return func(r *rig) {
		var err error
		*v, err = r.NewTmpfs(t.Context(), r.Path("control", name), size)
		r.must(err)
	}
}

// stuck waits until no new point has come for a while, and returns the newest.
func (r *rig) stuck(limit time.Duration) time.Time {
	r.t.Helper()
	newest, since := r.view().PointTime(), time.Now()
	r.until(limit, "end of new points", func(v lab.View) bool {
		if v.PointTime().After(newest) {
			newest, since = v.PointTime(), time.Now()
		}
		return time.Since(since) > 5*time.Second
	})
	return newest
}

// TestVaultFullThenEnlarged: no point is offered that is not in the vault, the operator
// is told, and room heals it without a resync.
func TestVaultFullThenEnlarged(t *testing.T) {
	var vault *lab.Tmpfs
	r := protected(t, setup{before: volume(t, &vault, "vault", 300*mib), quiet: true})
	r.must(r.work.Start(r.Lab))
	r.untilPoint(time.Now())
	r.must(vault.Resize(t.Context(), r.used(r.Path("control", "vault"))+mib))
	before := r.stuck(40 * time.Second)
	r.wantEvent("vault-full")
	r.verify(before.Format(time.RFC3339Nano)) // what is in it stays recoverable
	r.must(vault.Resize(t.Context(), 2048*mib))
	r.verifyNow()
	r.wantEpoch(1)
}

// TestVaultReadOnlyThenHealed is the same for a vault that refuses writes.
func TestVaultReadOnlyThenHealed(t *testing.T) {
	var vault *lab.Tmpfs
	r := protected(t, setup{before: volume(t, &vault, "vault", 2048*mib)})
	r.untilPoint(time.Now())
	r.must(vault.ReadOnly(t.Context(), true))
	before := r.stuck(40 * time.Second)
	r.wantEvent("vault-read-only")
	r.verify(before.Format(time.RFC3339Nano))
	r.must(vault.ReadOnly(t.Context(), false))
	r.verifyNow()
	r.wantEpoch(1)
}

// TestSpoolFull: with the vault out of order the machine's share of the spool fills up,
// then its journal, then the dirty maps take over. The operator is told what is
// waited for, the machine goes on, and all of it comes back.
func TestSpoolFull(t *testing.T) {
	var vault *lab.Tmpfs
	r := protected(t, setup{
		serve:  []string{"--spool-limit", "512MiB"}, // the smallest: two of its files
		agent:  []string{"--memory-bytes", inBytes(8 * mib), "--spill-bytes", inBytes(32 * mib)},
		before: volume(t, &vault, "vault", 4096*mib),
	})
	before := r.untilPoint(time.Now())
	r.must(vault.ReadOnly(t.Context(), true))
	v := r.until(time.Minute, "full journal", func(v lab.View) bool {
		r.burst(r.disks[0], 100)
		return v.Status.Problem != nil && v.Protection.Phase == desired.PhaseMapOnly
	})
	t.Logf("the operator is told: %v", v.Status.Problem)
	r.wantEvent("vault-read-only")
	r.wantEvent("journal-overflow")
	acked := r.ledger.Acked()
	r.live(time.Second)
	if r.ledger.Acked() < acked+100 {
		t.Errorf("the machine is held up: %d values in a second", r.ledger.Acked()-acked)
	}
	r.must(vault.ReadOnly(t.Context(), false))
	r.verifyNow()
	r.verify(before.Format(time.RFC3339Nano))
}

// TestRelayLosesItsSpool: what was spooled and not yet in the vault is gone with the
// relay's disk. The agent still knows its ranges, and only those travel again.
func TestRelayLosesItsSpool(t *testing.T) {
	var vault *lab.Tmpfs
	r := protected(t, setup{before: volume(t, &vault, "vault", 2048*mib)})
	before := r.untilPoint(time.Now())
	r.must(vault.ReadOnly(t.Context(), true))
	r.live(4 * time.Second)
	r.site.Serve.Kill()
	r.must(os.RemoveAll(filepath.Join(r.site.Data, "spool")))
	r.must(vault.ReadOnly(t.Context(), false))
	r.must(r.site.Start(t.Context()))
	if p := r.untilEpochAfter(1); p.Reason != "relay-lost-spool" {
		t.Errorf("epoch %d began for %q, want relay-lost-spool", p.Epoch, p.Reason)
	}
	r.wantEvent("relay-lost-spool")
	r.verifyNow()
	r.verify(before.Format(time.RFC3339Nano))
}

// TestVaultFromABackup: the vault was restored from an older copy of itself, and holds
// less than it had acknowledged as committed.
func TestVaultFromABackup(t *testing.T) {
	r := protected(t, setup{})
	before := r.untilPoint(time.Now())
	r.must(r.site.Serve.Stop(20 * time.Second))
	vault := filepath.Join(r.site.Data, "vault")
	r.must(os.CopyFS(r.Path("backup"), os.DirFS(vault)))
	r.must(r.site.Start(t.Context()))
	r.live(2 * time.Second)
	r.untilPoint(time.Now())
	r.site.Serve.Kill()
	r.must(os.RemoveAll(vault))
	r.must(os.CopyFS(vault, os.DirFS(r.Path("backup"))))
	r.must(os.RemoveAll(filepath.Join(r.site.Data, "spool")))
	r.must(r.site.Start(t.Context()))
	r.untilEpochAfter(1)
	r.verifyNow()
	r.verify(before.Format(time.RFC3339Nano))
	r.must(r.site.Vault(t.Context(), "check"))
}

// TestVaultAloneIsEnough: of the control plane only the vault and its key are left.
func TestVaultAloneIsEnough(t *testing.T) {
	r := protected(t, setup{})
	r.live(3 * time.Second)
	at := r.untilPoint(time.Now())
	r.site.Serve.Kill()
	r.machine.Agent.Kill()
	r.must(r.work.Stop())
	for _, lost := range []string{"inventory.db", "inventory.db-wal", "inventory.db-shm", "spool"} {
		r.must(os.RemoveAll(filepath.Join(r.site.Data, lost)))
	}
	r.must(r.site.Vault(t.Context(), "rebuild"))
	r.must(r.site.Vault(t.Context(), "check"))
	r.must(r.site.Start(t.Context()))
	got := r.verify("latest")
	if got.Point.Time.Before(at) {
		t.Errorf("the latest point is of %s, but one of %s was in the vault", got.Point.Time, at)
	}
}

// TestVaultCheckFindsDamage: one flipped bit anywhere is found and named.
func TestVaultCheckFindsDamage(t *testing.T) {
	r := protected(t, setup{})
	r.untilPoint(time.Now())
	r.must(r.site.Serve.Stop(20 * time.Second))
	r.must(r.site.Vault(t.Context(), "check"))
	var largest string
	var size int64
	r.must(filepath.WalkDir(filepath.Join(r.site.Data, "vault"), func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil && info.Size() > size {
			largest, size = path, info.Size()
		}
		return err
	}))
	f, err := os.OpenFile(largest, os.O_RDWR, 0)
	r.must(err)
	b := make([]byte, 1)
	_, err = f.ReadAt(b, size/2)
	r.must(err)
	b[0] ^= 1
	_, err = f.WriteAt(b, size/2)
	r.must(err)
	r.must(f.Close())
	if err := r.site.Vault(t.Context(), "check"); lab.ExitCode(err) != 8 {
		t.Errorf("check of a damaged vault: %v, want exit code 8", err)
	}
}

// used is how many bytes lie below a directory.
func (r *rig) used(dir string) (n int64) {
	r.must(filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	}))
	return n
}
