package vault

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/vault/sealed"
	"github.com/understudy-dr/understudy/pkg/block"
)

// The second half of a check: what the objects of a machine say together.

// chains reports what breaks the log or a base, and objects that could not be proven.
func (c *checker) chains(cat *catalog) {
	for _, d := range cat.damage {
		c.damage(d.Object, d.Affected, d.Err)
	}
	c.log(cat)
	for _, l := range cat.logs {
		c.proven(l.key, cat.since(l.first))
	}
	for _, e := range cat.epochs {
		for _, b := range e.base {
			c.proven(b.key, cat.since(e.Begin))
		}
		if !cat.manifest.holdsBase(e.Epoch, math.MaxUint64) {
			c.base(cat, e)
		}
	}
	c.tooLate(cat)
}

// base reports what an epoch lacks of its base. Where the next epoch began before all of
// it had come, a fence says how much had, and what lies behind the fence is not missed.
func (c *checker) base(cat *catalog, e *Epoch) {
	object := baseName(c.id, e.Epoch, e.Committed+1)
	switch f, ended := cat.fence(e.Epoch); {
	case e.Complete == 0 || e.Committed >= e.BaseFrames, e.Committed < cat.settledBase(e.Epoch): // the latter is told as damage
	case ended:
		c.add(Notice, object, "", fmt.Sprintf("epoch %d ended before its base was whole: %d of %d base frames had come, the others never will; it offers no recovery point, and those of later epochs do not need them", e.Epoch, f.Base, e.BaseFrames))
	case c.overdue(cat, e):
		c.add(Damage, object, fmt.Sprintf("every recovery point of epoch %d", e.Epoch), fmt.Sprintf("base frames %d..%d are missing", e.Committed+1, e.BaseFrames))
	default:
		c.add(Notice, object, fmt.Sprintf("every recovery point of epoch %d", e.Epoch), fmt.Sprintf("base frames %d..%d are not stored yet", e.Committed+1, e.BaseFrames))
	}
}

// tooLate reports base objects from behind a fence.
func (c *checker) tooLate(cat *catalog) {
	for _, name := range c.names("base") {
		n, err := parseNumbers(name, basePrefix(c.id), 2)
		if err == nil && cat.beyond(block.Epoch(n[0]), n[1]) {
			c.add(Notice, name, "", "stored by a relay that had been superseded, when its epoch had ended: it counts for nothing; thinning deletes it when it comes to that epoch")
		}
	}
}

// baseDelay is how long the last base frames may lie in a relay's spool while the log
// goes on.
const baseDelay = 10 * time.Minute

// overdue reports whether the newest epoch should have all its base by now: a later base
// object exists, or its log has gone on for a good while since the base was read.
func (c *checker) overdue(cat *catalog, e *Epoch) bool {
	next := baseName(c.id, e.Epoch, e.Committed+1)
	later := slices.ContainsFunc(c.names("base"), func(name string) bool {
		return strings.HasPrefix(name, fmt.Sprintf("%s%020d-", basePrefix(c.id), e.Epoch)) && name > next
	})
	if i, ok := cat.findBoundary(e.Complete); ok && !later {
		return time.Duration(cat.last.closed-cat.bounds[i].closed) > baseDelay
	}
	return later
}

// names lists the proven and unproven objects of a kind, in order.
func (c *checker) names(kind string) (names []string) {
	for name := range c.objects {
		if strings.HasPrefix(name, machinePrefix(c.id)+kind+"/") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// log looks for gaps between log objects on its own, also behind the first one, where
// the catalog ends.
func (c *checker) log(cat *catalog) {
	next := block.Seq(0) // unknown
	if cat.manifest.Log.Seq > 0 {
		next = cat.manifest.Log.Seq + 1
	}
	known := next != 0
	for _, name := range c.names("log") {
		o := c.objects[name]
		n, err := parseNumbers(name, logPrefix(c.id), 1)
		if err != nil {
			c.add(Notice, name, "", err.Error())
			continue
		}
		first := block.Seq(n[0])
		if o.err == nil && o.heads[len(o.heads)-1].Last < next {
			continue // lies in the runs
		}
		if known && first > next {
			c.add(Damage, logName(c.id, next), cat.since(next), fmt.Sprintf("missing: log frames %d..%d", next, first-1))
		}
		known = o.err == nil
		if !known {
			if !slices.ContainsFunc(cat.logs, func(l logRef) bool { return l.key == name }) {
				c.damage(name, cat.since(first), o.err)
			}
			continue
		}
		next = max(first, next)
		for _, h := range o.heads {
			if h.First > next {
				c.add(Damage, name, cat.since(next), fmt.Sprintf("log frames %d..%d are missing within the object", next, h.First-1))
			}
			next = max(next, h.Last+1)
		}
	}
}

// proven reports an object that history needs and that was not proven.
func (c *checker) proven(key, affected string) {
	switch o := c.objects[key]; {
	case o == nil:
		c.damage(key, affected, objstore.ErrNotFound)
	case o.err != nil:
		c.damage(key, affected, o.err)
	}
}

// runs proves that the manifest's runs are all there and in order.
func (c *checker) runs(cat *catalog) {
	used := make(map[string]bool)
	for _, r := range cat.manifest.Runs {
		var last place
		for i := range r.Objects {
			o := &r.Objects[i]
			used[o.Key] = true
			affected := cat.since(r.End.Seq)
			c.proven(o.Key, affected)
			if v := c.objects[o.Key]; v != nil && v.err == nil && (v.first != o.from() || v.last != o.to()) {
				c.add(Damage, o.Key, affected, "its extents lie elsewhere than the manifest says")
			}
			if o.from().compare(last) < 0 {
				c.add(Damage, o.Key, affected, "overlaps with the object before it")
			}
			last = o.to()
		}
	}
	for _, name := range c.names("run") {
		if !used[name] {
			c.add(Notice, name, "", "no manifest names it: left by a thinning that was cut off, or one at work now; the next thinning deletes it")
		}
	}
}

// locks reports locks on points that are not there.
func (c *checker) locks(cat *catalog) {
	for p, locks := range cat.locks {
		if !cat.retained(p) {
			c.add(Notice, lockName(c.id, p, locks[0].Name), "", "locks a recovery point that the vault does not offer")
		}
	}
}

// documents reports leases, locks, facts and older manifests that were not proven.
func (c *checker) documents() {
	blamed := make(map[string]bool)
	for _, d := range c.report.Defects {
		blamed[d.Object] = true
	}
	for name, o := range c.objects {
		if o.err != nil && !blamed[name] && kindOf(c.id, name) == sealed.KindDocument {
			c.damage(name, "none", o.err)
		}
	}
}

// since says in words which points lie at or behind a place of the log.
func (c *catalog) since(seq block.Seq) string {
	var first, last *Point
	n := 0
	c.eachPoint(func(p Point) bool {
		if p.Position.Seq >= seq {
			if first == nil {
				first = &p
			}
			last = &p
			n++
		}
		return true
	})
	if n == 0 {
		return fmt.Sprintf("recovery points after sequence %d", seq)
	}
	return fmt.Sprintf("%d recovery points from %s (%v) to %s (%v), and any that depend on the object behind them", n,
		first.Time.Format(time.RFC3339), first.Position, last.Time.Format(time.RFC3339), last.Position)
}
