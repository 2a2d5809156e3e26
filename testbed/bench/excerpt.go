package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
)

// headline is a line of the few figures that a user chooses by.
type headline struct {
	what string
	ids  []string // of the rows shown, in this order
	form string   // with a %s for each
}

var headlines = []headline{
	{"what a guest keeps of its 4 KiB random writes, each synced to a disk: one at a time, sixteen at once", []string{"guest/disk/4k-qd1/full/iops", "guest/disk/4k-qd16/full/iops"}, "%s, %s of its IOPS"},
	{"the same on a disk in memory, the worst case", []string{"guest/memory/4k-qd1/full/iops", "guest/memory/4k-qd16/full/iops"}, "%s, %s"},
	{"churn held by one machine, beside its writer and the control plane", []string{"churn/mixed/held"}, "%s"},
	{"processor time for a GiB of churn at 200 MB/s: agent, control plane", []string{"churn/mixed/cpu-agent-200", "churn/mixed/cpu-relay-200"}, "%s, %s"},
	{"RPO at 50 MB/s: p50, p99", []string{"rpo/50/p50", "rpo/50/p99"}, "%s, %s"},
	{"speed of the first copy of a full disk, against nbdcopy, bdsync and restic", []string{"copy/full/initial/nbdcopy", "copy/full/initial/bdsync", "copy/full/initial/restic"}, "%s, %s, %s"},
	{"catch-up of 1% that the kernel kept count of, against a new nbdcopy", []string{"copy/full/again-map/nbdcopy"}, "%s"},
	{"vault, against LZ4 of all that its points can see; against restic", []string{"vault/lz4", "vault/restic"}, "%s, %s of the bytes"},
	{"speed of a restore to a raw file, against cp of an image and restic", []string{"restore/latest/cp", "restore/latest/restic"}, "%s, %s"},
	{"memory of a control plane with 1,000 agents", []string{"fleet/1000/memory"}, "%s"},
}

// Between these lines of the README the excerpt stands.
const (
	excerptBegin = "<!-- figures: written by make bench -->\n"
	excerptEnd   = "<!-- end of figures -->\n"
)

// writeExcerpt puts the headlines into a document that has a place for them.
func writeExcerpt(path string, k *book) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, ok1 := bytes.Cut(text, []byte(excerptBegin))
	_, after, ok2 := bytes.Cut(rest, []byte(excerptEnd))
	if !ok1 || !ok2 {
		return fmt.Errorf("%s has no place for figures: between %q and %q", path, strings.TrimSpace(excerptBegin), strings.TrimSpace(excerptEnd))
	}
	out := slices.Concat(before, []byte(excerptBegin), []byte(excerpt(k)), []byte(excerptEnd), after)
	return os.WriteFile(path, out, 0o644)
}

// excerpt is the table. A line of which a row is missing is left out.
func excerpt(k *book) string {
	var b strings.Builder
	b.WriteString("| figure | measured |\n|---|---|\n")
	for _, h := range headlines {
		var values []any
		for _, id := range h.ids {
			if i := slices.IndexFunc(k.Rows, func(r row) bool { return r.ID == id }); i >= 0 {
				values = append(values, short(k.Rows[i]))
			}
		}
		if len(values) == len(h.ids) {
			fmt.Fprintf(&b, "| %s | %s |\n", h.what, fmt.Sprintf(h.form, values...))
		}
	}
	return b.String()
}

// short is a row's median, without its spread.
func short(r row) string {
	return spreadText(spread{r.Value.Median, r.Value.Median, r.Value.Median}, r.Unit)
}
