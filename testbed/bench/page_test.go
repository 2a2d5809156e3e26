package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPage(t *testing.T) {
	dir := t.TempDir()
	proofs := map[string]string{
		"prefix.json":       `{"what":"prefix proof","date":"2026-11-23T21:43:34Z","kernel":"6.18","seed":5755506704107218137,"points":12000,"control_delayed_share":0.2}`,
		"prefix-short.json": `{"what":"prefix proof","points":7}`,
		"other.json":        `{"rows":[]}`,
	}
	for name, text := range proofs {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := time.Date(2026, 11, 23, 22, 10, 0, 0, time.UTC)
	h := host{Kernel: "6.18", CPU: "Fast", CPUs: 2, Memory: 24 * gib}
	k := &book{made: map[string]bool{}, Rows: []row{
		{ID: "guest/disk/4k-qd1/full/iops", What: "full", Unit: "×", Better: higher, Value: spread{0.9, 0.8, 0.95}, Target: 0.97, Date: at, Host: h, Build: "a", Load: "0.50 0.40 0.30"},
		{ID: "copy/full/initial/nbdcopy", What: "copy", Unit: "×", Better: higher, Value: spread{2, 2, 2}, Tools: []string{"nbdcopy 1: nbdcopy A B"}, Date: at, Host: h, Build: "b"},
		{ID: "guest/memory/4k-qd1/full/iops", What: "full", Unit: "×", Better: higher, Value: spread{0.9, 0.9, 0.9}, Target: 0.8, Date: at, Host: h, Build: "a", Load: "0.50 0.40 0.30"},
	}}
	if err := k.takeProofs(dir); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "page.md")
	if err := writePage(path, k); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for _, want := range []string{
		"**prefix proof** (2026-11-23T21:43, Linux 6.18)", "| seed | 5755506704107218137 |\n| points | 12,000 |\n| control delayed share | 0.20 |", "≥ 0.80: yes", "≥ 0.97: no", "2026-11-23 22:10 [1], load 0.50",
		"- [2] Linux 6.18, 2 × Fast, 24 GiB; understudy b", "- nbdcopy 1: `nbdcopy A B`", "- `guest/disk/4k-qd1/full/iops`: 0.90× (0.80-0.95), wanted ≥ 0.97.",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing", want)
		}
	}
	if strings.Index(text, "`memory/4k") > strings.Index(text, "`disk/4k-qd1/full/iops` | full") {
		t.Error("rows are not in the order of the cases")
	}
	if t.Failed() {
		t.Log(text)
	}
}

func TestNotes(t *testing.T) {
	p := &page{notes: parseNotes("What this is.\n\n## missed/churn/.*/held\nTwo processors\nare not more.\n\n## copy\nBuilt by hand.\n")}
	for id, want := range map[string]string{"missed/churn/raw/held": "Two processors are not more.", "copy": "Built by hand.", "missed/copy": "", "copying": ""} {
		if got := p.noteOn(id); got != want {
			t.Errorf("%s: %q, want %q", id, got, want)
		}
	}
}

// TestNotesAreUsed: a heading that no regexp can be made of would be lost in silence.
func TestNotesAreUsed(t *testing.T) {
	if got, want := len(parseNotes(notesText)), strings.Count("\n"+notesText, "\n## "); got != want || got == 0 {
		t.Errorf("%d of %d notes can be read", got, want)
	}
}
