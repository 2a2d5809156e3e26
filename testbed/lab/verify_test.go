package lab

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// lived is a machine that ran a workload for a moment and was then shut down cleanly.
// (A running file system's backing file cannot be copied at one moment, so a crash is
// not simulated here; the scenarios have real ones.)
func lived(t *testing.T) (*Lab, *Workload, time.Time) {
	t.Helper()
	ctx := t.Context()
	l := open(t)
	disks, err := newMachine(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	ledger, err := l.NewLedger()
	if err != nil {
		t.Fatal(err)
	}
	w := NewWorkload(ledger, disks...)
	w.Seeded, w.Trim = 3, 500*time.Millisecond
	w.Widen()
	for _, d := range disks {
		if err := Seed(d, w.Seeded); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // it can go on where it stopped
		if err := w.Start(l); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond)
		if err := w.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Now()
	for _, d := range disks {
		if err := errors.Join(d.Unmount(ctx), d.Detach(ctx)); err != nil {
			t.Fatal(err)
		}
	}
	return l, w, at
}

// copies is each disk's file copied, so that it can be spoiled.
func copies(t *testing.T, l *Lab, w *Workload) map[string]string {
	t.Helper()
	files := map[string]string{}
	for name, d := range w.disks {
		files[name] = filepath.Join(l.RunDir(), name+".copy")
		if _, err := run(t.Context(), "cp", "--sparse=always", d.File, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func TestVerifyFindsAllThatWasPromised(t *testing.T) {
	l, w, at := lived(t)
	v, err := w.Verify(t.Context(), l, copies(t, l, w), at)
	if err != nil {
		t.Fatal(err)
	}
	if v.Checked < 50 || v.Checked != w.ledger.Acked() || v.Found != v.Checked || len(v.Streams) != 19 || v.Clean != 3 {
		t.Errorf("checked %d and found %d of %d acknowledged values: %+v", v.Checked, v.Found, w.ledger.Acked(), v.Streams)
	}
	if left := Leftovers(l.Dir); len(left) != 1 { // the lab's own mount
		t.Errorf("Verify left %v", left)
	}
	t.Logf("%d values in %+v", v.Checked, v.Streams)
}

// TestVerifyFails: each kind of loss must be seen, and named.
func TestVerifyFails(t *testing.T) {
	l, w, at := lived(t)
	start := at.Add(-time.Hour)
	cases := map[string]struct {
		disk  string
		spoil func(t *testing.T, root string)
		at    time.Time
		want  string
	}{
		"the log's end is missing":   {Ext4, cut("app.log", -64), at, "ext4/log: values"},
		"a hole in the log":          {XFS, overwrite("app.log", 200, 10), at, "xfs/log holds record"},
		"the log is gone":            {XFS, remove("app.log"), at, "xfs/log: values 1 to"},
		"a byte of a slot":           {Ext4, overwrite("slots.slots", 2*slotSize+77, 1), at, "ext4/slots: ext4 slot 2 value"},
		"a slot is zero":             {XFS, zero("slots.slots", 5*slotSize, slotSize), at, "xfs slot 5 holds nothing"},
		"one disk of a chain is old": {XFS, zero("chain.slots", 0, slotBytes), at, "all/chain: "},
		"a renamed file is damaged":  {Ext4, overwrite(renamedFirst(Ext4), 40, 2), at, "is damaged from its byte 40 on"},
		"a renamed file is gone":     {XFS, remove(renamedFirst(XFS)), at, "holds nothing"},
		"a row is missing":           {Ext4, sqlExec("DELETE FROM vals WHERE n = 7"), at, "ext4/sqlite: row 8 follows row 6"},
		"the last row is missing":    {XFS, sqlExec("DELETE FROM vals WHERE n = (SELECT max(n) FROM vals)"), at, "xfs/sqlite: values"},
		"a name is missing":          {Btrfs, removeAny("tree/dir-*/*"), at, "btrfs/tree: its names are those of no moment"},
		"a name's place is old":      {XFS, remove("tree"), at, "xfs/tree: values 1 to"},
		"a file from before":         {Ext4, overwrite("seed/0001", 1000, 1), at, "seed/0001"},
		"values from the future":     {Ext4, func(*testing.T, string) {}, start, "was begun only after"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			files := copies(t, l, w)
			spoil(t, l, w, files[c.disk], c.disk, c.spoil)
			v, err := w.Verify(t.Context(), l, files, c.at)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("want %q, got %v (%d checked)", c.want, err, v.Checked)
			}
		})
	}
}

// TestVerifyFailsOnADamagedFileSystem: the applications' values alone are not enough.
func TestVerifyFailsOnADamagedFileSystem(t *testing.T) {
	l, w, at := lived(t)
	files := copies(t, l, w)
	// A free block that the bitmap calls used: no application would notice for years.
	found, err := run(t.Context(), "debugfs", "-R", "ffb 1 1000", files[Ext4])
	if err != nil {
		t.Fatal(err)
	}
	free := strings.Fields(found) // "Free blocks found: N"
	if _, err := run(t.Context(), "debugfs", "-w", "-R", "setb "+free[len(free)-1], files[Ext4]); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Verify(t.Context(), l, files, at); err == nil || !strings.Contains(err.Error(), "file system is damaged") {
		t.Errorf("a wrong bitmap: %v", err)
	}
}

func spoil(t *testing.T, l *Lab, w *Workload, file, name string, f func(*testing.T, string)) {
	t.Helper()
	ctx := t.Context()
	d, err := l.OpenDisk(ctx, "spoil", file, w.disks[name].FS)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.MountUp(ctx, false); err != nil {
		t.Fatal(err)
	}
	f(t, d.Mount)
	if err := errors.Join(d.Unmount(ctx), d.Detach(ctx)); err != nil {
		t.Fatal(err)
	}
}

func cut(name string, n int64) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		path := filepath.Join(root, name)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, info.Size()+n); err != nil {
			t.Fatal(err)
		}
	}
}

func overwrite(name string, off int64, n int) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		f, err := os.OpenFile(filepath.Join(root, name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, n)
		if _, err := f.ReadAt(b, off); err != nil {
			t.Fatal(err)
		}
		for i := range b {
			b[i] ^= 0xFF
		}
		if _, err := f.WriteAt(b, off); err != nil {
			t.Fatal(err)
		}
	}
}

func zero(name string, off, n int64) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		f, err := os.OpenFile(filepath.Join(root, name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(make([]byte, n), off); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(name string) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		path := filepath.Join(root, name)
		if _, err := os.Stat(path); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
}

// renamedFirst is the file that the first value of a rename stream went to: however slow
// the machine, it is there.
func renamedFirst(fs string) string {
	s := renameStream{fs}
	return fmt.Sprintf("renamed/file-%02d", s.at(1).slot)
}

func removeAny(pattern string) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(names) == 0 {
			t.Fatal(names, err)
		}
		remove(strings.TrimPrefix(names[0], root))(t, root)
	}
}

func sqlExec(statement string) func(*testing.T, string) {
	return func(t *testing.T, root string) {
		db, err := sql.Open("sqlite", filepath.Join(root, "sqlite", "app.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
}
