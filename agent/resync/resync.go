// Package resync reads the blocks a replica lacks or may hold wrongly and turns them
// into base frames: the initial copy of a disk and every repair after a doubt.
//
// # Which blocks
//
// All three methods begin with the same set: the stretches in doubt (the whole disk
// if none are named) without what a mounted file system says is free. What no
// understood file system covers counts as used. usage.go says why leaving free
// blocks out is safe, also for a hash compare after a crash.
//
//	full    every used block is sent
//	ranges  every used block in the doubt set is sent
//	hash    64 KiB granules are compared with the vault's hashes, then the 4 KiB
//	        granules inside those that differ; only differing blocks are sent
//
// # Zeros
//
// A block of zeros is never sent as data. It is sent as a zero extent, because the
// replica may hold something older in its place. Only a full copy of a disk of which
// the vault holds nothing (Target.Fresh) skips zeros altogether: there, nothing reads
// back as zeros anyway.
//
// # What the caller owes
//
// Before Run, every write submitted before capture (or the dirty-map swap) began has
// completed: the in-flight barrier. From then until the last base frame is spooled,
// every write to the disks is captured into the epoch of the job: it ranks above
// whatever Run reads, however late. When Run returns without an error, and only
// then, the base is complete.
//
// # Resuming
//
// Each frame comes with the cursor up to which it completes the job. A job that was
// cut goes on from any cursor whose frame is spooled, with frame numbers that
// continue after the last spooled one; Trail keeps the cursors apart. What lies
// between the cursor and the last spooled frame is read and sent a second time, which
// is harmless: both readings rank below the captured writes.
package resync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// Target is one disk of a job.
type Target struct {
	ID   block.DiskID
	Path string // where the disk is at this moment, /dev/sdb
	Size int64  // bytes, as named in the epoch's beginning
	// Doubt is what of the disk must be settled; nil is all of it. It is read in
	// units of 4 KiB (block.FineGranule), never beyond.
	Doubt *block.Set
	// Fresh says that the vault holds nothing of this disk, from no epoch: a full
	// copy may then skip zeros.
	Fresh bool
}

// Cursor says how far a job has come: every disk before Disk, and Disk up to Off, is
// in base frames up to and including Frame. The zero Cursor is the beginning.
type Cursor struct {
	Disk  block.DiskID `json:"disk"`
	Off   int64        `json:"off"` // bytes
	Frame uint64       `json:"frame"`
	// Layout names the mounted file systems whose free space was left out below Off.
	Layout string `json:"layout,omitempty"`
}

// Job is one initial copy or resync of a machine's disks.
type Job struct {
	Machine block.MachineID
	Epoch   block.Epoch
	Method  frame.Method
	Disks   []Target
	// FirstFrame is the number of the first base frame to make; 0 is Cursor.Frame+1.
	// After a cut it is the last spooled frame plus one.
	FirstFrame uint64
	Cursor     Cursor
}

// Sink takes base frames in order. SendBase blocks while the receiver gives no
// credit. It must not keep raw: Run reuses the memory. c holds once frame n is spooled.
type Sink interface {
	SendBase(ctx context.Context, raw []byte, n uint64, c Cursor) error
}

// Hasher answers with the range hashes of the vault's view of a disk at the end of
// the previous epoch: one per granule of [off, off+length), the last of the disk may
// be short. Both off and granule are in bytes, off is a multiple of granule. What the
// vault never got hashes as zeros. Up to three goroutines call it at once.
type Hasher interface {
	RangeHashes(ctx context.Context, disk block.DiskID, off, length, granule int64) ([]block.Hash16, error)
}

// Options are how a job is run; the zero Options are the defaults.
type Options struct {
	Log *slog.Logger
	// Limit is the most to read, in bytes a second, asked anew all the time so that
	// throttle windows take effect at once; nil or 0 is no limit.
	Limit func() int64
	// Greedy reads at full speed even where the protected workload suffers from it.
	Greedy bool
	// Progress is called about once a second and at the end.
	Progress func(Progress)
	// Compression of the frames' payload.
	Compression frame.Compression
	// Open opens a disk for reading; nil opens the device at Target.Path.
	Open func(Target) (Device, error)

	frameSize int // bytes after which a frame is closed; tests make many small ones
}

// Result is what a run did. All but Frames are bytes.
type Result struct {
	Frames  uint64 // number of the last base frame, 0 if none was needed
	Bytes   int64  // raw payload of the frames made by this run
	Encoded int64  // these frames as they travel
	Zeroed  int64  // sent as zero extents
	Read    int64  // read from the disks
	Free    int64  // in doubt, but free space of a mounted file system: not read
}

// The ways in which a job cannot begin, beside reading errors (ReadError).
var (
	ErrResized = errors.New("resync: disk has another size than at the beginning of the epoch")
	ErrCursor  = errors.New("resync: cursor does not belong to this job")
	ErrJob     = errors.New("resync: job cannot be run")
)

// Run reads what the job asks for and hands it to the sink as base frames. When it
// returns nil the base is complete, and the free-space rule of usage.go is kept. On an
// error the result says what was done until then, and the job can be run again from a
// cursor.
func Run(ctx context.Context, job Job, sink Sink, hasher Hasher, opt Options) (Result, error) {
	if err := job.validate(hasher); err != nil {
		return Result{}, err
	}
	r := newRun(job, sink, hasher, opt)
	defer r.close()
	if err := r.open(ctx); err != nil {
		return Result{}, err
	}
	err := r.all(ctx)
	return r.result(), err
}

func (j *Job) validate(hasher Hasher) error {
	if !slices.Contains([]frame.Method{frame.MethodFull, frame.MethodRanges, frame.MethodHash}, j.Method) {
		return fmt.Errorf("%w: unknown method %q", ErrJob, j.Method)
	}
	if j.Method == frame.MethodHash && hasher == nil {
		return fmt.Errorf("%w: a hash compare needs the vault's hashes", ErrJob)
	}
	if j.FirstFrame == 0 {
		j.FirstFrame = j.Cursor.Frame + 1
	}
	if j.FirstFrame <= j.Cursor.Frame {
		return fmt.Errorf("%w: it stands behind frame %d, but the next frame is to be %d: use an older cursor, or the beginning",
			ErrCursor, j.Cursor.Frame, j.FirstFrame)
	}
	if j.first() < 0 {
		return fmt.Errorf("%w: it names disk %s, which the job does not have: start from the beginning", ErrCursor, j.Cursor.Disk)
	}
	return nil
}

// first is the index of the disk to begin with, -1 if the job has no such disk.
func (j *Job) first() int {
	if j.Cursor.Disk.IsZero() {
		return 0
	}
	return slices.IndexFunc(j.Disks, func(t Target) bool { return t.ID == j.Cursor.Disk })
}
