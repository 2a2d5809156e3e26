package main

import (
	"errors"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestTargets(t *testing.T) {
	at := func(b better, v, target float64) row { return row{Better: b, Value: spread{Median: v}, Target: target} }
	for name, c := range map[string]struct {
		r    row
		want bool
	}{
		"high enough":   {at(higher, 0.8, 0.8), true},
		"too low":       {at(higher, 0.79, 0.8), false},
		"low enough":    {at(lower, 3, 3), true},
		"too high":      {at(lower, 3.01, 3), false},
		"no target":     {at(higher, 0, 0), true},
		"nothing there": {at(lower, math.NaN(), 3), false},
	} {
		if got := c.r.met(); got != c.want {
			t.Errorf("%s: met %v", name, got)
		}
	}
}

func TestTable(t *testing.T) {
	var text strings.Builder
	printTable(&text, []row{{
		ID: "guest/memory/4k/full/iops", Unit: "×", Better: higher, Value: spread{0.912, 0.88, 0.93}, Noise: &spread{1, 0.99, 1.02},
		Rounds: 5, Ours: "41,200 IOPS", Theirs: "45,000 IOPS", Target: 0.8,
	}})
	for _, want := range []string{"guest/memory/4k/full/iops", "0.91× (0.88-0.93)", "1.00× (0.99-1.02)", "≥ 0.80: yes", "41,200 IOPS"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("%q is missing in\n%s", want, text.String())
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0.00", 0.01234: "0.0123", 0.5: "0.50", 12.34: "12.3", 123.4: "123", 1234567: "1,234,567", math.NaN(): "none"} {
		if got := number(v); got != want {
			t.Errorf("number(%v) is %s, want %s", v, got, want)
		}
	}
}

// TestBookKeepsEarlierRows: a run of some cases must not lose the others'.
func TestBookKeepsEarlierRows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out", "bench.json")
	k, err := openBook(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"a", "b"} {
		if err := k.add(row{ID: id, Unit: "s"}); err != nil {
			t.Fatal(err)
		}
	}
	k, err = openBook(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.add(row{ID: "b", Unit: "new"}); err != nil {
		t.Fatal(err)
	}
	if m := k.measured(); len(m) != 1 || m[0].ID != "b" {
		t.Errorf("measured %v", m)
	}
	k, err = openBook(path)
	if err != nil || len(k.Rows) != 2 || k.Rows[0].Unit != "s" || k.Rows[1].Unit != "new" {
		t.Errorf("the book holds %+v, %v", k.Rows, err)
	}
}

func TestBookDropsWhatIsNoLongerMeasured(t *testing.T) {
	k := &book{made: map[string]bool{}}
	for _, id := range []string{"vault/old", "vault/kept", "restore/old", "vaulted/other", "churn/raw/held"} {
		k.Rows = append(k.Rows, row{ID: id})
	}
	if err := errors.Join(k.add(row{ID: "vault/kept"}), k.settle("restore+vault")); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, r := range k.Rows {
		ids = append(ids, r.ID)
	}
	if want := []string{"vault/kept", "vaulted/other", "churn/raw/held"}; !slices.Equal(ids, want) {
		t.Errorf("the book holds %v, want %v", ids, want)
	}
}
