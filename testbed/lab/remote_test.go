package lab

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

// TestLedgerElsewhere: whoever only hears the lines knows the same bounds, over a stop
// without a goodbye and a start that finds what the disks hold.
func TestLedgerElsewhere(t *testing.T) {
	ctx := t.Context()
	l := open(t)
	disks, err := newMachine(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	var told bytes.Buffer
	promised := 0
	for life := range 2 {
		here, err := l.NewLedger() // a new one, as a machine has that lost its memory
		if err != nil {
			t.Fatal(err)
		}
		here.Tell(&told)
		w := NewWorkload(here, disks...)
		if err := errors.Join(w.Resume(), w.Start(l)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if err := w.Stop(); err != nil {
			t.Fatal(err)
		}
		there, err := ReadLedger(bytes.NewReader(told.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		if there.Acked() <= promised || there.Acked() != here.Acked() {
			t.Fatalf("life %d: %d values heard of, %d acknowledged, %d before", life, there.Acked(), here.Acked(), promised)
		}
		promised = there.Acked()
	}
	at := time.Now()
	for _, d := range disks {
		if err := errors.Join(d.Unmount(ctx), d.Detach(ctx)); err != nil {
			t.Fatal(err)
		}
	}
	there, err := ReadLedger(&told)
	if err != nil {
		t.Fatal(err)
	}
	w := Judge(there, 0, disks...)
	v, err := w.Verify(ctx, l, copies(t, l, w), at)
	if err != nil || v.Checked != promised {
		t.Errorf("%d values found of %d (%v)", v.Checked, promised, err)
	}
}

// TestLedgerElsewhereKnowsLoss: what cannot be is said, and a value that was under way
// keeps the time of its first beginning.
func TestLedgerElsewhereKnowsLoss(t *testing.T) {
	for name, c := range map[string]struct{ lines, want string }{
		"lost":                {"begun s 1 10;acked s 1 20;found s 0 30", "lost some"},
		"a hole":              {"begun s 2 10", "begun and"},
		"acked unbegun":       {"acked s 1 10", "begun and"},
		"found unbegun":       {"found s 1 10", "begun and"},
		"begun twice at once": {"begun s 1 10;begun s 2 20", "begun and"},
		"nonsense":            {"begun s", "begun s"},
	} {
		_, err := ReadLedger(strings.NewReader(strings.ReplaceAll(c.lines, ";", "\n") + "\n"))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: want %q, got %v", name, c.want, err)
		}
	}
	g, err := ReadLedger(strings.NewReader("begun s 1 10\nacked s 1 20\nbegun s 2 30\nfound s 1 40\nbegun s 2 50\nacked s 2 60\nbegun s 3 70\nfound s 3 80\nbegun s"))
	if err != nil {
		t.Fatal(err)
	}
	for at, want := range map[int64][2]uint64{25: {1, 1}, 45: {1, 2}, 65: {2, 2}, 75: {2, 3}, 85: {3, 3}} {
		if acked, begun := g.Bounds("s", time.Unix(0, at)); acked != want[0] || begun != want[1] {
			t.Errorf("at %d: %d acknowledged and %d begun, want %v", at, acked, begun, want)
		}
	}
}
