//go:build testbed

package testbed

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/testbed/lab"
)

var (
	prefixPoints = flag.Int("prefix.points", 0, "points that TestPrefixProof recovers (default 200, with -short 24)")
	prefixSeed   = flag.Uint64("prefix.seed", 0, "seed of the points and disturbances of TestPrefixProof (default: a new one)")
	prefixKeep   = flag.String("prefix.keep", "", "directory for the vault and the ledger of a TestPrefixProof that fails")
	prefixKept   = flag.String("prefix.kept", "", "directory that -prefix.keep named, for TestPrefixAgain")
	prefixPoint  = flag.String("prefix.point", "latest", "the point that TestPrefixAgain recovers and judges")
	prefixJSON   = flag.String("prefix.json", "", "where TestPrefixProof writes its figures (default out/prefix.json, with -short out/prefix-short.json)")
)

// TestPrefixProof: a recovery point is exactly what a power cut at its moment would
// have left, on all disks at once. A machine with ext4, xfs and btrfs runs logs,
// databases, renames, direct writes and storms of metadata while agent and control
// plane are killed, the ring overflows, the journal spills and the vault is thinned.
// Points drawn at random are recovered by the operator's command and judged: file
// systems after their journal's replay, every acknowledged value, none from later.
//
// The judge is judged, too: the same history with 2% of its records late must not pass.
func TestPrefixProof(t *testing.T) {
	p := newProof(t)
	p.history()
	p.control()
	p.checkAll()
	p.conclude()
}

// proof is a prefix proof under way.
type proof struct {
	*rig
	random  *rand.Rand
	started time.Time
	past    *vault.Machine
	pool    pool
	metrics string // the agent's address
	calm    time.Time
	made    atomic.Int64 // recoveries

	mu      sync.Mutex
	figures figures
}

// figures are what a proof found, in one flat object for whoever makes a page of it.
type figures struct {
	What    string    `json:"what"`
	Date    time.Time `json:"date"`
	Kernel  string    `json:"kernel"`
	Seed    uint64    `json:"seed"`
	Seconds float64   `json:"seconds"`

	Points      int `json:"points"`       // recovered and judged
	Values      int `json:"values"`       // acknowledged before their point, looked for and found
	FileSystems int `json:"file_systems"` // checked after the journal's replay
	Streams     int `json:"streams"`      // applications, each disk's and those over all disks
	Promised    int `json:"promised"`     // values acknowledged in the whole history
	Among       int `json:"points_made"`  // points among which they were drawn
	Thinned     int `json:"points_thinned"`
	InThinned   int `json:"points_in_thinned_history"` // judged when all their neighbours had been thinned away
	Epochs      int `json:"epochs"`

	AgentKills        int   `json:"agent_kills"`
	ControlPlaneKills int   `json:"control_plane_kills"`
	RingOverflows     int   `json:"ring_overflows"`
	Spills            int   `json:"spills"`
	SpillBytes        int64 `json:"spill_bytes_max"`

	ControlPoints    int     `json:"control_points"`
	ControlShare     float64 `json:"control_delayed_share"`
	ControlDelayed   int     `json:"control_delayed_records"`
	ControlCaught    int     `json:"control_points_refused"`
	ControlByExt4    int     `json:"control_refused_by_e2fsck"`
	ControlByXFS     int     `json:"control_refused_by_xfs_repair"`
	ControlByBtrfs   int     `json:"control_refused_by_btrfs_check"`
	ControlByValues  int     `json:"control_refused_by_values"`
	ControlUndelayed int     `json:"control_undelayed_points_refused"`
}

const (
	proofRing   = 32 * mib // small, so that a burst overflows it
	proofMemory = 8 * mib
	proofSpill  = 256 * mib
	proofKeep   = 20 * time.Second // how long points are kept that nobody locked
)

func newProof(t *testing.T) *proof {
	t.Helper()
	seed := *prefixSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("to repeat its choices: go test -tags testbed ./testbed -run TestPrefixProof -prefix.seed=%d", seed)
	metrics, err := lab.FreeAddr(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	p := &proof{metrics: metrics, random: rand.New(rand.NewPCG(seed, 1))}
	p.rig = protected(t, setup{
		disks: []string{lab.Ext4, lab.XFS, lab.Btrfs},
		agent: []string{"--ring-bytes", inBytes(proofRing), "--memory-bytes", inBytes(proofMemory), "--spill-bytes", inBytes(proofSpill), "--metrics-listen", metrics},
		work: func(w *lab.Workload) {
			w.Widen()
			w.Pause, w.Churn, w.Trim = 10*time.Millisecond, mib, 3*time.Second
		},
	})
	p.started = time.Now() // now: other scenarios may have gone first
	p.figures = figures{What: "prefix proof", Date: p.started.UTC(), Kernel: kernel(t), Seed: seed, ControlShare: controlShare}
	p.must(p.machine.KeepAll(t.Context(), proofKeep))
	p.past, err = p.machine.History(t.Context())
	p.must(err)
	p.pool = pool{past: p.past, random: rand.New(rand.NewPCG(seed, 2))}
	t.Cleanup(p.keep)
	return p
}

// keep keeps what a point that failed can be judged by again.
func (p *proof) keep() {
	switch {
	case !p.t.Failed():
	case *prefixKeep == "":
		p.t.Log("with -prefix.keep=DIR the vault and the ledger would have been kept")
	default:
		p.t.Logf("kept in %s (%v); to judge a point again: go test -tags testbed ./testbed -run TestPrefixAgain -prefix.kept=%[1]s -prefix.point=POINT",
			*prefixKeep, p.machine.Keep(context.WithoutCancel(p.t.Context()), *prefixKeep, p.work))
	}
}

// TestPrefixAgain judges one point of a proof that failed and was kept.
func TestPrefixAgain(t *testing.T) {
	if *prefixKept == "" {
		t.Skip("nothing was kept: -prefix.kept names what -prefix.keep did")
	}
	l, err := lab.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l.CloseOnSignal()
	r := &rig{Lab: l, t: t}
	t.Cleanup(r.close)
	r.machine, r.work, err = l.OpenKept(t.Context(), binaries(t), *prefixKept)
	r.must(err)
	r.disks = r.work.Disks()
	r.verify(*prefixPoint)
}

func kernel(t *testing.T) string {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	return unix.ByteSliceToString(u.Release[:])
}

// wanted is how many points are recovered.
func wanted() int {
	switch {
	case *prefixPoints > 0:
		return *prefixPoints
	case testing.Short():
		return 24
	default:
		return 200
	}
}

// checkAll recovers points drawn from the pool, two at a time, as many as are still
// wanted, and stops at the third that fails.
func (p *proof) checkAll() {
	p.t.Helper()
	points := p.pool.draw(wanted() - p.figures.Points)
	if p.figures.Points+len(points) < wanted() {
		p.t.Fatalf("only %d points to draw from, %d wanted: the history was too short", p.figures.Points+len(points), wanted())
	}
	work := make(chan vault.Point)
	var failed atomic.Int32
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for q := range work {
				if err := p.check(q); err != nil {
					failed.Add(1)
					p.t.Errorf("point %v of %s: %v", q.Position, q.Time.Format(time.RFC3339Nano), err)
				}
			}
		})
	}
	for _, q := range points {
		if failed.Load() >= 3 {
			break
		}
		work <- q
	}
	close(work)
	wg.Wait()
}

// check recovers one point by the operator's command and judges it.
func (p *proof) check(q vault.Point) (err error) {
	ctx := p.t.Context()
	alone, err := p.isAlone(q)
	if err != nil {
		return err
	}
	got, err := p.machine.Recover(ctx, q.Position.String(), p.scratch("recovered"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.machine.CleanUp(ctx, got)) }()
	if !got.Point.Time.Equal(q.Time) || got.Point.ID != q.Position.String() {
		return fmt.Errorf("recovered %s of %s instead", got.Point.ID, got.Point.Time)
	}
	files, err := got.Files(p.disks)
	if err != nil {
		return err
	}
	v, err := p.work.Verify(ctx, p.Lab, files, q.Time)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.figures.Points++
	p.figures.Values += v.Checked
	p.figures.FileSystems += v.Clean
	p.figures.Streams = len(v.Streams)
	if alone {
		p.figures.InThinned++
	}
	return nil
}

// isAlone reports whether the points around this one have been thinned away.
func (p *proof) isAlone(q vault.Point) (bool, error) {
	around, err := p.past.Points(p.t.Context(), q.Time.Add(-3*time.Second), q.Time.Add(3*time.Second))
	for _, other := range around {
		if !other.Locked {
			return false, err
		}
	}
	return true, err
}

// scratch is a new directory in memory.
func (p *proof) scratch(name string) string {
	return filepath.Join(p.RunDir(), fmt.Sprintf("%s-%d", name, p.made.Add(1)))
}

// conclude writes the figures and fails if the proof proved nothing.
func (p *proof) conclude() {
	p.t.Helper()
	f := &p.figures
	left, err := p.past.Points(p.t.Context(), time.Time{}, p.pool.end)
	p.must(err)
	epochs, err := p.past.Epochs(p.t.Context())
	p.must(err)
	f.Among, f.Thinned, f.Epochs, f.Promised = p.pool.seen, p.pool.seen-len(left), len(epochs), p.ledger.Acked()
	f.Seconds = time.Since(p.started).Seconds()
	line, err := json.Marshal(f)
	p.must(err)
	p.t.Logf("%s", line)
	if p.t.Failed() {
		return
	}
	if f.Values == 0 || f.InThinned == 0 || f.Thinned == 0 || f.AgentKills == 0 || f.ControlPlaneKills == 0 || f.RingOverflows == 0 || f.SpillBytes == 0 {
		p.t.Error("something that should have happened did not: this proves less than it says")
	}
	p.must(p.site.Vault(p.t.Context(), "check"))
	file := cmp.Or(*prefixJSON, "out/prefix.json")
	if *prefixJSON == "" && testing.Short() {
		file = "out/prefix-short.json"
	}
	p.must(os.MkdirAll(filepath.Dir(file), 0o755))
	p.must(os.WriteFile(file, append(line, '\n'), 0o644))
}
