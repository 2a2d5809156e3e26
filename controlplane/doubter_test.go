package main

import (
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/inventory"
	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// protectedHistory is a vault in which a machine's log ends at the position.
func protectedHistory(t *testing.T, id block.MachineID) (*vault.Vault, block.Position) {
	t.Helper()
	v, err := vault.Create(t.Context(), mem.New(), vault.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := v.OpenWriter(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	disk := frame.MarkDisk{ID: block.DiskIDFromName("a"), Name: "a", Path: "/dev/a", Size: 1 << 20, SectorSize: 512, Whole: true}
	var frames [][]byte
	for i, m := range []frame.Mark{
		{Type: frame.MarkEpochBegin, Reason: frame.ReasonInitial, Method: frame.MethodFull, Disks: []frame.MarkDisk{disk}},
		{Type: frame.MarkBaseComplete},
	} {
		raw, err := frame.AppendMark(nil, id, 1, block.Seq(i+1), time.Now(), m)
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, raw)
	}
	if err := w.Commit(t.Context(), frames); err != nil {
		t.Fatal(err)
	}
	return v, block.Position{Epoch: 1, Seq: 2}
}

// TestAFindingIsMarkedAsSoonAsItIsTold: it used to wait for the round in which histories
// are described and thinned. What is committed behind the finding, up to the repair, is
// in doubt as well, and what the repair begins is not.
func TestAFindingIsMarkedAsSoonAsItIsTold(t *testing.T) {
	id := block.MachineID{7}
	v, at := protectedHistory(t, id)
	inv, err := inventory.Open(t.Context(), filepath.Join(t.TempDir(), "inventory.db"), time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer inv.Close()
	d := newDoubter(v, inv, slog.New(slog.DiscardHandler))
	go d.run(t.Context())
	if _, err := inv.Adopt(t.Context(), id, "web1", nil, nil); err != nil {
		t.Fatal(err)
	}
	finding := desired.Finding{Found: time.Now(), At: at, Cause: desired.FoundDifferent, Bytes: 4096,
		Extents: []block.DiskExtent{{Disk: block.DiskIDFromName("a"), Extent: block.Extent{Len: 4096}}}}
	_, err = inv.Record(t.Context(), id, desired.Report{Version: desired.Version, Instance: "x", Time: time.Now(), Host: desired.Host{Hostname: "web1"},
		Protection: &desired.Protection{Phase: desired.PhaseSteady, Epoch: 1, Verify: &desired.VerifyState{Findings: []desired.Finding{finding}}}})
	if err != nil {
		t.Fatal(err)
	}
	d.tell()
	history, err := v.Machine(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	doubts := func(p block.Position) int {
		found, err := history.InDoubt(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	for deadline := time.Now().Add(doubtEvery / 2); doubts(at) == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the point is not in doubt yet")
		}
	}
	if doubts(block.Position{Epoch: 1, Seq: 9}) != 1 || doubts(block.Position{Epoch: 2, Seq: 12}) != 0 {
		t.Error("a point from before the repair is trusted, or one from after it is not")
	}
}
