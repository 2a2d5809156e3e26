package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/pkg/block"
)

// Severity orders defects.
type Severity int

// The severities. A notice loses nothing; damage means that something stored is lost:
// recovery points, wholly or in part, or the facts that the object held.
const (
	Fine Severity = iota
	Notice
	Damage
)

func (s Severity) String() string { return [...]string{"fine", "notice", "damage"}[s] }

// MarshalText writes the severity's word.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Defect is one thing that is not as it should be.
type Defect struct {
	Severity Severity        `json:"severity"`
	Machine  block.MachineID `json:"machine,omitzero"`
	Object   string          `json:"object"`
	What     string          `json:"what"`
	Affected string          `json:"affected,omitempty"` // recovery points, in words
}

// CheckReport is the outcome of a check.
type CheckReport struct {
	Vault    string   `json:"vault"`
	Machines int      `json:"machines"`
	Objects  int      `json:"objects"`
	Bytes    int64    `json:"bytes"` // read and proven
	Frames   int      `json:"frames"`
	Points   int      `json:"points"`
	Defects  []Defect `json:"defects,omitempty"`
}

// Severity is the worst of all defects.
func (r *CheckReport) Severity() Severity {
	worst := Fine
	for _, d := range r.Defects {
		worst = max(worst, d.Severity)
	}
	return worst
}

// CheckProgress is how far a check has come, in bytes on the store.
type CheckProgress struct {
	Machine     block.MachineID
	Done, Total int64
}

// Check reads everything in the vault and proves it: that every object decrypts and
// every frame's checksums and compression hold, that every log goes on without a gap,
// that every base is complete, that merged runs are whole and in order, and that the
// stored range hashes are those of the data. It changes nothing, and may run beside
// writers and thinnings. The error is for a check that could not be made; what it
// found is in the report.
func (v *Vault) Check(ctx context.Context, progress func(CheckProgress)) (*CheckReport, error) {
	if progress == nil {
		progress = func(CheckProgress) {}
	}
	ids, err := v.Machines(ctx)
	if err != nil {
		return nil, err
	}
	report := &CheckReport{Vault: v.id, Machines: len(ids)}
	for _, id := range ids {
		c := &checker{report: report, id: id, progress: progress, objects: make(map[string]*verified)}
		key, err := v.dataKey(ctx, id)
		if errors.Is(err, ErrDamaged) {
			c.damage(keyName(id), "every recovery point of the machine", err)
			continue
		}
		if err != nil {
			return report, err
		}
		c.fetcher = v.fetcher(id, key)
		if err := c.run(ctx); err != nil {
			return report, fmt.Errorf("vault: checking machine %s: %w", id, err)
		}
	}
	return report, nil
}

// checker checks one machine.
type checker struct {
	*fetcher
	id       block.MachineID
	progress func(CheckProgress)

	mu      sync.Mutex
	report  *CheckReport
	objects map[string]*verified // what each object has proven to hold; nil if damaged
}

func (c *checker) add(s Severity, object, affected, what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.report.Defects = append(c.report.Defects, Defect{Severity: s, Machine: c.id, Object: object, What: what, Affected: affected})
}

func (c *checker) damage(object, affected string, err error) {
	var known *DamageError
	if errors.As(err, &known) {
		err = known.Err
	}
	c.add(Damage, object, affected, fmt.Sprint(err))
}

// run checks the objects one by one, and then what they say together.
func (c *checker) run(ctx context.Context) error {
	// A Machine of its own reads the history from the store, without what the process
	// has cached.
	m := &Machine{fetcher: *c.fetcher, views: make(map[block.Position]int)}
	cat, err := m.loadAll(ctx) // before the reads: its manifest may be beyond reading
	var broken *DamageError
	if errors.As(err, &broken) {
		c.damage(broken.Object, broken.Affected, err)
		return nil
	}
	if err != nil {
		return err
	}
	infos, total, err := c.list(ctx)
	if err != nil {
		return err
	}
	if err := c.verifyAll(ctx, infos, total); err != nil {
		return err
	}
	if cat, err = c.settle(ctx, m, cat); err != nil {
		return err
	}
	c.chains(cat)
	c.runs(cat)
	c.locks(cat)
	c.documents()
	c.report.Points += len(cat.points())
	slices.SortStableFunc(c.report.Defects, func(a, b Defect) int {
		return cmp.Or(strings.Compare(a.Machine.String(), b.Machine.String()), strings.Compare(a.Object, b.Object))
	})
	return nil
}

func (c *checker) list(ctx context.Context) (infos []objstore.Info, total int64, err error) {
	for info, err := range c.v.store.List(ctx, machinePrefix(c.id)) {
		if err != nil {
			return nil, 0, err
		}
		infos = append(infos, info)
		total += info.Size
	}
	return infos, total, nil
}

// verifyAll proves every object by itself, a few at a time.
func (c *checker) verifyAll(ctx context.Context, infos []objstore.Info, total int64) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(checkWidth)
	var done int64
	for _, info := range infos {
		g.Go(func() error {
			o, err := c.verify(ctx, info)
			if isPassing(err) {
				return err
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			done += info.Size
			c.progress(CheckProgress{Machine: c.id, Done: done, Total: total})
			if errors.Is(err, objstore.ErrNotFound) {
				return nil // collected meanwhile; if not, it will be missed below
			}
			c.report.Objects++
			c.objects[info.Key] = o
			if err != nil {
				o = &verified{err: err}
				c.objects[info.Key] = o
				return nil
			}
			c.report.Bytes += info.Size
			c.report.Frames += len(o.heads)
			return nil
		})
	}
	return g.Wait()
}

// settle is the history as of after the reads, with all that it needs verified: what
// a thinning has replaced meanwhile is no loss, and what it has made counts.
func (c *checker) settle(ctx context.Context, m *Machine, cat *catalog) (*catalog, error) {
	for range loadAttempts {
		latest, err := m.loadAll(ctx)
		if err != nil {
			return cat, err
		}
		cat = latest
		var missing []objstore.Info
		for _, name := range cat.objects() {
			if c.objects[name] != nil {
				continue
			}
			info, err := c.v.store.Head(ctx, name)
			if isPassing(err) {
				return cat, err
			}
			if err == nil {
				missing = append(missing, info)
			}
		}
		if len(missing) == 0 {
			return cat, nil
		}
		if err := c.verifyAll(ctx, missing, 0); err != nil {
			return cat, err
		}
	}
	return cat, nil
}

// checkWidth is how many objects are verified at once; each takes about three times
// its size in memory, at most 100 MB.
const checkWidth = 2
