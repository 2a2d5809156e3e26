package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/understudy-dr/understudy/agent/capture/capturetest"
	"github.com/understudy-dr/understudy/controlplane/vault"
	"github.com/understudy-dr/understudy/pkg/block"
)

// oracle judges what the vault offers against what the disks went through. It reads as
// another process that nothing happens to.
type oracle struct {
	w     *world
	vault *vault.Vault
	seen  map[block.Position]*sight
	may   map[block.Position]bool // points that a retention has let go of
}

// sight is a point that was read once: it must read the same as long as it is offered.
type sight struct {
	point vault.Point
	image capturetest.Image
}

func newOracle(w *world) (*oracle, error) {
	v, err := vault.Open(w.context(), w.cloud.Store, vaultOptions("oracle"))
	return &oracle{w: w, vault: v, seen: map[block.Position]*sight{}, may: map[block.Position]bool{}}, err
}

// points are what the vault offers now; none while it knows nothing of the machine.
func (o *oracle) points(v *vault.Vault) []vault.Point {
	m, err := v.Machine(o.w.context(), machineID)
	if errors.Is(err, vault.ErrNoMachine) {
		return nil
	}
	if err == nil {
		var points []vault.Point
		if points, err = m.Points(o.w.context(), time.Time{}, time.Time{}); err == nil {
			return points
		}
	}
	o.w.fail("the recovery points cannot be listed: %v", err)
	return nil
}

// anew is points by a process that has just begun. Any goroutine may call it.
func (o *oracle) anew() []vault.Point {
	v, err := vault.Open(o.w.context(), o.w.cloud.Store, vaultOptions("another"))
	if err != nil {
		o.w.fail("the vault cannot be opened: %v", err)
		return nil
	}
	return o.points(v)
}

// look judges some of the points offered now, the newest among them.
func (o *oracle) look(rng *rand.Rand, n int) {
	points := o.points(o.vault)
	if len(points) == 0 || o.w.failed() {
		return
	}
	o.missing(points)
	o.promised()
	o.judgePoint(points[len(points)-1])
	for range n {
		o.judgePoint(points[rng.IntN(len(points))])
	}
}

// promised proves that the vault has what was acknowledged as committed.
func (o *oracle) promised() {
	o.w.mu.Lock()
	promise := o.w.promise
	o.w.mu.Unlock()
	if promise == 0 || o.w.failed() {
		return
	}
	m, err := o.vault.Machine(o.w.context(), machineID)
	if err == nil {
		var s vault.Status
		if s, err = m.Status(o.w.context()); err == nil && s.Last.Seq < promise {
			o.w.fail("frames up to %d were acknowledged as committed, the vault ends at %v", promise, s.Last)
		}
	}
	if err != nil {
		o.w.fail("the vault cannot be asked: %v", err)
	}
}

// missing finds points that were offered once and are not any more, though no retention
// let go of them.
func (o *oracle) missing(points []vault.Point) {
	if o.w.thinner.running() {
		return // what it may let go of is known when it ends
	}
	offered := map[block.Position]bool{}
	for _, p := range points {
		offered[p.Position] = true
	}
	for pos := range o.seen {
		if !offered[pos] && !o.may[pos] {
			o.w.fail("point %v of %s was offered and is not any more, though the retention keeps it", pos, o.at(o.seen[pos].point))
		}
		if !offered[pos] {
			delete(o.seen, pos)
		}
	}
}

func (o *oracle) at(p vault.Point) string {
	return p.Time.Sub(o.w.began).Round(time.Millisecond).String()
}

// judgePoint reads a point and finds the moment that it shows.
func (o *oracle) judgePoint(p vault.Point) {
	img, err := o.image(p.Position)
	if err != nil {
		// A thinning may have let go of it since the points were listed.
		if !errors.Is(err, vault.ErrNoPoint) || !o.w.thinner.running() && !o.may[p.Position] {
			o.w.fail("point %v cannot be read: %v", p.Position, err)
		}
		return
	}
	o.w.count("points judged")
	if was := o.seen[p.Position]; was != nil && !was.image.Equal(img) {
		o.w.fail("point %v does not read any more as it did", p.Position)
	}
	o.seen[p.Position] = &sight{p, img}
	if n, near := o.w.machine.kernel.Find(img, 0, p.Time); n < 0 {
		o.w.fail("point %v of %s is no moment of the disks: %s", p.Position, o.at(p), near)
	}
}

// image is what the disks hold at a point.
func (o *oracle) image(p block.Position) (capturetest.Image, error) {
	ctx := o.w.context()
	m, err := o.vault.Machine(ctx, machineID)
	if err != nil {
		return nil, err
	}
	v, err := m.View(ctx, p)
	if err != nil {
		return nil, err
	}
	defer v.Close()
	img := make(capturetest.Image, len(cells))
	for i, id := range o.w.machine.kernel.IDs() {
		if img[i], err = readDisk(ctx, v, id); err != nil {
			return nil, err
		}
	}
	if o.w.mutant.Above {
		o.w.baseAbove(p, img)
	}
	return img, nil
}

// readDisk reads a disk whole; nil if the point has no such disk.
func readDisk(ctx context.Context, v *vault.View, id block.DiskID) ([]byte, error) {
	disks := v.Disks()
	i := slices.IndexFunc(disks, func(d vault.Disk) bool { return d.ID == id })
	if i < 0 {
		return nil, nil
	}
	b := make([]byte, disks[i].Size)
	_, err := v.ReadAt(ctx, id, b, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return b, err
}

// newest reports whether the newest point is what the disks hold now, all of them.
func (o *oracle) newest() bool {
	points := o.points(o.vault)
	if len(points) == 0 {
		return false
	}
	p := points[len(points)-1]
	img, err := o.image(p.Position)
	return err == nil && o.w.machine.kernel.Now().After(p.Time) && o.w.machine.kernel.Holds(img)
}

// distance says how the newest point differs from what the disks hold.
func (o *oracle) distance() string {
	points := o.points(o.vault)
	if len(points) == 0 {
		return "no point is offered"
	}
	p := points[len(points)-1]
	img, err := o.image(p.Position)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("point %v of %s %s", p.Position, o.at(p), o.w.machine.kernel.Distance(img))
}

// judge is the last judgement, when everything is well again.
func (o *oracle) judge() {
	rng := rand.New(rand.NewPCG(o.w.schedule.Seed, 4))
	o.look(rng, 6)
	points := o.points(o.vault)
	again := rng.Perm(len(o.seen))
	order := slices.SortedFunc(keys(o.seen), block.Position.Compare)
	for _, i := range again[:min(4, len(again))] {
		o.judgePoint(o.seen[order[i]].point)
	}
	o.inOrder(order)
	o.another(points)
}

func keys(m map[block.Position]*sight) func(func(block.Position) bool) {
	return func(yield func(block.Position) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// inOrder proves that later points show later moments.
func (o *oracle) inOrder(order []block.Position) {
	from := 0
	for _, pos := range order {
		s := o.seen[pos]
		n, near := o.w.machine.kernel.Find(s.image, from, s.point.Time)
		if n < 0 {
			o.w.fail("point %v of %s shows no moment after those of the points before it: %s", pos, o.at(s.point), near)
			return
		}
		from = n
	}
}

// another opens the vault anew and has it checked: it must see the same points, whole.
func (o *oracle) another(points []vault.Point) {
	v, err := vault.Open(o.w.context(), o.w.cloud.Store, vaultOptions("another"))
	if err != nil {
		o.w.fail("the vault cannot be opened: %v", err)
		return
	}
	if got := o.points(v); len(got) < len(points) || !slices.Equal(got[:len(points)], points) {
		o.w.fail("another process sees other points: %d, not %d", len(got), len(points))
	}
	report, err := v.Check(o.w.context(), nil)
	if err != nil {
		o.w.fail("the vault cannot be checked: %v", err)
		return
	}
	for _, d := range report.Defects {
		o.w.count("check: " + d.Severity.String())
		if d.Severity == vault.Damage {
			o.w.fail("vault check: %s: %s", d.Object, d.What)
		}
	}
	o.w.counts["points offered"] += len(points)
}
