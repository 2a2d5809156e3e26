package capture

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/agent/capture/bpf"
	"github.com/understudy-dr/understudy/pkg/block"
)

// A write submitted before the barrier is either
//
//  1. in the hands of a task that has passed the hook and not yet entered the
//     device's queue (preempted between the two, or with the bio on its bio_list
//     while it waits for another one's tag), or
//  2. in the queue: waiting for a tag, plugged, in the scheduler, at the driver.
//
// Counting completions sees neither what was in flight before the programs came,
// nor when the last of it is through; the in-flight count in sysfs leaves out what
// has no tag yet and need never be zero under load. So: wait until every task that
// could be in 1 has been seen out of it, then freeze the queue, which waits for all
// of 2 (the kernel's own usage count of the queue), and thaw it at once. Writers
// pause for as long as their own requests take to drain.
//
// A device without a request queue (pmem, virtual ones) finishes a write within the
// submission, so that 1 is all there is; a multipath head passes it to its paths,
// whose queues are frozen.

const (
	barrierPoll = time.Millisecond
	busyPause   = 10 * time.Millisecond
	busyTries   = 1000
)

func (s *source) Barrier(ctx context.Context, ids ...block.DiskID) error {
	unlock, err := s.hold()
	if err != nil {
		return err
	}
	disks := make([]Disk, 0, len(s.tracked))
	for _, t := range s.tracked {
		if len(ids) == 0 {
			disks = append(disks, t.Disk)
		}
	}
	for _, id := range ids {
		t, err := s.disk(id)
		if err != nil {
			unlock()
			return err
		}
		disks = append(disks, t.Disk)
	}
	unlock()
	return barrier(ctx, disks)
}

func barrier(ctx context.Context, disks []Disk) error {
	start := time.Now()
	if err := waitSubmitters(ctx); err != nil {
		return fmt.Errorf("capture: barrier: %w", err)
	}
	for _, d := range disks {
		name, err := kernelName(d.Major, d.Minor)
		if err != nil {
			return err
		}
		for _, queue := range queuesOf(name) {
			if err := freeze(ctx, queue); err != nil {
				return fmt.Errorf("capture: barrier on %s after %v: %w", d.Name, time.Since(start).Round(time.Millisecond), err)
			}
		}
	}
	return nil
}

// kernelName is the name of the device that bears a number now.
func kernelName(major, minor uint32) (string, error) {
	dir, err := filepath.EvalSymlinks(numberedFile(major, minor, ""))
	if err != nil {
		return "", fmt.Errorf("%w: no device %d:%d", ErrNoDisk, major, minor)
	}
	return filepath.Base(dir), nil
}

// queuesOf are the devices whose queues hold the requests of a disk: its own, or
// those of the paths under a multipath head.
func queuesOf(name string) []string {
	if _, err := os.Stat(filepath.Join(sysBlock, name, "mq")); err == nil {
		return []string{name}
	}
	if slaves := sysList(name, "slaves"); len(slaves) > 0 {
		return slaves
	}
	return sysList(name, "multipath")
}

// freezing holds a queue while it is being frozen: the attribute is changed and
// changed back, which must not be done twice at once.
var freezing sync.Map // kernel name to chan struct{} of one place

// freeze freezes the queue and thaws it at once. It returns when all requests that
// were in the queue have drained; if the context ends before, the queue is thawed
// whenever they do.
func freeze(ctx context.Context, name string) error {
	place, _ := freezing.LoadOrStore(name, make(chan struct{}, 1))
	turn := place.(chan struct{})
	hangs := func() error {
		return fmt.Errorf("requests on %s do not drain (the device hangs?): %w", name, ctx.Err())
	}
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		return hangs()
	}
	done := make(chan error, 1)
	go func() {
		defer func() { <-turn }()
		done <- freezeNow(name)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return hangs()
	}
}

// freezeNow tries the ways to freeze a queue until one is taken.
func freezeNow(name string) error {
	err := changeRequests(name)
	if err != nil && rewritingFreezes(release()) {
		err = rewriteRotational(name)
	}
	if err != nil {
		return fmt.Errorf("freezing the queue of %s: %w", name, err)
	}
	return nil
}

// changeRequests changes the number of requests by one and back. The change freezes
// the queue on every kernel; writing the same number does not.
func changeRequests(name string) error {
	was, err := sysInt(name, "queue/nr_requests")
	if err != nil {
		return err
	}
	path := filepath.Join(sysBlock, name, "queue/nr_requests")
	other := was - 1
	if was <= 4 { // the least that the kernel takes
		other = was + 1
	}
	if err := writeNumber(path, other); err != nil {
		return err
	}
	return writeNumber(path, was)
}

// rewritingFreezes: from 6.11 writing any limit of a queue freezes it, also the same
// value.
func rewritingFreezes(release string) bool {
	var major, minor int
	n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor)
	return n == 2 && (major > 6 || major == 6 && minor >= 11)
}

// rewriteRotational writes what is there. It serves devices of few requests, where
// their number cannot be changed.
func rewriteRotational(name string) error {
	was, err := sysInt(name, "queue/rotational")
	if err != nil {
		return err
	}
	return writeNumber(filepath.Join(sysBlock, name, "queue/rotational"), was)
}

// writeNumber sets an attribute, again while somebody else is at the queue.
func writeNumber(path string, n int64) (err error) {
	for range busyTries {
		err = os.WriteFile(path, strconv.AppendInt(nil, n, 10), 0)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		time.Sleep(busyPause)
	}
	return err
}

// submitter is a task that may be between submission and queue, as the iterator
// writes it.
type submitter struct {
	Start    uint64
	BioList  uint64
	Utime    uint64
	Switches uint64
	PID      uint32
	Running  uint32
}

// left: the task has been out of the submission since it was seen as was.
func (now submitter) left(was submitter) bool {
	if now.Start != was.Start {
		return true // another task
	}
	if now.BioList != 0 {
		return false
	}
	// Between hook and bio_list a task runs or is preempted: it neither sleeps nor
	// spends time in user space.
	return was.BioList != 0 || now.Running == 0 || now.Switches != was.Switches || now.Utime != was.Utime
}

// waitSubmitters returns when every task that was submitting at the call has been
// seen not to.
func waitSubmitters(ctx context.Context) error {
	list, closeAll, err := submitterIterator()
	if err != nil {
		return err
	}
	defer closeAll()
	waiting, err := list()
	if err != nil {
		return err
	}
	delete(waiting, uint32(os.Getpid()))
	for len(waiting) > 0 {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d tasks are still submitting: %w", len(waiting), ctx.Err())
		case <-time.After(barrierPoll):
		}
		now, err := list()
		if err != nil {
			return err
		}
		for pid, was := range waiting {
			if is, ok := now[pid]; !ok || is.left(was) {
				delete(waiting, pid)
			}
		}
	}
	return nil
}

// submitterIterator lists the tasks that submit or run, by thread id.
func submitterIterator() (list func() (map[uint32]submitter, error), closeAll func(), err error) {
	coll, err := loadKernelProgram(bpf.KernelProgSubmitters, nil)
	if err != nil {
		return nil, nil, err
	}
	iter, err := link.AttachIter(link.IterOptions{Program: coll.Programs[bpf.KernelProgSubmitters]})
	if err != nil {
		coll.Close()
		return nil, nil, fmt.Errorf("attaching the task iterator: %w", err)
	}
	return func() (map[uint32]submitter, error) { return readSubmitters(iter) },
		func() { _ = iter.Close(); coll.Close() }, nil
}

func readSubmitters(iter *link.Iter) (map[uint32]submitter, error) {
	r, err := iter.Open()
	if err != nil {
		return nil, fmt.Errorf("iterating over the tasks: %w", err)
	}
	defer func() { _ = r.Close() }()
	tasks := map[uint32]submitter{}
	for {
		var t submitter
		switch err := binary.Read(r, binary.NativeEndian, &t); {
		case err == nil:
			tasks[t.PID] = t
		case errors.Is(err, io.EOF):
			return tasks, nil
		default:
			return nil, fmt.Errorf("iterating over the tasks: %w", err)
		}
	}
}
