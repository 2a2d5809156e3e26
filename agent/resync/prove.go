package resync

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-dr/understudy/pkg/block"
)

// # Proving that replica and source are equal while both live
//
// A proof reads a stretch of the disk and compares its hashes with the vault's as of a
// frame boundary P. Both sides move meanwhile, so it must say which blocks it may
// compare at all. A witness of the writes (the capture) tells it:
//
//  1. Watch: the witness begins to note what is written, and every write submitted
//     before has completed. The disk shows those, and the log holds them.
//  2. The stretch is read and hashed.
//  3. Settle: every write submitted before the reading ended is noted, and in the log up
//     to a boundary P that the vault has. Everything written up to P is noted, too.
//
// A block that is not noted was not written from Watch until P: what was read is what
// the disk held all the time, and what the log says at P. A write still in flight while
// the block was read was submitted before the reading ended, so it is noted. A noted
// block says nothing; it is tried again later, with fewer blocks beside it and so in
// less time, and at last reported as not compared.
//
// Free space is left out (usage.go says why). What the vault holds no data for, but the
// disk does, is told apart from a difference: it was free when it was copied, and has
// become used without being written, as fallocate does, or it was discarded on a device
// that goes on showing the old bytes. No file shows those. A block that should have been
// copied, or of which capture missed the first write, looks the same, and files do show
// it: only the file system's own map of unwritten extents, which it gives file by file,
// could tell them apart. So it counts as not compared and not as equal, is told as a
// warning, and a resync settles it: it copies them, and what is absent after that is new.
//
// One such case still looks like a difference: a block that a compare by hash left out as free,
// of which the vault has older bytes, and that was allocated since without being written.
// No file shows it, and the resync makes both sides equal for good.

// Witness sees every write to the disks.
type Witness interface {
	// Watch begins to note the writes to a stretch of a disk; every write submitted
	// before has completed when it returns.
	Watch(ctx context.Context, disk block.DiskID, within block.Extent) (Watch, error)
}

// Watch is what a witness notes.
type Watch interface {
	// Settle returns a frame boundary that the vault has, and what was written between
	// Watch and it. Every write submitted before the call is before the boundary.
	Settle(ctx context.Context) (block.Position, *block.Set, error)
	// Close ends the noting.
	Close()
}

// Prover answers as Hasher does, but as of a frame boundary, of bytes that the vault
// reads anew, and with block.NoData where it holds none. An error with the wire's code
// hashes-damaged says that what it stores of the range cannot be used.
type Prover interface {
	ProofHashes(ctx context.Context, at block.Position, disk block.DiskID, off, length, granule int64) ([]block.Hash16, error)
}

const (
	// roundSize is the stretch that is read at once by 64 KiB. Its boundary has to be in
	// the vault before it can be compared, and so have those of the tries that follow:
	// some seconds each, whatever the size.
	roundSize = 2 << 30
	// retrySize is that of a round by 4 KiB; from the third round on retryLast.
	retrySize = 16 << 20
	retryLast = 1 << 20
	// rounds by 4 KiB in which a block may be found unwritten, before it is given up.
	rounds = 4
	// confirmations is how often a difference is seen again before it is one: one in five
	// writes of a busy memory-mapped page was changed on its way on a loaded machine.
	confirmations = 5
	// triesAtOnce bounds the small tries under way.
	triesAtOnce = 8
)

// Proof compares one disk with the vault's replica of it.
type Proof struct {
	d       *disk
	witness Witness
	prover  Prover
	log     *slog.Logger
	asks    chan struct{} // tickets to ask the prover
	stop    func()
	// Free is what was left out on the word of a mounted file system, bytes.
	Free int64
}

// Verdict is what a proof found of a stretch: disjoint sets, in whole blocks.
type Verdict struct {
	// First and Last are the frame boundaries between which it was compared.
	First, Last block.Position
	Equal       *block.Set
	// Written was written during each try: not compared.
	Written *block.Set
	// Absent has no data in the vault, but has on the disk: not compared.
	Absent *block.Set
	// Differs is different in the vault, each time it was read.
	Differs *block.Set
	// Damaged cannot be given by the vault: an object that it needs is not usable.
	Damaged *block.Set
}

func newVerdict() Verdict {
	return Verdict{Equal: block.NewSet(), Written: block.NewSet(), Absent: block.NewSet(), Differs: block.NewSet(), Damaged: block.NewSet()}
}

// add joins what was found of other blocks.
func (v *Verdict) add(o Verdict) {
	v.Equal.Union(o.Equal)
	v.Written.Union(o.Written)
	v.Absent.Union(o.Absent)
	v.Differs.Union(o.Differs)
	v.Damaged.Union(o.Damaged)
}

// OpenProof begins the proof of a disk, all of it but its free space and what is
// excepted: stretches that capture does not see. Close it after use.
func OpenProof(ctx context.Context, t Target, except *block.Set, w Witness, p Prover, opt Options) (*Proof, error) {
	r := newRun(Job{Disks: []Target{t}}, nil, nil, opt)
	if err := r.open(ctx); err != nil {
		r.close()
		return nil, err
	}
	q := &Proof{d: r.disks[0], witness: w, prover: p, log: r.log, asks: r.asks, Free: r.disks[0].may.Bytes() - r.disks[0].want.Bytes()}
	if except != nil {
		blind := block.NewSet()
		for e := range except.All() {
			blind.Add(e.Align(block.FineGranule))
		}
		q.d.want, q.d.may = minus(q.d.want, blind), minus(q.d.may, blind)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var pacing errgroup.Group
	pacing.Go(func() error { return q.d.pace.run(ctx) })
	q.stop = func() { cancel(); _ = pacing.Wait(); r.close() }
	return q, nil
}

// Close ends the reading.
func (q *Proof) Close() { q.stop() }

// Total is what the proof will compare, in bytes from off on.
func (q *Proof) Total(off int64) (n int64) {
	for e := range q.d.want.Within(block.Extent{Off: off, Len: max(0, q.d.Size-off)}) {
		n += e.Len
	}
	return n
}

// Next proves the stretch of the disk from off on and returns where it ends: at the
// disk's end when it is the last.
func (q *Proof) Next(ctx context.Context, off int64) (Verdict, int64, error) {
	v := newVerdict()
	end := min(off+roundSize, q.d.Size)
	left := block.NewSet()
	for e := range q.d.want.Within(block.Extent{Off: off, Len: end - off}) {
		left.Add(e)
	}
	if left.Count() == 0 {
		return v, end, nil
	}
	first, err := q.try(ctx, left, block.CoarseGranule)
	if err != nil {
		return v, off, err
	}
	v.First, v.Last, v.Equal = first.First, first.Last, first.Equal
	left = minus(left, first.Equal)
	suspects := block.NewSet()
	for round := 0; round < rounds && left.Count() > 0; round++ {
		size := int64(retrySize)
		if round > 1 {
			size = retryLast
		}
		if left, err = q.retry(ctx, &v, left, suspects, size); err != nil {
			return v, off, err
		}
	}
	v.Written = left
	return v, end, q.confirm(ctx, &v, suspects)
}

// retry compares what is left block by block and returns what was written meanwhile.
func (q *Proof) retry(ctx context.Context, v *Verdict, left, suspects *block.Set, size int64) (*block.Set, error) {
	again := block.NewSet()
	err := q.each(ctx, left, size, func(t Verdict) {
		v.take(t)
		suspects.Union(t.Differs)
		again.Union(t.Written)
	})
	return again, err
}

// each tries a set in pieces, some at once: most of a try is waiting for the vault to
// have its boundary.
func (q *Proof) each(ctx context.Context, what *block.Set, size int64, take func(Verdict)) error {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(triesAtOnce)
	for part := range pieces(what, size) {
		g.Go(func() error {
			t, err := q.try(ctx, part, block.FineGranule)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			take(t)
			return nil
		})
	}
	return g.Wait()
}

// confirm reads suspects again, each time after the file systems have written what they
// hold. A page that is changed while it is being written (a memory-mapped file's, for one)
// is captured as it was and stored as it became: no power cut promises it either way, and
// the file system, which knows that it changed, writes it once more. What is a difference
// still differs after that.
func (q *Proof) confirm(ctx context.Context, v *Verdict, suspects *block.Set) error {
	for range confirmations {
		if suspects.Count() == 0 {
			return nil
		}
		err := q.d.dev.Sync(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // a difference must not stay hidden behind a file system that hangs
			q.log.Warn("not everything was written before a difference is looked at again", "disk", q.d.Path, "id", q.d.ID, "err", err)
		}
		differs := block.NewSet()
		err = q.each(ctx, suspects, retryLast, func(t Verdict) {
			v.take(t)
			differs.Union(t.Differs)
			v.Written.Union(t.Written)
			if t.Equal.Count() > 0 {
				q.log.Warn("a difference was gone once the file systems had written: a page changed while it was being written",
					"disk", q.d.Path, "id", q.d.ID, "bytes", t.Equal.Bytes(), "first", t.Equal.Extents()[0].Off, "position", t.First)
			}
		})
		if err != nil {
			return err
		}
		suspects = differs
	}
	v.Differs.Union(suspects)
	return nil
}

// take adds what a fine try has settled, and what any has proved.
func (v *Verdict) take(t Verdict) {
	v.Equal.Union(t.Equal)
	v.Absent.Union(t.Absent)
	v.Damaged.Union(t.Damaged)
	if v.First == (block.Position{}) || t.First.Before(v.First) {
		v.First = t.First
	}
	if v.Last.Before(t.Last) {
		v.Last = t.Last
	}
}

// pieces cuts a set into sets that span at most size bytes of the disk each.
func pieces(s *block.Set, size int64) func(func(*block.Set) bool) {
	return func(yield func(*block.Set) bool) {
		part, begin := block.NewSet(), int64(0)
		for e := range s.All() {
			for !e.Empty() {
				if part.Count() > 0 && e.Off-begin >= size {
					if !yield(part) {
						return
					}
					part = block.NewSet()
				}
				if part.Count() == 0 {
					begin = e.Off
				}
				head := e.Intersect(block.Extent{Off: e.Off, Len: begin + size - e.Off})
				part.Add(head)
				e = block.Extent{Off: head.End(), Len: e.End() - head.End()}
			}
		}
		if part.Count() > 0 {
			yield(part)
		}
	}
}

func (v *Verdict) String() string {
	return fmt.Sprintf("equal %d, written %d, absent %d, differs %d, damaged %d bytes", v.Equal.Bytes(), v.Written.Bytes(), v.Absent.Bytes(), v.Differs.Bytes(), v.Damaged.Bytes())
}
