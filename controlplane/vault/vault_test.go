package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-dr/understudy/controlplane/objstore/mem"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

func TestOpenSaysWhatIsWrong(t *testing.T) {
	store := mem.New()
	open := func(key Key) error {
		_, err := Open(t.Context(), store, Options{Key: key})
		return err
	}
	wantErr(t, open(Key{1}), ErrNotVault, "understudy vault create")
	v, err := Create(t.Context(), store, Options{Key: Key{1}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(t.Context(), store, Options{Key: Key{1}}); !errors.Is(err, ErrExists) {
		t.Fatal(err)
	}
	wantErr(t, open(Key{2}), ErrForeignKey, v.ID())
	set := func(change func(*document)) {
		store.Alter(vaultName, func(b []byte) []byte {
			doc := must(parseDocument(b))
			change(&doc)
			return must(json.Marshal(doc))
		})
	}
	set(func(d *document) { d.Version = 0 })
	wantErr(t, open(Key{1}), ErrOlder, "version 0")
	store.Alter(vaultName, func(b []byte) []byte { return bytes.Replace(b, []byte(`"version":0`), []byte(`"version":2`), 1) })
	wantErr(t, open(Key{1}), ErrNewer, "upgrade")
	store.Alter(vaultName, func([]byte) []byte { return []byte(`{"format":"something else"}`) })
	wantErr(t, open(Key{1}), ErrNotVault)
	_, err = v.Machine(t.Context(), block.NewMachineID())
	wantErr(t, err, ErrNoMachine)
}

// TestForeignMachineKey: a machine's key document from another vault, or another
// machine, opens nothing.
func TestForeignMachineKey(t *testing.T) {
	store, _, h := lived(t)
	var names []string
	for _, key := range keys(store) {
		if strings.HasPrefix(key, keyPrefix) {
			names = append(names, key)
		}
	}
	other := must(store.Get(t.Context(), names[0], 0, -1))
	store.Alter(names[1], func([]byte) []byte { return other })
	v, _ := reopenVault(t, store, h)
	id, err := block.ParseMachineID(strings.TrimSuffix(strings.TrimPrefix(names[1], keyPrefix), jsonSuffix))
	if err != nil {
		t.Fatal(err)
	}
	_, err = v.Machine(t.Context(), id)
	wantErr(t, err, ErrDamaged, names[1], id.String())
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vault.key")
	_, err := ReadKeyFile(path)
	wantErr(t, err, os.ErrNotExist, "master key is missing")
	key := must(CreateKeyFile(path))
	if info := must(os.Stat(path)); info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v", info.Mode())
	}
	if again := must(ReadKeyFile(path)); again != key || key == (Key{}) {
		t.Fatal("the key does not come back")
	}
	_, err = CreateKeyFile(path)
	wantErr(t, err, os.ErrExist)
	if err := os.WriteFile(path, key[:], 0o600); err != nil {
		t.Fatal(err)
	}
	if again := must(ReadKeyFile(path)); again != key {
		t.Fatal("a key of 32 bytes does not come back")
	}
	for _, bad := range []string{"", "short", strings.Repeat("g", 64), strings.Repeat("0", 66), strings.Repeat("0", 5000)} {
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadKeyFile(path); err == nil || !strings.Contains(err.Error(), "not a master key") {
			t.Fatalf("%q: %v", bad, err)
		}
	}
}

// TestPointAt asks for points in every way, also for such as there are not.
func TestPointAt(t *testing.T) {
	h := newHistory(1, 64*sector)
	v, w := setup(t, mem.New(), h)
	h.begin(frame.ReasonInitial)
	h.baseFrame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(sector, 1)})
	h.flush(t, w)
	m := must(v.Machine(t.Context(), h.machine))
	at := func(spec string) (Point, error) { return m.PointAt(t.Context(), spec) }
	_, err := at(Latest)
	wantErr(t, err, ErrNoPoint, "still copying", "1 base frames")

	h.finish()
	h.step(time.Minute)
	h.tick()
	h.step(time.Minute)
	h.mark(frame.Mark{Type: frame.MarkPoint, Point: &frame.PointMark{Name: "nightly", Kind: "app"}})
	app := h.order[2]
	h.step(time.Minute)
	h.frame(frame.CompressNever, write{0, frame.OpWrite, 0, pattern(sector, 2)})
	h.flush(t, w)
	last := h.order[3]
	stamp := func(d time.Duration) string { return epochStart.Add(d).Format(time.RFC3339Nano) }
	for spec, want := range map[string]block.Position{
		Latest: last, "": last, LatestApp: app, "nightly": app, h.order[1].String(): h.order[1],
		stamp(time.Minute): h.order[1], stamp(90 * time.Second): h.order[1], stamp(3 * time.Minute): last, stamp(0): h.order[0],
	} {
		if p, err := at(spec); err != nil || p.Position != want {
			t.Errorf("%q is %v, %v; want %v", spec, p.Position, err, want)
		}
	}
	for spec, words := range map[string]string{
		stamp(3*time.Minute + 1): "so late", stamp(-1): "oldest retained point", "1.1": "not a retained frame boundary", "weekly": "neither",
	} {
		_, err := at(spec)
		wantErr(t, err, ErrNoPoint, words, "4 points from", h.order[0].String(), last.String(), h.machine.String())
	}
	_, err = m.View(t.Context(), block.Position{Epoch: 1, Seq: 1})
	wantErr(t, err, ErrNoPoint)

	// One that should have been application-consistent says why it is not, and is none.
	h.mark(frame.Mark{Type: frame.MarkPoint, Point: &frame.PointMark{Name: "failed", Kind: "crash", Problem: "a script hung"}})
	last = h.order[4]
	h.flush(t, w)
	if p, err := at("failed"); err != nil || p.Position != last || p.Kind != PointCrash || p.Problem != "a script hung" {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := at(LatestApp); err != nil || p.Position != app {
		t.Errorf("%+v, %v", p, err)
	}

	// While a resync copies, the newest point is the newest of the epoch before.
	h.begin(frame.ReasonRingOverflow)
	h.flush(t, w)
	if p, err := at(Latest); err != nil || p.Position != last {
		t.Fatalf("during a resync: %v, %v", p, err)
	}
	if s := must(m.Status(t.Context())); !strings.Contains(s.Pending, "ring-overflow") || s.Newest.Position != last {
		t.Fatalf("status %+v", s)
	}
}

// TestClockJumps: a machine's clock that jumps either way loses no point, neither now
// nor by thinning.
func TestClockJumps(t *testing.T) {
	h := newHistory(1, 64*sector)
	v, w := setup(t, mem.New(), h)
	h.begin(frame.ReasonInitial)
	h.finish()
	for i, jump := range []time.Duration{time.Minute, 100 * 24 * time.Hour, time.Minute, -100 * 24 * time.Hour, time.Minute, -3 * time.Hour, time.Minute} {
		h.step(jump)
		h.frame(frame.CompressNever, write{0, frame.OpWrite, int64(i) * sector, pattern(sector, byte(i))})
	}
	h.flush(t, w)
	m := must(v.Machine(t.Context(), h.machine))
	v.opts.Now = func() time.Time { return epochStart.Add(5 * time.Minute) }
	if _, err := m.Thin(t.Context(), DefaultRetention); err != nil {
		t.Fatal(err)
	}
	h.check(t, m, h.order)
	if p := must(m.PointAt(t.Context(), h.now.Format(time.RFC3339Nano))); p.Position != h.order[len(h.order)-1] {
		t.Fatalf("the newest point not after the newest time is %v", p.Position)
	}
}

// TestLocksAndViewsHoldAPoint against a retention that keeps nothing but the newest.
func TestLocksAndViewsHoldAPoint(t *testing.T) {
	h := newHistory(1, 64*sector)
	v, w := setup(t, mem.New(), h)
	h.begin(frame.ReasonInitial)
	h.finish()
	for i := range 6 {
		h.step(time.Hour)
		h.frame(frame.CompressNever, write{0, frame.OpWrite, int64(i) * sector, pattern(sector, byte(i))})
	}
	h.flush(t, w)
	m := must(v.Machine(t.Context(), h.machine))
	locked, viewed, newest := h.order[1], h.order[3], h.order[6]
	if err := m.Lock(t.Context(), locked, "before the upgrade"); err != nil {
		t.Fatal(err)
	}
	view := must(m.View(t.Context(), viewed))
	thin := func(want ...block.Position) {
		t.Helper()
		if _, err := m.thin(t.Context(), Retention{}); err != nil {
			t.Fatal(err)
		}
		if got := positions(t, m); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("points %v, want %v", got, want)
		}
		h.check(t, m, want)
	}
	thin(locked, viewed, newest)
	if p := must(m.PointAt(t.Context(), "before the upgrade")); p.Position != locked || !p.Locked {
		t.Fatalf("%+v", p)
	}
	// The view goes on reading, over objects that were replaced under it.
	got := make([]byte, 64*sector)
	if _, err := view.ReadAt(t.Context(), h.disks[0].ID, got, 0); err != nil || !bytes.Equal(got, h.want[viewed][h.disks[0].ID]) {
		t.Fatalf("an open view: %v", err)
	}
	view.Close()
	thin(locked, newest)
	// A lock that another put there goes on when the first is taken away.
	if err := errors.Join(m.Lock(t.Context(), locked, "served"), m.Unlock(t.Context(), locked, "before the upgrade")); err != nil {
		t.Fatal(err)
	}
	thin(locked, newest)
	if err := m.Unlock(t.Context(), locked, "served"); err != nil {
		t.Fatal(err)
	}
	thin(newest)
	wantErr(t, m.Lock(t.Context(), locked, ""), ErrNoPoint)
	_, err := view.ReadAt(t.Context(), h.disks[0].ID, got, 0)
	if err == nil || !strings.Contains(err.Error(), "closed") {
		t.Fatalf("a closed view: %v", err)
	}
}

// TestRetentionByTheBook steps through the default retention.
func TestRetentionByTheBook(t *testing.T) {
	now := epochStart
	var points []Point
	for age := 20 * 24 * time.Hour; age >= 0; age -= 10 * time.Minute {
		points = append(points, Point{Position: block.Position{Epoch: 1, Seq: block.Seq(len(points) + 1)}, Time: now.Add(-age), Kind: PointCrash})
	}
	counts := func(kept []Point, ref time.Time) (all, hourly, daily, older int) {
		for _, p := range kept {
			switch age := ref.Sub(p.Time); {
			case age <= 2*time.Hour:
				all++
			case age <= 24*time.Hour:
				hourly++
			case age <= 15*24*time.Hour:
				daily++
			default:
				older++
			}
		}
		return all, hourly, daily, older
	}
	a, h, d, o := counts(DefaultRetention.keep(age(points), now), now)
	if a != 13 || h != 22 || d != 14 || o != 0 {
		t.Fatalf("kept %d of 2 h, %d hourly, %d daily, %d older", a, h, d, o)
	}
	// A machine silent for a year keeps the same: no newer points have come.
	if a2, h2, d2, _ := counts(DefaultRetention.keep(age(points), now.Add(365*24*time.Hour)), now); a2 != a || h2 != h || d2 != d {
		t.Fatalf("a year later %d, %d, %d", a2, h2, d2)
	}
	_, m := hourly(t, mem.New(), 3)
	if _, err := m.Thin(t.Context(), Retention{}); err == nil || !strings.Contains(err.Error(), "no retention") {
		t.Fatalf("without a retention: %v", err)
	}
	for _, bad := range []Retention{{All: -1}, {All: 2, Hourly: 1, Daily: 3}, {Daily: 1, Hourly: 2}} {
		if bad.Validate() == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func TestMetricsAreRegisteredOnce(t *testing.T) {
	registry := prometheus.NewRegistry()
	store := mem.New()
	if _, err := Create(t.Context(), store, Options{Key: Key{1}, Metrics: registry}); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), store, Options{Key: Key{1}, Metrics: registry}); err == nil {
		t.Fatal("two vaults share one registry without a word")
	}
}

// TestCacheLoadsOnceAndForgetsFailures under contention, cancelled callers included.
func TestCacheLoadsOnceAndForgetsFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache[int, string](10)
		loads := 0
		load := func(ctx context.Context) (string, int64, error) {
			loads++
			select {
			case <-ctx.Done():
				return "", 0, ctx.Err()
			case <-time.After(time.Second):
				return "value", 6, nil
			}
		}
		impatient, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		results := make(chan error, 3)
		for _, ctx := range []context.Context{impatient, t.Context(), t.Context()} {
			go func() {
				v, err := c.get(ctx, 1, func() (string, int64, error) { return load(ctx) })
				if err == nil && v != "value" {
					err = errors.New("wrong value " + v)
				}
				results <- err
			}()
			synctest.Wait()
		}
		cancelled := 0
		for range 3 {
			if err := <-results; errors.Is(err, context.DeadlineExceeded) {
				cancelled++
			} else if err != nil {
				t.Error(err)
			}
		}
		if cancelled != 1 || loads != 2 {
			t.Fatalf("%d cancelled, %d loads: one caller gives up, one of the others loads", cancelled, loads)
		}
		c.put(2, "two", 6) // pushes out the first
		if _, ok := c.peek(1); ok || c.used != 6 {
			t.Fatalf("used %d of 10", c.used)
		}
		fail := errors.New("no")
		if _, err := c.get(t.Context(), 3, func() (string, int64, error) { return "", 0, fail }); !errors.Is(err, fail) {
			t.Fatal(err)
		}
		if _, ok := c.peek(3); ok {
			t.Fatal("a failure is remembered")
		}
	})
}

// TestALockTakesNoName: who asks for a point by the name that it was made with finds it,
// whoever uses it meanwhile. One without a name has its oldest lock's.
func TestALockTakesNoName(t *testing.T) {
	at := block.Position{Epoch: 1, Seq: 7}
	c := &catalog{locks: locks{at: {{}, {Name: "served"}, {Name: "held"}}}}
	for own, want := range map[string]string{"before-upgrade": "before-upgrade", "": "served"} {
		if p := c.describe(boundary{pos: at}, own); p.Name != want || !p.Locked {
			t.Errorf("a point named %q is shown as %q, locked %v", own, p.Name, p.Locked)
		}
	}
}
