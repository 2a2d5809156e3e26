package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestExcerpt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "README.md")
	if err := os.WriteFile(path, []byte("before\n"+excerptBegin+"old\n"+excerptEnd+"after\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	k := &book{Rows: []row{
		{ID: "rpo/50/p50", Unit: "s", Value: spread{0.17, 0.1, 0.2}}, {ID: "rpo/50/p99", Unit: "s", Value: spread{0.32, 0.1, 0.9}},
		{ID: "vault/lz4", Unit: "×", Value: spread{1, 1, 1}}, // its line wants another one too
	}}
	if err := writeExcerpt(path, k); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	want := "before\n" + excerptBegin + "| figure | measured |\n|---|---|\n| RPO at 50 MB/s: p50, p99 | 0.17 s, 0.32 s |\n" + excerptEnd + "after\n"
	if err != nil || string(got) != want {
		t.Errorf("the document became\n%s\n%v", got, err)
	}
	if err := os.WriteFile(path, []byte("nothing\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if writeExcerpt(path, k) == nil {
		t.Error("a document without a place took an excerpt")
	}
}

// TestHeadlinesAreMeasured: what README promises to show, the page has.
func TestHeadlinesAreMeasured(t *testing.T) {
	k, err := openBook("../RESULTS.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headlines {
		if strings.Count(h.form, "%s") != len(h.ids) {
			t.Errorf("%q shows %d rows in %q", h.what, len(h.ids), h.form)
		}
		for _, id := range h.ids {
			if !slices.ContainsFunc(k.Rows, func(r row) bool { return r.ID == id }) {
				t.Errorf("%q shows %s, which was never measured", h.what, id)
			}
		}
	}
	readme, err := os.ReadFile("../../README.md")
	if err != nil || !strings.Contains(string(readme), excerptBegin+excerpt(k)+excerptEnd) {
		t.Errorf("README shows other figures than the page: run make bench ONLY=none (%v)", err)
	}
}
