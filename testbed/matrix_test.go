//go:build testbed

package testbed

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/guest"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// matrix pairs the kernels with the buses and with what file systems lie on: each of
// these three with each other would take a day, each value several times in this.
var matrix = []struct {
	suite string // Debian's, of the kernel
	bus   guest.Bus
	stack string
}{
	{"bullseye", guest.VirtioBlk, "partitions, swap"},
	{"bullseye", guest.VirtioSCSI, "LVM linear"},
	{"bullseye", guest.NVMe, "md raid1"},
	{"bookworm", guest.VirtioSCSI, "partitions, swap"},
	{"bookworm", guest.VirtioBlk, "LVM thin"},
	{"bookworm", guest.NVMe, "dm-crypt"},
	{"bookworm", guest.VirtioBlk, "md raid0"},
	{"trixie", guest.NVMe, "partitions, swap"},
	{"trixie", guest.VirtioSCSI, "LVM thin"},
	{"trixie", guest.VirtioBlk, "xfs on the disk"},
	{"sid", guest.VirtioBlk, "partitions, swap"},
	{"sid", guest.VirtioSCSI, "LVM linear"},
	{"sid", guest.NVMe, "xfs on the disk"},
}

// matrixPoints are recovered and judged of each machine.
const matrixPoints = 5

// matrixRow is what a machine of the matrix has shown.
type matrixRow struct {
	Date        time.Time `json:"date"`
	Kernel      string    `json:"kernel"`
	Suite       string    `json:"suite"`
	Hook        string    `json:"hook"`
	Bus         string    `json:"bus"`
	Stack       string    `json:"stack"`
	Points      int       `json:"points"`       // recovered, and all of them right
	Values      int       `json:"values"`       // acknowledged before their point, looked for and found
	FileSystems int       `json:"file_systems"` // checked after the journal's replay
	Passthrough string    `json:"passthrough"`  // what came of a write past the block layer
}

// TestMatrix: the prefix proof in real machines. Whatever kernel, bus and stack, under
// load and with the agent killed: points drawn at random are put together again in
// another machine, checked and judged; at rest the replica equals the disks byte by byte;
// a write past the block layer is detected and resynced by name.
func TestMatrix(t *testing.T) {
	for _, m := range matrix {
		t.Run(fmt.Sprintf("%s/%s/%s", m.suite, m.bus, m.stack), func(t *testing.T) {
			r := newMatrixRig(t, m.suite, m.bus, stacks[m.stack])
			r.row.Stack = m.stack
			r.live()
			r.judgePoints()
			r.equal("at rest")
			r.bypass()
			r.must(keepRow(r.row))
		})
	}
}

// matrixRig is a guest of the matrix.
type matrixRig struct {
	*guestRig
	bus   guest.Bus
	stack stack
	row   matrixRow
	begun time.Time // the guest's clock when its first point could be had
}

func newMatrixRig(t *testing.T, suite string, bus guest.Bus, s stack) *matrixRig {
	t.Helper()
	k := guestKind{
		recipe: guest.Recipe{KernelSuite: suite, Packages: stackTools},
		disks:  []guest.Disk{{Name: "a", Size: s.size, Bus: bus}, {Name: "b", Size: s.size, Bus: bus}},
		nodes:  nodes, make: onDisks(nodes, s.make), seed: 2, pause: 100 * time.Millisecond, quiet: true,
		spill: 256 * mib, // an emulated agent is slower than what it protects
	}
	for _, d := range s.data {
		name, _, _ := strings.Cut(d, "=")
		k.data = append(k.data, d+"=/srv/"+name)
	}
	r := &matrixRig{guestRig: protectedGuest(t, k), bus: bus, stack: s}
	r.row = matrixRow{Date: time.Now().UTC().Truncate(time.Second), Suite: suite, Bus: string(bus), Kernel: r.run("uname -r"),
		Hook: r.run(`grep -o 'hook=[a-z_]*' /var/log/agent.log | tail -n 1 | cut -d= -f2`)}
	return r
}

// onDisks is a script that finds its disks in $A and $B.
func onDisks(nodes []string, script string) string {
	return fmt.Sprintf("%s\nA=%s B=%s\n%s", stackVerbs, nodes[0], nodes[1], script)
}

// live lets the machine work, kill -9 its agent in the middle of it, and rest at last.
func (r *matrixRig) live() {
	r.t.Helper()
	r.run("systemctl start load")
	lines := r.promisedSince(0)
	r.begun = r.now() // the files that every point must have are there
	r.guestRig.live(10 * time.Second)
	r.must(r.guest.Kill9(r.t.Context(), "understudy-agent"))
	lines = r.promisedSince(lines)
	r.run(onDisks(nodes, r.stack.during))
	r.guestRig.live(15 * time.Second)
	r.promisedSince(lines)
	r.untilPoint(r.now())
	r.run("systemctl stop load; " + onDisks(nodes, r.stack.undo) + "\nsync")
	r.untilPoint(r.now())
	r.wantEpoch(1)
}

// judgePoints recovers points and has another machine look at them: this one's kernel
// need not know what they are made of.
func (r *matrixRig) judgePoints() {
	r.t.Helper()
	ctx := r.t.Context()
	points := r.points(r.begun, r.now())
	if len(points) < 4*matrixPoints {
		r.t.Fatalf("%d points only", len(points))
	}
	rand.Shuffle(len(points), func(i, j int) { points[i], points[j] = points[j], points[i] })
	points = points[:matrixPoints]
	slices.SortFunc(points, func(a, b lab.Point) int { return a.Time.Compare(b.Time) })
	image, err := guest.Build(ctx, guest.Recipe{Packages: stackTools})
	r.must(err)
	judge, err := guest.Boot(ctx, r.Lab, guest.Options{Name: "judge", Image: image})
	r.must(err)
	r.must(errors.Join(judge.Put(ctx, r.bin+"/guest-load", "/usr/local/bin/load"), judge.Put(ctx, r.guest.Lines(), "/root/lines")))
	for _, p := range points {
		files, err := r.recover(p.ID).Files(r.disks)
		r.must(err)
		v := r.ask(judge, files, p.Time)
		if len(v.Wrong) > 0 || v.Problem != "" {
			r.t.Fatalf("point %s of %s: wrong are %s: %s", p.ID, p.Time, strings.Join(v.Wrong, ", "), v.Problem)
		}
		r.row.Points, r.row.Values, r.row.FileSystems = r.row.Points+1, r.row.Values+v.Checked, r.row.FileSystems+v.Clean
	}
	// The judge is judged: the oldest of them is not the state of a later moment.
	files, err := r.recover(points[0].ID).Files(r.disks)
	r.must(err)
	if v := r.ask(judge, files, r.now()); len(v.Wrong) == 0 {
		r.t.Errorf("point %s of %s passes for one of now", points[0].ID, points[0].Time)
	}
	if r.row.Values == 0 {
		r.t.Error("no value was acknowledged before any of the points: this proves too little")
	}
	r.must(judge.Shutdown(ctx))
}

// verdict is what the judge prints.
type verdict struct {
	Checked, Clean int
	Wrong          []string
	Problem        string
}

// ask plugs recovered disks into the judge and lets it look.
func (r *matrixRig) ask(judge *guest.Guest, files map[string]string, at time.Time) (v verdict) {
	r.t.Helper()
	ctx := r.t.Context()
	var plugged []string
	for _, d := range r.disks {
		node, err := judge.Plug(ctx, guest.Disk{Name: d.Name, File: files[d.Name]})
		r.must(err)
		plugged = append(plugged, node)
	}
	out, err := judge.Run(ctx, onDisks(plugged, fmt.Sprintf("found=$(%s\n)\nload -judge %s -ledger /root/lines -seed %d $found",
		r.stack.find, at.UTC().Format(time.RFC3339Nano), r.kind.seed)))
	r.must(err)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		r.t.Fatalf("the judge said %q: %v", out, err)
	}
	_, err = judge.Run(ctx, onDisks(plugged, r.stack.undo))
	r.must(err)
	for i, d := range r.disks {
		r.must(judge.Unplug(ctx, d.Name, plugged[i]))
	}
	return v
}

// equal compares the disks, which nobody writes to, with the newest point.
func (r *matrixRig) equal(when string) {
	r.t.Helper()
	r.untilPoint(r.now())
	files, err := r.recover("latest").Files(r.disks)
	r.must(err)
	for _, d := range r.disks {
		if err := lab.SameBytes(r.guest.Disks[d.Name], files[d.Name]); err != nil {
			r.t.Errorf("disk %s %s: %v", d.Name, when, err)
		}
	}
}

// bypass writes past the block layer, where the bus has a way, and wants that found out.
func (r *matrixRig) bypass() {
	r.t.Helper()
	script := passthrough[r.bus]
	if script == "" {
		r.row.Passthrough = "the bus has none"
		return
	}
	r.run(onDisks(nodes, script))
	p := r.untilEpochAfter(1)
	if p.Reason != "passthrough-write" {
		r.t.Errorf("epoch %d began for %q, want passthrough-write", p.Epoch, p.Reason)
	}
	r.wantEvent("passthrough-write")
	r.equal("after a write past the block layer")
	r.row.Passthrough = "detected, resynced by name"
}

// Where the rows are kept, and the page that is made of them.
const (
	matrixJSON = "MATRIX.json"
	matrixPage = "MATRIX.md"
)

const matrixHead = `# What kernels and disks were tried

Written by ` + "`make matrix`" + `: each row is a Debian guest, emulated, with two disks that were
protected while applications wrote to them, its agent killed in the middle. Points drawn
at random were recovered by the operator's command and put together again in another
guest; every file system was clean after its journal's replay, every value acknowledged
before its point was there and none from later, and at rest the replica equalled the
disks byte by byte. ` + "`make matrix ONLY='sid/.*/LVM'`" + ` repeats some.

| kernel | hook | bus | on it | points | values | file systems | written past the block layer | date |
|---|---|---|---|---|---|---|---|---|
`

// keepRow puts a row in the place of the one of the same machine, and makes the page.
func keepRow(row matrixRow) error {
	var rows []matrixRow
	raw, err := os.ReadFile(matrixJSON)
	if err == nil {
		err = json.Unmarshal(raw, &rows)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	rows = slices.DeleteFunc(rows, func(o matrixRow) bool {
		return o.Suite == row.Suite && o.Bus == row.Bus && o.Stack == row.Stack
	})
	rows = append(rows, row)
	slices.SortFunc(rows, func(a, b matrixRow) int {
		return cmp.Or(cmp.Compare(suites[a.Suite], suites[b.Suite]), cmp.Compare(a.Stack, b.Stack), cmp.Compare(a.Bus, b.Bus))
	})
	if raw, err = json.MarshalIndent(rows, "", "\t"); err != nil {
		return err
	}
	page := matrixHead
	for _, o := range rows {
		page += fmt.Sprintf("| %s | %s | %s | %s | %d | %d | %d | %s | %s |\n", o.Kernel, o.Hook, o.Bus, o.Stack, o.Points, o.Values, o.FileSystems,
			o.Passthrough, o.Date.Format(time.DateOnly))
	}
	return errors.Join(os.WriteFile(matrixJSON, append(raw, '\n'), 0o644), os.WriteFile(matrixPage, []byte(page), 0o644))
}

// suites are in the order of their kernels.
var suites = map[string]int{"bullseye": 1, "bookworm": 2, "trixie": 3, "sid": 4}
