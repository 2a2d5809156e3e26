//go:build testbed

package testbed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// setup is what a scenario wants to begin with. The zero setup is an ext4 and an xfs
// disk under a live workload, protected with an RPO target of 3 s.
type setup struct {
	disks   []string // their file systems; "" is a bare disk, which no workload uses
	size    int64    // of each, bytes
	seed    int      // megabytes on each before it is protected
	proxied bool     // the agent reaches the relay by TCP through rig.proxy
	serve   []string // more flags for serve
	agent   []string // more flags for the agent
	quiet   bool     // no workload
	work    func(*lab.Workload)
	// before is called when the disks are there and nothing runs yet.
	before func(*rig)
}

// rig is a scenario's world.
type rig struct {
	*lab.Lab
	t       *testing.T
	setup   setup
	site    *lab.Site
	machine *lab.Machine
	proxy   *lab.Proxy
	disks   []*lab.Disk // all
	ledger  *lab.Ledger
	work    *lab.Workload
	made    int // recoveries so far
	// patience stretches every wait: an emulated machine takes longer for all it does.
	patience time.Duration
}

const mib = 1 << 20

// inBytes is a size as a flag takes it.
func inBytes(n int64) string { return strconv.FormatInt(n, 10) }

// binaries is where make build puts them, or UNDERSTUDY_BIN.
func binaries(t *testing.T) string {
	t.Helper()
	bin, err := filepath.Abs(cmp.Or(os.Getenv("UNDERSTUDY_BIN"), "../bin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"understudy", "understudy-agent"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			t.Fatalf("%v: run make build, or make testbed", err)
		}
	}
	return bin
}

// newRig is a machine whose agent runs and whose disks are not protected yet.
func newRig(t *testing.T, s setup) *rig {
	t.Helper()
	t.Parallel() // they wait more than they work
	return newRigAlone(t, s)
}

// newRigAlone is newRig for what wants the machine for itself.
func newRigAlone(t *testing.T, s setup) *rig {
	t.Helper()
	l, err := lab.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l.CloseOnSignal()
	r := &rig{Lab: l, t: t, setup: s}
	t.Cleanup(r.close)
	r.furnish()
	if s.before != nil {
		s.before(r)
	}
	r.connect(binaries(t))
	return r
}

// protected is a rig with all disks protected and the workload going on.
func protected(t *testing.T, s setup) *rig {
	t.Helper()
	r := newRig(t, s)
	r.protect()
	return r
}

// protect protects all disks with an RPO target of 3 s, and waits for it.
func (r *rig) protect() {
	r.t.Helper()
	r.must(r.machine.SetRPO(r.t.Context(), 3*time.Second))
	r.must(r.machine.Protect(r.t.Context(), r.disks...))
	r.untilProtected()
}

func (r *rig) furnish() {
	r.t.Helper()
	ctx := r.t.Context()
	if r.setup.disks == nil {
		r.setup.disks = []string{lab.Ext4, lab.XFS}
	}
	if r.setup.size == 0 {
		r.setup.size = 384 * mib
	}
	if r.setup.seed == 0 {
		r.setup.seed = 16
	}
	var used []*lab.Disk
	for i, fs := range r.setup.disks {
		name := fmt.Sprintf("%s%d", fs, i)
		d, err := r.NewDisk(ctx, name, r.setup.size)
		r.must(err)
		r.disks = append(r.disks, d)
		if fs != "" {
			r.must(errors.Join(d.Format(ctx, fs), d.MountUp(ctx, false), lab.Seed(d, r.setup.seed)))
			used = append(used, d)
		}
	}
	var err error
	r.ledger, err = r.NewLedger()
	r.must(err)
	r.work = lab.NewWorkload(r.ledger, used...)
	r.work.Seeded = r.setup.seed
	if r.setup.work != nil {
		r.setup.work(r.work)
	}
	if !r.setup.quiet {
		r.must(r.work.Start(r.Lab))
	}
}

func (r *rig) connect(bin string) {
	r.t.Helper()
	ctx := r.t.Context()
	var err error
	r.site, err = r.NewSite(ctx, bin, r.setup.serve...)
	r.must(err)
	if r.setup.proxied {
		r.proxy, err = r.NewProxy(ctx, r.site.Relay)
		r.must(err)
		r.site.Advertise(r.proxy.Addr)
	}
	r.must(r.site.Start(ctx))
	r.machine = r.site.NewMachine("agent", r.setup.agent...)
	r.must(r.machine.Enrol(ctx))
	r.must(r.machine.Agent.Start())
}

func (r *rig) close() {
	if !r.t.Failed() {
		if err := r.Close(); err != nil {
			r.t.Error(err)
		}
		return
	}
	logs, err := r.CloseKeepingLogs()
	r.t.Logf("logs are in %s (%v)", logs, err)
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// view is how the operator sees the machine now.
func (r *rig) view() lab.View {
	r.t.Helper()
	v, err := r.machine.Show(r.t.Context())
	r.must(err)
	return v
}

// until waits for something in the machine's view.
func (r *rig) until(limit time.Duration, what string, is func(lab.View) bool) lab.View {
	r.t.Helper()
	var last lab.View
	err := lab.Until(r.t.Context(), limit*max(1, r.patience), what, func() (bool, error) {
		v, err := r.machine.Show(r.t.Context())
		if err != nil {
			return false, err
		}
		last = v
		if is(v) {
			return true, nil
		}
		return false, fmt.Errorf("machine is %s (%s), epoch %s", v.Status.State, v.Status.Message, epochOf(v))
	})
	if err != nil {
		r.t.Fatalf("%v%s", err, r.agentTail())
	}
	return last
}

// agentTail is the end of the agent's log, if it runs here.
func (r *rig) agentTail() string {
	if r.machine.Agent == nil {
		return ""
	}
	return r.machine.Agent.Tail()
}

// reported waits for what the agent says after this call.
func (r *rig) reported() *desired.Protection {
	r.t.Helper()
	since := time.Now()
	return r.until(20*time.Second, "report of the agent", func(v lab.View) bool {
		return v.Reported.After(since) && v.Protection != nil
	}).Protection
}

func epochOf(v lab.View) string {
	if v.Protection == nil {
		return "none"
	}
	return fmt.Sprintf("%d (%s, %s)", v.Protection.Epoch, v.Protection.Reason, v.Protection.Phase)
}

func (r *rig) untilProtected() lab.View {
	r.t.Helper()
	return r.until(60*time.Second, "protection", func(v lab.View) bool { return v.Status.State == "Protected" })
}

// untilEpoch waits until an epoch after this one protects the machine, and returns it.
func (r *rig) untilEpochAfter(epoch uint64) *desired.Protection {
	r.t.Helper()
	return r.until(60*time.Second, fmt.Sprintf("protection in an epoch after %d", epoch), func(v lab.View) bool {
		return v.Status.State == "Protected" && v.Protection != nil && uint64(v.Protection.Epoch) > epoch
	}).Protection
}

// wantEpoch fails if there was a resync.
func (r *rig) wantEpoch(want uint64) {
	r.t.Helper()
	if p := r.reported(); uint64(p.Epoch) != want {
		r.t.Errorf("epoch %d (%s), want %d: there was a resync", p.Epoch, p.Reason, want)
	}
}

// untilPoint waits until a point at or after this moment can be recovered.
func (r *rig) untilPoint(at time.Time) time.Time {
	r.t.Helper()
	return r.until(60*time.Second, "point after "+at.Format("15:04:05.000"), func(v lab.View) bool {
		return !v.PointTime().Before(at)
	}).PointTime()
}

// recover materialises a point: latest, an id or a time.
func (r *rig) recover(point string) lab.Recovered {
	r.t.Helper()
	r.made++
	got, err := r.machine.Recover(r.t.Context(), point, r.Path(fmt.Sprintf("recovered-%d", r.made)))
	r.must(err)
	return got
}

// verify recovers a point and judges it against the ledger.
func (r *rig) verify(point string) lab.Recovered {
	r.t.Helper()
	got := r.recover(point)
	files, err := got.Files(r.disks)
	r.must(err)
	v, err := r.work.Verify(r.t.Context(), r.Lab, files, got.Point.Time)
	if err != nil {
		r.t.Fatalf("point %s of %s: %v", point, got.Point.Time.Format(time.RFC3339Nano), err)
	}
	if v.Checked == 0 {
		r.t.Fatalf("point %s: no acknowledged value to look for: this proves nothing", point)
	}
	r.t.Logf("point %s of %s: %d acknowledged values found", point, got.Point.Time.Format("15:04:05.000"), v.Checked)
	r.must(os.RemoveAll(got.Dir))
	return got
}

// verifyNow waits for a point from after this call and judges the latest.
func (r *rig) verifyNow() {
	r.t.Helper()
	r.untilPoint(time.Now())
	r.must(r.work.Err())
	r.verify("latest")
}

// live lets the workload go on for a while, which is what the scenario is about.
func (r *rig) live(d time.Duration) {
	r.t.Helper()
	select {
	case <-time.After(d):
	case <-r.t.Context().Done():
		r.t.Fatal(context.Cause(r.t.Context()))
	}
	r.must(r.work.Err())
}

// points lists the machine's points in this time, the oldest first.
func (r *rig) points(from, to time.Time) []lab.Point {
	r.t.Helper()
	points, err := r.machine.Points(r.t.Context(), from, to)
	r.must(err)
	return points
}

// wantEvent waits until the operator has been told of this, with a remedy.
func (r *rig) wantEvent(typ string) {
	r.t.Helper()
	var told lab.Event
	r.must(lab.Until(r.t.Context(), 20*time.Second*max(1, r.patience), "event "+typ, func() (bool, error) {
		events, err := r.site.Events(r.t.Context(), typ)
		if err != nil || len(events) == 0 {
			return false, err
		}
		told = events[len(events)-1]
		return true, nil
	}))
	if told.Message == "" || told.Remedy == "" {
		r.t.Errorf("event %s says %q and what to do: %q", typ, told.Message, told.Remedy)
	}
}
