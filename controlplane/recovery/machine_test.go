package recovery_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/understudy-dr/understudy/controlplane/recovery"
	"github.com/understudy-dr/understudy/pkg/block"
)

func TestMachineGoesAllToOnePointAndIsRemoved(t *testing.T) {
	a, b := history(20, 6*mib, 6*mib), history(21, 3*mib, 3*mib)
	dir := filepath.Join(t.TempDir(), "replica")
	var last recovery.Progress
	opts := recovery.Options{Progress: func(p recovery.Progress) { last = p }}
	names := []string{"wwn-0x5000c500a1b2c3d4", "loop:/var/disk 2"}
	for i := range a {
		res, err := recovery.AdvanceMachine(t.Context(), []recovery.Disk{disk(a[i], names[0]), disk(b[i], names[1])}, dir, recovery.Raw, opts)
		if err != nil || len(res) != 2 {
			t.Fatalf("%+v, %v", res, err)
		}
		mustHold(t, res[0].Target, a[i])
		mustHold(t, res[1].Target, b[i])
		if last.DisksDone != 2 || last.Disks != 2 {
			t.Fatalf("%+v", last)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, names[0]+".raw")); err != nil {
		t.Fatal(err)
	}

	foreign := filepath.Join(dir, "notes.txt")
	if err := os.WriteFile(foreign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if gone, err := recovery.RemoveMachine(dir, block.MachineID{9}); err != nil || len(gone) != 0 {
		t.Fatalf("another machine's: %v, %v", gone, err)
	}
	if gone, err := recovery.RemoveMachine(dir, block.MachineID{1}); err != nil || len(gone) != 2 {
		t.Fatalf("%v, %v", gone, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "notes.txt" {
		t.Fatalf("left: %v, %v", entries, err)
	}
}

func TestMachineTouchesNothingIfOneDiskCannotBe(t *testing.T) {
	a, b := history(22, 2*mib)[0], history(23, 2*mib)[0]
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "sdb.raw"), []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := recovery.MaterialiseMachine(t.Context(), []recovery.Disk{disk(a, "sda"), disk(b, "sdb")}, dir, recovery.Raw, recovery.Options{})
	if !errors.Is(err, recovery.ErrForeign) {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Fatalf("something was made: %v", entries)
	}
	b.Position.Seq++
	if _, err := recovery.MaterialiseMachine(t.Context(), []recovery.Disk{disk(a, "sda"), disk(b, "sdb")}, t.TempDir(), recovery.Raw, recovery.Options{}); err == nil {
		t.Fatal("disks at two points were taken for one cut")
	}
}
