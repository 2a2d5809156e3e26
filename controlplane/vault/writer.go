package vault

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/vault/sealed"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// Writer appends to one machine's history. It holds the machine's writer lease: once
// another writer is opened, on this or another host, every Commit of this one fails
// with ErrStaleWriter. Safe for concurrent use; commits happen one at a time.
type Writer struct {
	m          *Machine
	generation uint64

	mu     sync.Mutex
	closed bool
}

// lease is the document under which a writer works.
type lease struct {
	Owner string    `json:"owner"`
	Taken time.Time `json:"taken"`
}

// OpenWriter takes the writer lease of a machine, and makes the machine's data key if
// it is new to the vault.
//
// A lease has no end: the next one ends it. Leases are numbered without gaps and
// never deleted, so a writer is the current one for as long as the next number is
// free. Should a writer that was superseded a moment ago still store an object, it is
// a valid continuation of the chain, since a place in the chain can be filled once; or it
// is of a base whose epoch is over, and does not count (see fence).
func (v *Vault) OpenWriter(ctx context.Context, id block.MachineID) (*Writer, error) {
	key, err := v.makeDataKey(ctx, id)
	if err != nil {
		return nil, err
	}
	m := v.known(id, v.fetcher(id, key))
	m.load.Lock()
	defer m.load.Unlock()
	generation, err := m.takeLease(ctx)
	if err != nil {
		return nil, fmt.Errorf("vault: taking the writer lease of machine %s: %w", id, err)
	}
	m.setWriting(0) // so that the store is asked what a writer before this one left
	c, err := m.refresh(ctx)
	if err != nil {
		return nil, err
	}
	if len(c.damage) > 0 {
		return nil, fmt.Errorf("vault: the history of machine %s cannot go on behind a damaged object; restore the object from a copy, or enrol the machine under a new identity, which leaves the points before the damage as they are: %w", id, c.damage[0])
	}
	m.setWriting(generation)
	return &Writer{m: m, generation: generation}, nil
}

// takeLease stores the lease behind the newest one.
func (m *Machine) takeLease(ctx context.Context) (uint64, error) {
	prefix := leasePrefix(m.id)
	for {
		top, err := m.newest(ctx, prefix)
		if err != nil {
			return 0, err
		}
		doc := lease{Owner: m.v.opts.Owner, Taken: m.v.opts.Now().UTC()}
		err = m.putDocument(ctx, numbered(prefix, top+1), top+1, doc)
		if err == nil {
			return top + 1, nil
		}
		if !errors.Is(err, objstore.ErrExists) {
			return 0, err
		}
	}
}

// State is what the vault holds of a machine, for a writer to go on from.
type State struct {
	Last   block.Position // end of the log; zero if there is none
	Closed time.Time      // its closing time
	// Base counts the base frames stored of each epoch, without a gap from 1.
	Base map[block.Epoch]uint64
	// Complete is whether Last is a recovery point: its epoch's base is stored whole.
	Complete bool
}

// State is the machine's state after the last commit.
func (w *Writer) State() State {
	c, _ := w.m.current()
	if c == nil {
		return State{}
	}
	s := State{Last: c.last.pos, Base: make(map[block.Epoch]uint64)}
	if s.Last.Seq == 0 {
		return s
	}
	s.Closed = time.Unix(0, c.last.closed).UTC()
	for _, e := range c.epochs {
		s.Base[e.Epoch] = e.Committed
	}
	if e := c.epoch(s.Last.Epoch); e != nil {
		s.Complete = e.offers(s.Last.Seq)
	}
	return s
}

// Commit stores consecutive frames as one object: log and mark frames that continue
// the log, or base frames of one epoch that continue its numbering. When it returns
// nil they are on stable storage. Frames that are stored already are accepted if they
// are the same (so a commit whose outcome is unknown can be repeated), and refused
// with ErrConflict if not.
func (w *Writer) Commit(ctx context.Context, raws [][]byte) error {
	if len(raws) == 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	start := time.Now()
	err := w.commit(ctx, raws)
	for i := 1; i < loadAttempts && errors.Is(err, errOvertaken); i++ {
		err = w.commit(ctx, raws)
	}
	w.m.v.metrics.committed(time.Since(start), err)
	return err
}

func (w *Writer) commit(ctx context.Context, raws [][]byte) error {
	list, err := w.parse(raws)
	if err != nil {
		return err
	}
	if err := w.current(ctx); err != nil {
		return err
	}
	w.m.load.Lock()
	defer w.m.load.Unlock()
	c, _ := w.m.current()
	if c == nil {
		return fmt.Errorf("%w: machine %s is being opened anew", ErrStaleWriter, w.m.id)
	}
	p := placementOf(w.m.id, list)
	index, data := splitFrames(list)
	sections := sealed.Sections{Index: index, Data: data}
	next, err := p.extend(c, list, sealed.Size(sections), w.generation)
	if err != nil {
		if _, other := w.stored(ctx, p, list); other == nil {
			return nil
		}
		return err
	}
	if over := c.unfenced(next, w.generation); len(over) > 0 {
		if next.manifest, err = w.m.fence(ctx, c, over); err != nil {
			return err
		}
	}
	err = w.m.seal(p.key, p.kind, w.generation, sections, func(object []byte) error {
		return w.m.v.store.Put(ctx, p.key, object)
	})
	switch {
	case errors.Is(err, objstore.ErrExists):
		by, err := w.stored(ctx, p, list)
		if err != nil {
			w.release() // the store is ahead of this process
			return err
		}
		if by != w.generation { // where it begins an epoch, the other writer's fence counts
			_, err = w.m.reread(ctx)
			return err
		}
	case err != nil:
		return fmt.Errorf("vault: storing frames %d..%d of machine %s: %w", list[0].First, list[len(list)-1].Last, w.m.id, err)
	}
	w.m.publish(next)
	w.m.v.metrics.stored(p.kind, sealed.Size(sections))
	return nil
}

// placement is where a batch of frames belongs.
type placement struct {
	kind sealed.Kind
	key  string
}

func placementOf(id block.MachineID, list []*frame.Frame) placement {
	if f := list[0]; f.Kind == frame.KindBase {
		return placement{sealed.KindBase, baseName(id, f.Epoch, uint64(f.First))}
	}
	return placement{sealed.KindLog, logName(id, list[0].First)}
}

func (p placement) extend(c *catalog, list []*frame.Frame, size int64, writer uint64) (*catalog, error) {
	if p.kind == sealed.KindBase {
		// What lies below an epoch must stay as it was when its copies were compared with it.
		if e := list[0].Epoch; e < c.last.pos.Epoch {
			return nil, fmt.Errorf("%w: base frames of epoch %d of machine %s come after epoch %d has begun", ErrContinuity, e, c.machine, c.last.pos.Epoch)
		}
		if c.fencedBy(list[0].Epoch, writer) {
			return nil, fmt.Errorf("%w: base frames of epoch %d of machine %s come after this writer tried to begin the next epoch; open the writer again", ErrContinuity, list[0].Epoch, c.machine)
		}
		return c.withBase(list[0].Epoch, p.key, list)
	}
	return c.withLog(p.key, size, writer, list)
}

// parse verifies every checksum: what is damaged must not reach the vault.
func (w *Writer) parse(raws [][]byte) ([]*frame.Frame, error) {
	list := make([]*frame.Frame, len(raws))
	for i, raw := range raws {
		f, err := frame.Parse(raw)
		if err != nil {
			return nil, fmt.Errorf("vault: frame %d of %d for machine %s: %w", i+1, len(raws), w.m.id, err)
		}
		list[i] = f
	}
	return list, nil
}

// current fails unless this writer's lease is the newest.
func (w *Writer) current(ctx context.Context) error {
	if w.closed {
		return fmt.Errorf("%w: this writer of machine %s is closed", ErrStaleWriter, w.m.id)
	}
	name := numbered(leasePrefix(w.m.id), w.generation+1)
	taken, err := w.m.exists(ctx, name)
	if err != nil {
		return fmt.Errorf("vault: checking the writer lease of machine %s: %w", w.m.id, err)
	}
	if !taken {
		return nil
	}
	w.release()
	var by lease
	_ = w.m.document(ctx, name, &by) // only for the message
	return fmt.Errorf("%w: machine %s is written by %q since %s; if that relay is gone for good, open the writer again",
		ErrStaleWriter, w.m.id, by.Owner, by.Taken.Format(time.RFC3339))
}

// stored is the lease under which exactly these frames were stored in their place, or
// why they are not there.
func (w *Writer) stored(ctx context.Context, p placement, list []*frame.Frame) (by uint64, err error) {
	obj, index, err := w.m.open(ctx, p.key, p.kind)
	if err != nil {
		return 0, err
	}
	data, err := w.m.section(ctx, obj, sealed.Data, 0, obj.header.Len[sealed.Data], nil)
	if err != nil {
		return 0, err
	}
	wantIndex, wantData := splitFrames(list)
	if !bytes.Equal(index, wantIndex) || !bytes.Equal(data, bytes.Join(wantData, nil)) {
		return 0, fmt.Errorf("%w: %s of machine %s; another writer was here: open the writer again and go on from its state", ErrConflict, p.key, w.m.id)
	}
	return obj.header.Generation, nil
}

func (w *Writer) release() { w.m.release(w.generation) }

// Close ends the use of the writer. The lease stays until somebody takes the next.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.release()
	return nil
}
