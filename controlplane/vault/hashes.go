package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/understudy-dr/understudy/controlplane/objstore"
	"github.com/understudy-dr/understudy/controlplane/vault/sealed"
	"github.com/understudy-dr/understudy/pkg/block"
)

const (
	maxGranule = 1 << 20
	// maxHashes bounds one answer: 64 GiB of coarse granules, 16 MiB of hashes.
	maxHashes = 1 << 20
	// hashRead is how much is read at once where hashes must be computed.
	hashRead = 1 << 20
)

// RangeHashes yields the range hashes of n bytes of a disk from off on, as the disk
// was at a position: one for each granule (bytes), the last of a disk shorter. The
// zero position stands for what a resync compares with: the end of the epoch before
// the newest if the newest is still copying, else the end of the log.
//
// Zeros and unchanged parts of merged runs cost no read of data; the rest is read and
// hashed.
func (m *Machine) RangeHashes(ctx context.Context, p block.Position, disk block.DiskID, off, n, granule int64) ([]block.Hash16, error) {
	if err := checkHashes(off, n, granule); err != nil {
		return nil, err
	}
	v, err := m.hashView(ctx, p)
	if err != nil {
		return nil, err
	}
	return v.hashes(ctx, disk, off, n, granule, false)
}

// checkHashes bounds one answer.
func checkHashes(off, n, granule int64) error {
	switch {
	case granule < block.SectorSize || granule > maxGranule || granule%block.SectorSize != 0:
		return fmt.Errorf("vault: range hashes of %d bytes each: want a multiple of %d up to %d", granule, block.SectorSize, maxGranule)
	case off < 0 || n < 0 || off%granule != 0 || n/granule > maxHashes:
		return fmt.Errorf("vault: range hashes of %d bytes from %d on, %d each: want an aligned stretch of at most %d granules", n, off, granule, maxHashes)
	}
	return nil
}

// hashes answers from a view; for a proof from data alone.
func (v *View) hashes(ctx context.Context, disk block.DiskID, off, n, granule int64, proof bool) ([]block.Hash16, error) {
	d, err := v.disk(disk)
	if err != nil {
		return nil, err
	}
	if off+n > d.Size {
		return nil, fmt.Errorf("vault: range hashes up to %d of disk %s, which has %d bytes", off+n, disk, d.Size)
	}
	h := hasher{view: v, disk: d, granule: granule, proof: proof, out: make([]block.Hash16, 0, (n+granule-1)/granule)}
	for g := off; g < off+n; g += granule {
		if err := h.next(ctx, block.Extent{Off: g, Len: min(granule, off+n-g)}); err != nil {
			return nil, err
		}
	}
	return h.out, h.compute(ctx)
}

// hashView is the view that hashes are answered from. It is kept for the next
// question, since a resync asks thousands about one position.
func (m *Machine) hashView(ctx context.Context, p block.Position) (*View, error) {
	if p == (block.Position{}) { // what is equal is not sent: an answer of yesterday would lose it
		if err := m.confirmWriter(ctx); err != nil {
			return nil, err
		}
	}
	c, err := m.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	e := c.epoch(c.last.pos.Epoch)
	if e == nil {
		return nil, c.noPoint("the end of the log", "there is none yet")
	}
	if p == (block.Position{}) {
		p = c.resyncPosition(e)
	}
	if c.torn(p.Epoch) {
		return nil, c.damage[0]
	}
	if !c.reaches(p) {
		return nil, c.noPoint(p.String(), "it is no longer the end of a run")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	// Epochs without a frame between them end at one point, and may have other disks.
	if m.hashing == nil || m.hashing.point != p || !slices.Equal(m.hashing.disks, e.Disks) {
		m.hashing = &View{m: m, point: p, disks: e.Disks, layers: c.layers(p), unretained: true}
	}
	return m.hashing, nil
}

// forgetHashing frees that view's memory once no resync can ask.
func (m *Machine) forgetHashing(c *catalog) {
	if e := c.epoch(c.last.pos.Epoch); e != nil && e.offers(c.last.pos.Seq) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.hashing = nil
	}
}

// resyncPosition is the end of the history that the newest epoch corrects.
func (c *catalog) resyncPosition(newest *Epoch) block.Position {
	if newest.offers(c.last.pos.Seq) {
		return c.last.pos
	}
	if i, _ := c.findBoundary(newest.Begin); i > 0 {
		return c.bounds[i-1].pos
	}
	return c.manifest.Log
}

// reaches reports whether the layers of a position can be told: thinning merges what
// lies before and after other positions.
func (c *catalog) reaches(p block.Position) bool {
	if p.Seq >= c.manifest.Log.Seq {
		return true
	}
	for i := range c.manifest.Runs {
		if c.manifest.Runs[i].position() == p {
			return true
		}
	}
	return false
}

// hasher answers for one granule after the other, and reads neighbours whose hash
// is not known at once.
type hasher struct {
	view    *View
	disk    Disk
	granule int64
	proof   bool // nothing is taken for known but that there is no data
	out     []block.Hash16
	unknown block.Extent // to be read and hashed
	buf     []byte
}

// next answers for the granule behind the last one.
func (h *hasher) next(ctx context.Context, g block.Extent) error {
	hash, known, err := h.known(ctx, g)
	if err != nil {
		return err
	}
	if known || h.unknown.Len+g.Len > hashRead {
		if err := h.compute(ctx); err != nil {
			return err
		}
	}
	if known {
		h.out = append(h.out, hash)
		return nil
	}
	if h.unknown.Empty() {
		h.unknown.Off = g.Off
	}
	h.unknown.Len += g.Len
	return nil
}

// compute reads and hashes what is unknown so far.
func (h *hasher) compute(ctx context.Context) error {
	if h.unknown.Empty() {
		return nil
	}
	if h.buf == nil {
		h.buf = make([]byte, hashRead)
	}
	b := h.buf[:h.unknown.Len]
	if _, err := h.view.ReadAt(ctx, h.disk.ID, b, h.unknown.Off); err != nil {
		return err
	}
	h.out = block.AppendHashes(h.out, b, h.granule)
	h.unknown = block.Extent{}
	return nil
}

// known is the hash of a granule that can be had without reading data: it is zeros, or
// all of it comes from one object that holds its hash.
func (h *hasher) known(ctx context.Context, g block.Extent) (hash block.Hash16, ok bool, err error) {
	w, err := h.view.mapped(ctx, h.disk, g.Off)
	if err != nil || g.End() > w.end {
		return hash, false, err
	}
	var from *object
	covered := int64(0)
	for i := w.list.Find(g.Off); i < len(w.list) && w.list[i].Off < g.End(); i++ {
		s := w.list[i]
		if s.Src < 0 {
			continue
		}
		src := w.sources[s.Src]
		if from != nil && from.key != src.key || src.header.Kind != sealed.KindRun {
			return hash, false, nil
		}
		from = src.object
		covered += min(s.End, g.End()) - max(s.Off, g.Off)
	}
	switch {
	case from == nil && h.proof:
		return block.NoData, true, nil
	case from == nil:
		return block.ZeroHash(g.Len), true, nil
	case h.proof || covered < g.Len || h.granule != block.CoarseGranule || g.Len != block.CoarseGranule:
		return hash, false, nil
	}
	all, err := h.view.m.hashes(ctx, from)
	if errors.Is(err, objstore.ErrNotFound) {
		return hash, false, nil // thinned away since it was mapped: reading finds what replaced it
	}
	if err != nil {
		return hash, false, h.view.m.readError(from.key, h.disk.ID, err)
	}
	hash, ok = findHash(all, h.disk.ID, g.Off)
	return hash, ok, nil
}

// hashes fetches an object's range hashes, through the cache.
func (f *fetcher) hashes(ctx context.Context, o *object) ([]stretch, error) {
	return f.v.hashes.get(ctx, o.key, func() ([]stretch, int64, error) {
		b, err := f.section(ctx, o, sealed.Hashes, 0, o.header.Len[sealed.Hashes], nil)
		if err != nil {
			return nil, 0, err
		}
		all, err := parseHashes(b)
		return all, int64(len(b)+64*len(all)) + 64, err
	})
}
