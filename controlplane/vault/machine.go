package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/pkg/block"
)

// Machine is one machine's history. It is safe for concurrent use.
type Machine struct {
	fetcher

	thinning  sync.Mutex // one thinning at a time; held over I/O, guards the next
	collected bool       // there has been no step since garbage was last collected

	load sync.Mutex // one load or change at a time; held over I/O
	mu   sync.Mutex // guards what follows; never held over I/O
	cat  *catalog   // nil until loaded
	// writing is the lease of the writer that keeps cat up to date in this process, so
	// that readers need not ask the store for news; 0 if there is none.
	writing uint64
	views   map[block.Position]int // open views by position: thinning leaves them alone
	hashing *View                  // what range hashes are answered from; may be nil
	proving *prover                // what a proof is answered from; may be nil
}

// Machine opens a machine's history; ErrNoMachine if nothing was ever stored for it.
func (v *Vault) Machine(ctx context.Context, id block.MachineID) (*Machine, error) {
	if m := v.known(id, nil); m != nil {
		return m, nil
	}
	key, err := v.dataKey(ctx, id)
	if err != nil {
		return nil, err
	}
	return v.known(id, v.fetcher(id, key)), nil
}

// known is the machine's one Machine in this process, made if a fetcher is given.
func (v *Vault) known(id block.MachineID, f *fetcher) *Machine {
	v.mu.Lock()
	defer v.mu.Unlock()
	m := v.machines[id]
	if m == nil && f != nil {
		m = &Machine{fetcher: *f, views: make(map[block.Position]int)}
		v.machines[id] = m
	}
	return m
}

// current is the published catalog, and whether a writer here keeps it current.
func (m *Machine) current() (c *catalog, live bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cat, m.writing > 0
}

func (m *Machine) publish(c *catalog) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cat = c
}

func (m *Machine) setWriting(lease uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writing = lease
}

// release lets readers look at the store for themselves again, if it was this writer that
// kept the catalog up to date.
func (m *Machine) release(lease uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.writing == lease {
		m.writing = 0
	}
}

// confirmWriter has a writer of this process that was superseded, and does not know yet,
// be told apart: snapshot reads what its successor stores then.
func (m *Machine) confirmWriter(ctx context.Context) error {
	m.mu.Lock()
	lease := m.writing
	m.mu.Unlock()
	if lease == 0 {
		return nil
	}
	taken, err := m.exists(ctx, numbered(leasePrefix(m.id), lease+1))
	if err != nil {
		return fmt.Errorf("vault: checking the writer lease of machine %s: %w", m.id, err)
	}
	if taken {
		m.release(lease)
	}
	return nil
}

// snapshot is the machine's history as of now.
func (m *Machine) snapshot(ctx context.Context) (*catalog, error) {
	if c, live := m.current(); live {
		return c, nil
	}
	m.load.Lock()
	defer m.load.Unlock()
	return m.refresh(ctx)
}

// refresh brings the catalog up to date. The caller holds load.
func (m *Machine) refresh(ctx context.Context) (*catalog, error) {
	c, live := m.current()
	if live {
		return c, nil
	}
	var err error
	if c != nil {
		c, err = m.catchUp(ctx, c)
	}
	if c == nil && err == nil {
		c, err = m.loadAll(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("vault: reading the history of machine %s: %w", m.id, err)
	}
	m.publish(c)
	return c, nil
}

// reread reads the history from the store anew, also where a writer of this process
// keeps it current: another process may have thinned it. The caller holds load.
func (m *Machine) reread(ctx context.Context) (*catalog, error) {
	c, err := m.loadAll(ctx)
	if err != nil {
		return nil, fmt.Errorf("vault: reading the history of machine %s: %w", m.id, err)
	}
	m.publish(c)
	return c, nil
}

// Status is where a machine stands.
type Status struct {
	Last    block.Position `json:"last"`   // of the newest stored frame
	Closed  time.Time      `json:"closed"` // its closing time; zero if there is none
	Newest  *Point         `json:"newest"` // newest recovery point, nil if there is none
	Oldest  *Point         `json:"oldest"`
	Points  int            `json:"points"`
	Pending string         `json:"pending,omitempty"` // why the newest epoch offers none
	Epoch   *Epoch         `json:"epoch,omitempty"`   // the newest
	Bytes   int64          `json:"bytes"`             // in log objects and runs, on the store
	Objects int            `json:"objects"`
	Damage  []*DamageError `json:"-"`
}

// Status sums up the machine's history.
func (m *Machine) Status(ctx context.Context) (Status, error) {
	c, err := m.snapshot(ctx)
	if err != nil {
		return Status{}, err
	}
	s := Status{Last: c.last.pos, Pending: c.pending(), Epoch: c.epoch(c.last.pos.Epoch), Damage: c.damage}
	if c.last.pos.Seq != 0 {
		s.Closed = time.Unix(0, c.last.closed).UTC()
	}
	c.eachPoint(func(p Point) bool {
		if s.Oldest == nil {
			s.Oldest = &p
		}
		s.Newest = &p
		s.Points++
		return true
	})
	s.Bytes, s.Objects = c.stored()
	return s, nil
}

// stored sums up what the catalog refers to, without base objects' bytes, which no
// index holds.
func (c *catalog) stored() (bytes int64, objects int) {
	for _, l := range c.logs {
		bytes += l.size
	}
	objects = len(c.logs)
	for _, r := range c.manifest.Runs {
		for _, o := range r.Objects {
			bytes += o.Size
			objects++
		}
	}
	for _, e := range c.epochs {
		objects += len(e.base)
	}
	return bytes, objects
}

// Disks are the machine's disks as of its newest epoch.
func (m *Machine) Disks(ctx context.Context) ([]Disk, error) {
	c, err := m.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	if e := c.epoch(c.last.pos.Epoch); e != nil {
		return e.Disks, nil
	}
	return nil, nil
}

// Epochs are the machine's epochs, the oldest first.
func (m *Machine) Epochs(ctx context.Context) ([]Epoch, error) {
	c, err := m.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	epochs := make([]Epoch, 0, len(c.epochs))
	for _, e := range c.epochs {
		epochs = append(epochs, *e)
	}
	return epochs, nil
}

// SaveAbout stores facts about the machine that an inventory rebuilt from the vault
// alone needs: its names, its policy. The newest replaces what was stored before.
func (m *Machine) SaveAbout(ctx context.Context, about json.RawMessage) error {
	prefix := aboutPrefix(m.id)
	top, err := m.newest(ctx, prefix)
	if err != nil {
		return fmt.Errorf("vault: facts about machine %s: %w", m.id, err)
	}
	if err := m.putDocument(ctx, numbered(prefix, top+1), top+1, about); err != nil {
		return fmt.Errorf("vault: facts about machine %s: %w", m.id, err)
	}
	if top > 0 {
		_ = m.v.store.Delete(ctx, numbered(prefix, top)) // what stays is only clutter
	}
	return nil
}

// About is what SaveAbout stored last; nil if nothing.
func (m *Machine) About(ctx context.Context) (about json.RawMessage, err error) {
	prefix := aboutPrefix(m.id)
	top, err := m.newest(ctx, prefix)
	if err == nil && top > 0 {
		err = m.document(ctx, numbered(prefix, top), &about)
	}
	if err != nil && !errors.Is(err, objstore.ErrNotFound) {
		return nil, fmt.Errorf("vault: facts about machine %s: %w", m.id, err)
	}
	return about, nil
}
