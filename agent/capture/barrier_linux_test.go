package capture

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// slowDisk is a disk with one write under way, which has not been let through.
func slowDisk(t *testing.T, off int64, text string) (d Disk, slow *slowFile, written *sync.WaitGroup) {
	t.Helper()
	slow = newSlowFile(t, 16<<20)
	// Not by os.OpenFile: that has the kernel poll the file, inside the runtime, where the
	// goroutine that answers may not run.
	fd, err := unix.Open(slow.path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	must(t, err)
	f := os.NewFile(uintptr(fd), slow.path)
	_, err = f.Stat() // old kernels learn its size only so
	must(t, err)
	dev := attachLoop(t, f)
	must(t, f.Close())
	t.Cleanup(func() { slow.open(); detachLoop(dev) })
	d, err = Resolve(dev)
	must(t, err)
	slow.close()
	data := aligned(8192)
	copy(data, text)
	disk := openDirect(t, dev)
	written = &sync.WaitGroup{}
	written.Go(func() {
		if _, err := disk.WriteAt(data, off); err != nil {
			t.Error(err)
		}
		_ = disk.Close()
	})
	<-slow.arrived
	return d, slow, written
}

// TestFreezeWaits: each way to freeze a queue waits for the requests in it.
func TestFreezeWaits(t *testing.T) {
	ways := map[string]func(string) error{"requests": changeRequests}
	if rewritingFreezes(release()) {
		ways["rotational"] = rewriteRotational
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			d, slow, written := slowDisk(t, 0, "slow")
			passed := make(chan error, 1)
			go func() { passed <- way(filepath.Base(d.Path)) }()
			select {
			case err := <-passed:
				t.Fatalf("froze with a write in flight: %v", err)
			case <-time.After(300 * time.Millisecond):
			}
			slow.open()
			must(t, <-passed)
			written.Wait()
		})
	}
}

// TestBarrierWaitsForWritesBeforeCapture: a write that was submitted before the
// disk was even tracked holds the barrier up until it has completed.
func TestBarrierWaitsForWritesBeforeCapture(t *testing.T) {
	const text = "written before anybody looked"
	d, slow, written := slowDisk(t, 1<<20, text)
	s := tracking(t, 1<<20, d)
	short, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	if err := s.Barrier(short, d.ID); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("with a write in flight the barrier says %v", err)
	}
	passed := make(chan error, 1)
	go func() { passed <- s.Barrier(context.Background()) }()
	select {
	case err := <-passed:
		t.Fatalf("the barrier passed a write in flight: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	slow.open()
	must(t, <-passed)
	slow.mu.Lock()
	if !bytes.HasPrefix(slow.data[1<<20:], []byte(text)) {
		t.Error("the barrier passed and the write is not on the disk")
	}
	slow.mu.Unlock()
	written.Wait()
	dirtyIs(t, s, d) // it was never seen
}

// TestBarrierUnderLoad: a queue that never runs empty still lets the barrier pass,
// and keeps its number of requests.
func TestBarrierUnderLoad(t *testing.T) {
	d := newLoop(t, memory(t), 64<<20)
	s := openSource(t, 1<<20)
	must(t, s.Track(context.Background(), d))
	attribute := filepath.Join(sysBlock, filepath.Base(d.Path), "queue/nr_requests")
	before, err := os.ReadFile(attribute)
	must(t, err)
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 8 {
		load.Go(func() {
			f := openDirect(t, d.Path)
			defer func() { _ = f.Close() }()
			buf := aligned(64 << 10)
			for off := int64(0); ; off = (off + 64<<10) % d.Size {
				select {
				case <-stop:
					return
				default:
					if _, err := unix.Pwrite(int(f.Fd()), buf, off); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	var longest time.Duration
	for range 20 {
		begun := time.Now()
		must(t, s.Barrier(context.Background()))
		longest = max(longest, time.Since(begun))
	}
	close(stop)
	load.Wait()
	after, err := os.ReadFile(attribute)
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Errorf("nr_requests was %s, now %s", before, after)
	}
	t.Logf("the longest barrier took %v", longest)
}
