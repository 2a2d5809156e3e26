// Package capture sees every block write of the protected disks, in the order in
// which the kernel saw it, and hands it on with its data. What it could not take
// it has marked in a dirty map before; nothing is ever lost without being named.
//
// # Use
//
// Open finds what an earlier process left in the kernel, or begins anew. Track a
// disk, and its writes are marked in its dirty map. Arm, and from its return on
// every write is in the ring with its data, or counted as lost. Barrier, and
// every write that was not captured has reached the disk: a base may be read.
//
// Poll delivers records in place, out of the ring; Advance gives their room back
// once they are stored. Everything lives in the kernel and goes on while the
// process is dead: the next Open resumes, at the last Advance.
//
// # Loss
//
// Poll reports a loss at the place where it happened: what was delivered before is
// a prefix of the log, what follows belongs to another epoch. Health names the
// reason. Dirty holds every block in doubt; Arm begins again.
//
// # Generations of the dirty map
//
//	SwapDirty    opens a new generation; the records of all writes marked in the
//	             old one lie before the ring position that it returns
//	ForgetDirty  drops the old one, when all those records are committed
//	RetainDirty  puts it back instead
//	Dirty        is the union of both: what is in doubt if data were lost now
package capture

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// What the operator can be told apart. Errors that wrap these name the disk and
// what to do.
var (
	// ErrUnsupported: this system or kernel cannot capture. See Probe.
	ErrUnsupported = errors.New("capture: not supported here")
	// ErrBusy: another process uses the same instance.
	ErrBusy = errors.New("capture: instance in use by another process")
	// ErrNoDisk: no disk of that name is present.
	ErrNoDisk = errors.New("capture: no such disk")
	// ErrTracked: the disk is tracked already.
	ErrTracked = errors.New("capture: disk is already tracked")
	// ErrNotTracked: the disk is not tracked.
	ErrNotTracked = errors.New("capture: disk is not tracked")
	// ErrRefused: the disk is of a kind that cannot be captured exactly.
	ErrRefused = errors.New("capture: disk refused")
	// ErrNothing: there is no capture in the kernel to go on with.
	ErrNothing = errors.New("capture: there is none in the kernel")
	// ErrClosed: the source was closed.
	ErrClosed = errors.New("capture: source is closed")
)

// Options for Open. The zero value is ready.
type Options struct {
	// Instance keeps agents on one kernel apart: a name of a directory. Default "agent".
	Instance string
	// RingBytes is the size of the ring: a power of two, 64 to 256 MiB unless for a
	// test. Default 64 MiB. A resumed ring keeps its size.
	RingBytes int
	// BPFFS is where the BPF file system is mounted, or will be. Default /sys/fs/bpf.
	BPFFS string
	// Existing asks for what is in the kernel, and for nothing new where that cannot be
	// resumed: ErrNothing.
	Existing bool
	// Log receives what an operator may want to know later. Default: nothing.
	Log *slog.Logger
}

// Resume tells what Open found.
type Resume struct {
	// Intact: the programs of an earlier process are attached and no write went by
	// them unmarked. Else everything began anew and nothing is tracked.
	Intact bool
	// Detail says why not, for the operator. Empty if there was simply nothing.
	Detail string
	// Origin tells how it began, if Early began it; nil if not.
	Origin *Origin
}

// Record is one captured write, discard or zeroing.
type Record struct {
	Disk block.DiskID
	Op   frame.Op
	block.Extent
	// At is the time of the submission, never later than it was. It can step back
	// between records of different CPUs; the order of delivery is the truth.
	At time.Time
	// Data is what a write wrote, in the ring itself: valid during the callback only.
	Data []byte
	// More: this write or another one is continued in a record that follows. A frame
	// that ends here is still what a power cut could leave, but may tear that write.
	More bool
	// Pos is the ring position after this record, for Advance.
	Pos uint64
}

// Armed tells where a stretch of unbroken capture begins.
type Armed struct {
	// Generation numbers the stretches of one ring, upwards.
	Generation uint64
	// Ring names the ring: positions in different rings do not compare.
	Ring uint64
	// Pos is the ring position at which the stretch begins.
	Pos uint64
}

// Source is the capture of one machine. Poll and Advance are for one goroutine at a
// time; the rest may be called from any.
type Source interface {
	// Track begins to mark the disk's writes in its dirty map. They come with their
	// data from the next Arm on (at once, if armed).
	Track(ctx context.Context, disk Disk) error
	// Untrack lets go of the disk. Its records still in the ring are not delivered.
	Untrack(id block.DiskID) error
	// Disks are the tracked disks, by name.
	Disks() []Disk
	// Exclude makes capture blind to writes wholly within the extents: they are
	// neither marked nor recorded. It replaces what was excluded before on the disk.
	Exclude(id block.DiskID, extents []block.Extent) error

	// Arm drops what is in the ring and begins an unbroken stretch of capture. From
	// its return on every write is in the ring or counted as lost.
	Arm(ctx context.Context) (Armed, error)
	// Armed is the stretch that goes on; false if there is none, or it is broken. Ring is
	// set in any case: another one than before has new dirty maps, too.
	Armed() (Armed, bool)
	// Disarm goes back to the dirty map alone.
	Disarm() error
	// Barrier returns when every write to the disks (all tracked ones, if none are
	// named) that was submitted before the call has completed.
	Barrier(ctx context.Context, ids ...block.DiskID) error

	// Poll calls fn with each record that is complete, in ring order. fn reports
	// whether it took the record: if not, Poll ends and delivers it again next time.
	// n counts the records taken. lost: a write is missing here, nothing that
	// follows belongs to this stretch; it stays so until Arm.
	Poll(fn func(Record) (taken bool)) (n int, lost bool, err error)
	// Position is where Advance last stood: before it, the ring is free.
	Position() uint64
	// Polled is where Poll stands: every record before it was delivered, or is of no
	// tracked disk.
	Polled() uint64
	// Behind reports whether the last Poll left records in the ring that were reserved
	// before it began: then the writes before that moment are not all delivered.
	Behind() bool
	// Doze is for who wants to leave the ring alone for longer: the channel gets a value
	// soon after a record has come into a ring that Advance had freed to its end, and may
	// get one for nothing. Nil where the ring is not freed, or nothing tells. Only the
	// channel of the last call counts.
	Doze() <-chan struct{}
	// Advance frees the ring up to pos, a Record.Pos. Only when all before is stored.
	Advance(pos uint64) error
	// Rewind makes Poll begin again at Position.
	Rewind()

	// Health polls what may have been lost. See Health.
	Health() (Health, error)

	// SwapDirty opens a new generation of every dirty map. What was retained before
	// and not forgotten is retained still.
	SwapDirty(ctx context.Context) (pos uint64, err error)
	// Dirty is every block of the disk in doubt if the ring were lost now.
	Dirty(id block.DiskID) (*block.Set, error)
	// MarkDirty puts stretches of the disk that another witness doubts into the current
	// generation, as if they had been written and lost.
	MarkDirty(id block.DiskID, doubt *block.Set) error
	// ForgetDirty drops the retained generation. If something was lost since Arm it
	// does what RetainDirty does: the loss may lie in there.
	ForgetDirty() error
	// RetainDirty merges the retained generation into the current one.
	RetainDirty() error

	// Close lets go of everything but leaves it in the kernel, capturing.
	Close() error
	// Remove ends the capture and takes everything out of the kernel.
	Remove() error
}
