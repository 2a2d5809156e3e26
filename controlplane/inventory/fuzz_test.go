package inventory

import (
	"database/sql"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/pki"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/fuzztest"
)

// FuzzColumns puts anything into the columns that hold JSON, as another version or a
// hand at the database might. Limit: 512 times the input and 2 MiB for reading all of
// it. It is an error that says where, or it is read.
func FuzzColumns(f *testing.F) {
	for _, s := range []string{`{}`, `null`, `[]`, `{"disks":[{"id":null}],"protection":{"disks":[{"id":""}]}}`, `{"all_seconds":-1}`, `[{"from":"x"}]`, `{"code":"x"}`, "\x00", `[{"started":"x"}]`} {
		f.Add(s)
	}
	inv, err := Open(f.Context(), filepath.Join(f.TempDir(), "inventory.db"), time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = inv.Close() })
	secret := desired.NewToken([32]byte{}).Secret
	if _, err := inv.CreateToken(f.Context(), secret, block.MachineID{}, "", 0); err != nil {
		f.Fatal(err)
	}
	id := block.MachineID{}
	if _, err := inv.Redeem(f.Context(), secret, "key", desired.Host{Hostname: "web1"}, func(m block.MachineID) (pki.Issued, error) {
		id = m
		return pki.Issued{Serial: "1", Machine: m}, nil
	}); err != nil {
		f.Fatal(err)
	}
	job, err := inv.AddJob(f.Context(), "x", id, struct{}{}, "admin", []string{"one"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, c := range [][2]string{{"machines", "report"}, {"policies", "retention"}, {"policies", "throttle"}, {"jobs", "problem"}, {"jobs", "params"}, {"steps", "attempts"}, {"steps", "output"}} {
			var was string
			set := "UPDATE " + c[0] + " SET " + c[1] + " = ?"
			err := inv.note(t.Context(), func(tx *sql.Tx) error {
				if err := tx.QueryRow("SELECT " + c[1] + " FROM " + c[0]).Scan(&was); err != nil {
					return err
				}
				_, err := tx.Exec(set, s)
				return err
			})
			if err != nil {
				t.Fatal(set, err)
			}
			fuzztest.Bounded(t, 512*len(s)+2<<20, func() {
				_, _ = inv.Machines(t.Context())
				_, _ = inv.Policies(t.Context())
				_, _ = inv.Job(t.Context(), job.ID)
				_, _ = inv.Desired(t.Context(), id)
			})
			if err := inv.note(t.Context(), func(tx *sql.Tx) error { _, err := tx.Exec(set, was); return err }); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := inv.Machines(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}
