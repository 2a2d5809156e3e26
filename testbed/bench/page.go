package main

import (
	"cmp"
	_ "embed"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// group is a part of the page: rows whose id begins with its name.
type group struct {
	name, title string
	means       string // what the figures say, and how they are made
}

var groups = []group{
	{"guest", "What protection costs the guest", `fio on a loop device, unprotected and protected in turns. *map*: the kernel keeps the dirty map only. *full*: every
write is captured with its data, cut into frames as the agent does, and dropped. *shipped*: the real agent and the real
control plane take everything, on the same processors as fio. *memory* is a file in tmpfs, the worst case: nothing is
slower than the capture. *disk* is a file on this machine's real disk, O_DIRECT and O_DSYNC, so that each write waits
for the disk.`},
	{"churn", "Churn, and what it costs", `Direct writes of 128 KiB at random places of a disk in memory, at a steady rate; agent and control plane with default
settings on the same processors as the writer. *held*: the highest rate of a ladder without one fallback to the dirty
map. Processor time is from the write to the commit in the vault, at the rate
that ends the name, MB/s. *mixed* data packs to about six tenths by LZ4, *raw* not at all.`},
	{"rpo", "RPO", `The age of the newest recoverable point as the operator sees it, asked ten times a second under steady churn of mixed
data; the policy asks for 3 s.`},
	{"copy", "Initial copy and catch-up", `Speed compared with tools that copy disks, from the same loop device to the same real disk, caches dropped before each.
Ours lasts from the operator's command to the first recoverable point in the vault: over TLS, compressed, encrypted,
checksummed and synced. Theirs lasts until what they wrote is synced. *full* is a disk that is all data; *half* an ext4 of
which half is deleted files. Then 1% changes: *again-hash* is the agent that nobody told what changed (after a crash),
*again-map* the one whose kernel knew.`},
	{"vault", "What the vault takes", `The same history kept by us, thinned to the same points, by restic and by borg. Unique churn is what the points can
see: of each stretch between two points the last version of each 4 KiB block.`},
	{"restore", "Restore", `The newest and a middle point of that history as a raw file on stable storage, with cold caches; and random reads over
NBD from the vault with nothing copied first, against nbdkit serving a raw image.`},
	{"fleet", "One control plane, many agents", `Simulated agents with the agent's own code for enrolment and shipping, in one process on the same processors as the
control plane. First each sends a frame a second: the time to the acknowledgement. Then all send what is taken.`},
}

//go:embed notes.md
var notesText string

// writePage makes the page of all that the book holds.
func writePage(path string, k *book) error {
	p := &page{notes: parseNotes(notesText)}
	p.head(k)
	if err := p.proofs(k.Proofs); err != nil {
		return err
	}
	for _, g := range groups {
		p.group(g, rowsBelow(k.Rows, g.name))
	}
	p.missed(k.Rows)
	p.hostList()
	return os.WriteFile(path, []byte(p.text.String()), 0o644)
}

// page is one in the making.
type page struct {
	text  strings.Builder
	hosts []string // numbered from 1
	notes []note
}

func (p *page) printf(format string, a ...any) { fmt.Fprintf(&p.text, format, a...) }

func (p *page) head(k *book) {
	p.printf(`# Results

<!-- Written by make bench; change the code or testbed/bench/notes.md, not this page. -->

Everything here was measured by commands of this repository and can be measured again:

    make bench                  # all rows and this page, on a machine that does nothing else
    make bench ONLY=guest/disk  # some rows; the others stay, with their own dates
    make bench-quick            # to try a change by

A ratio comes from things done in turns within one run; it is the median over the rounds, with the extremes in brackets.
*noise* is the same ratio of two turns in which nothing differed: what is not clearly outside of it says nothing. *load* is the
machine's load average when the row was done; the bench itself makes 1 to 4 of it.

`)
	p.printf("| to reach | reached | target |\n|---|---|---|\n")
	for _, r := range k.Rows {
		if r.Target != 0 {
			p.printf("| %s (`%s`) | %s | %s |\n", r.What, r.ID, spreadText(r.Value, r.Unit), targetText(r))
		}
	}
}

func (p *page) group(g group, rows []row) {
	if len(rows) == 0 {
		return
	}
	p.printf("\n## %s\n\n%s\n\n", g.title, g.means)
	if n := p.noteOn(g.name); n != "" {
		p.printf("%s\n\n", n)
	}
	p.printf("| figure | what | median | better | samples | noise | ours | theirs | target | measured |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		c := cells(r)
		p.printf("| `%s` | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", strings.TrimPrefix(r.ID, g.name+"/"), c[0], c[1], c[2], c[3], c[4], c[6], c[7], c[5], p.measured(r))
	}
	p.remarks(rows)
	p.tools(rows)
	p.printf("\nAgain: `make bench ONLY=%s`.\n", g.name)
}

// remarks are what happened during the measurements, each once.
func (p *page) remarks(rows []row) {
	var said []string
	for _, r := range rows {
		if r.Note != "" && !slices.Contains(said, r.Note) {
			if len(said) == 0 {
				p.printf("\n")
			}
			said = append(said, r.Note)
			p.printf("- `%s`: %s\n", r.ID, r.Note)
		}
	}
}

// tools are the programs beside ours and their command lines, each once.
func (p *page) tools(rows []row) {
	var all []string
	for _, r := range rows {
		all = append(all, r.Tools...)
	}
	slices.Sort(all)
	for i, t := range slices.Compact(all) {
		if i == 0 {
			p.printf("\n")
		}
		if version, script, ok := strings.Cut(t, ": "); ok {
			p.printf("- %s: `%s`\n", version, script)
		} else {
			p.printf("- %s\n", t)
		}
	}
}

// measured is when, on which of the hosts listed at the end, and what else they did.
func (p *page) measured(r row) string {
	where := fmt.Sprintf("%s; understudy %s", r.Host, r.Build)
	i := slices.Index(p.hosts, where)
	if i < 0 {
		i = len(p.hosts)
		p.hosts = append(p.hosts, where)
	}
	quick := ""
	if r.Quick {
		quick = ", quick"
	}
	one, _, _ := strings.Cut(r.Load, " ")
	return fmt.Sprintf("%s [%d], load %s%s", r.Date.Format(time.DateTime)[:16], i+1, one, quick)
}

func (p *page) hostList() {
	p.printf("\n## Where\n\n")
	for i, h := range p.hosts {
		p.printf("- [%d] %s\n", i+1, h)
	}
}

// missed are the targets that were not reached, and why.
func (p *page) missed(rows []row) {
	rows = slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return r.met() })
	if len(rows) == 0 {
		return
	}
	p.printf("\n## Not reached\n\n")
	for _, r := range rows {
		why := cmp.Or(p.noteOn("missed/"+r.ID), "Not explained yet.")
		p.printf("- `%s`: %s, wanted %s. %s\n", r.ID, spreadText(r.Value, r.Unit), strings.TrimSuffix(targetText(r), ": no"), why)
	}
}

func rowsBelow(rows []row, name string) (out []row) {
	for _, r := range rows {
		if strings.HasPrefix(r.ID, name+"/") {
			out = append(out, r)
		}
	}
	slices.SortStableFunc(out, func(a, b row) int { return cmp.Compare(caseOf(a.ID), caseOf(b.ID)) })
	return out
}

// caseOf is where a row's id belongs: rows that were measured again later stay with
// their kind, which stays in the order in which it was measured first.
func caseOf(id string) int {
	return slices.IndexFunc(cases, func(c benchCase) bool {
		return slices.ContainsFunc(strings.Split(c.name, "+"), func(name string) bool { return strings.HasPrefix(id, name+"/") })
	})
}
