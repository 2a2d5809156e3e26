package inventory

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// crowd is an inventory with so many protected machines.
func crowd(b *testing.B, n int) (*Inventory, []block.MachineID) {
	b.Helper()
	inv, err := Open(b.Context(), filepath.Join(b.TempDir(), "inventory.db"), time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = inv.Close() })
	ids := make([]block.MachineID, n)
	for i := range ids {
		ids[i] = block.NewMachineID()
		if _, err := inv.Adopt(b.Context(), ids[i], fmt.Sprint("web", i), nil, nil); err != nil {
			b.Fatal(err)
		}
		if _, err := inv.Record(b.Context(), ids[i], steady(i)); err != nil {
			b.Fatal(err)
		}
		if _, err := inv.Protect(b.Context(), ids[i], []string{"a", "b"}, ""); err != nil {
			b.Fatal(err)
		}
	}
	return inv, ids
}

func steady(i int) desired.Report {
	r := report("x", disk("a"), disk("b"))
	r.Host.Hostname = fmt.Sprint("web", i)
	r.Time = time.Now()
	r.Protection = &desired.Protection{Phase: desired.PhaseSteady, Epoch: 1, Reason: "initial",
		Disks: []desired.DiskState{{ID: disk("a").ID, Phase: desired.PhaseSteady}, {ID: disk("b").ID, Phase: desired.PhaseSteady}}}
	return r
}

// BenchmarkRecord is one report of one of 2,000 machines; 400 a second are to be borne.
func BenchmarkRecord(b *testing.B) {
	inv, ids := crowd(b, 2000)
	i := 0
	for b.Loop() {
		inv.paces = make(map[block.MachineID]*pace)
		if _, err := inv.Record(b.Context(), ids[i%len(ids)], steady(i%len(ids))); err != nil {
			b.Fatal(err)
		}
		i++
	}
}

// BenchmarkTrack is one look at the states of 2,000 machines; it is taken each second.
func BenchmarkTrack(b *testing.B) {
	inv, _ := crowd(b, 2000)
	contacts := map[block.MachineID]Contact{}
	for b.Loop() {
		if err := inv.noticeAll(b.Context(), func(block.MachineID) Replication { return Replication{} }, contacts); err != nil {
			b.Fatal(err)
		}
	}
}
