package overlay

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/controlplane/recovery"
)

// WriteAt writes to the overlay. When it returns, the bytes are read back; they are
// durable after a Sync.
func (o *Overlay) WriteAt(p []byte, off int64) (n int, err error) {
	if off < 0 || off > o.size || int64(len(p)) > o.size-off {
		return 0, io.ErrShortWrite
	}
	for n < len(p) {
		at := off + int64(n)
		end, set := o.bits.run(at/BlockSize, blocksOf(off+int64(len(p))))
		part := p[n:min(int64(len(p)), end*BlockSize-off)]
		done := true
		if set {
			_, err = o.file.WriteAt(part, o.dataAt+at)
		} else {
			done, err = o.fresh(at, at+int64(len(part)), func() error {
				_, err := o.file.WriteAt(part, o.dataAt+at)
				return err
			})
		}
		if err != nil {
			return n, err
		}
		if done {
			n += len(part)
		}
	}
	return n, nil
}

// Zero makes [off, off+length) read as zeros. With hole it gives the space back;
// without, the space is reserved.
func (o *Overlay) Zero(off, length int64, hole bool) error {
	if off < 0 || off > o.size || length < 0 || length > o.size-off {
		return io.ErrShortWrite
	}
	for at, limit := off, off+length; at < limit; {
		end, set := o.bits.run(at/BlockSize, blocksOf(limit))
		to := min(end*BlockSize, limit)
		done, err := true, error(nil)
		if set {
			err = o.punch(at, to)
		} else {
			done, err = o.fresh(at, to, func() error { return nil }) // unset blocks are holes already
		}
		if err != nil {
			return err
		}
		if done {
			at = to
		}
	}
	if hole || length == 0 {
		return nil
	}
	return unix.Fallocate(int(o.file.Fd()), unix.FALLOC_FL_KEEP_SIZE, o.dataAt+off, length)
}

// fresh does the first write to the blocks of [from, to), none of which was in the
// overlay when the caller looked: it copies up what the write leaves of the first
// and the last block, has the caller write, and marks the blocks. It reports false,
// having done nothing, if another write came first.
func (o *Overlay) fresh(from, to int64, write func() error) (done bool, err error) {
	first, end := from/BlockSize, blocksOf(to)
	o.claims.take(first, end)
	defer o.claims.release(first, end)
	if run, set := o.bits.run(first, end); set || run != end {
		return false, nil
	}
	blockEnd := min(end*BlockSize, o.size)
	err = o.copyUp(first*BlockSize, from)
	if err == nil {
		err = o.copyUp(to, blockEnd)
	}
	if err == nil {
		err = write()
	}
	if err != nil {
		// An unset block must be a hole: the next partial write relies on it.
		if undo := o.punch(first*BlockSize, blockEnd); undo != nil {
			o.syncs.fail(undo)
		}
		return false, err
	}
	o.bits.set(first, end)
	return true, nil
}

// copyUp copies [from, to), less than a block, from the base. Zeros need no copy.
func (o *Overlay) copyUp(from, to int64) error {
	if from >= to {
		return nil
	}
	buf := o.heads.Get().(*[BlockSize]byte)
	defer o.heads.Put(buf)
	b := buf[:to-from]
	if err := recovery.ReadFull(o.base, b, from); err != nil {
		return fmt.Errorf("reading %d bytes at %d below the overlay: %w", len(b), from, err)
	}
	if !slices.ContainsFunc(b, func(c byte) bool { return c != 0 }) {
		return nil
	}
	_, err := o.file.WriteAt(b, o.dataAt+from)
	return err
}

// punch makes [from, to) of the disk a hole in the file.
func (o *Overlay) punch(from, to int64) error {
	err := unix.Fallocate(int(o.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, o.dataAt+from, to-from)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("the file system of the overlay cannot make holes: put it on ext4, xfs, btrfs or tmpfs: %w", err)
	}
	return err
}

// claims lets one writer at a time bring a block into the overlay. Those that are
// there already need no claim.
type claims struct {
	mu    sync.Mutex
	held  [][2]int64
	freed chan struct{} // closed and replaced whenever a claim is released
}

// take waits until nobody holds any of [from, to), then holds all of it.
func (c *claims) take(from, to int64) {
	for {
		c.mu.Lock()
		if !slices.ContainsFunc(c.held, func(h [2]int64) bool { return h[0] < to && from < h[1] }) {
			c.held = append(c.held, [2]int64{from, to})
			c.mu.Unlock()
			return
		}
		freed := c.freed
		c.mu.Unlock()
		<-freed
	}
}

func (c *claims) release(from, to int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.held, [2]int64{from, to})
	c.held = slices.Delete(c.held, i, i+1)
	close(c.freed)
	c.freed = make(chan struct{})
}
