package capture

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
)

func reasonIs(t *testing.T, s Source, want Reason) Health {
	t.Helper()
	h, err := s.Health()
	must(t, err)
	if h.Reason() != want {
		t.Fatalf("reason %q, want %q: %+v", h.Reason(), want, h)
	}
	if h.Armed != (want == "") {
		t.Fatalf("armed %v with reason %q", h.Armed, want)
	}
	return h
}

func lostNow(t *testing.T, s Source) {
	t.Helper()
	if _, lost, err := s.Poll(func(Record) bool { return true }); !lost || err != nil {
		t.Fatalf("Poll: lost %v, %v", lost, err)
	}
}

func wholly(t *testing.T, s Source, d Disk) {
	t.Helper()
	dirtyIs(t, s, d, block.Extent{Len: d.Size})
}

// rearm begins anew after a loss, as if a resync had been done.
func rearm(t *testing.T, s Source) {
	t.Helper()
	_, err := s.Arm(context.Background())
	must(t, err)
	_, err = s.SwapDirty(context.Background())
	must(t, err)
	must(t, s.ForgetDirty())
	reasonIs(t, s, "")
}

// TestResizedDisk: grown, it is no longer the disk that was tracked.
func TestResizedDisk(t *testing.T) {
	f, err := os.Create(filepath.Join(memory(t), "disk.img"))
	must(t, err)
	defer func() { _ = f.Close() }()
	must(t, f.Truncate(16<<20))
	dev := attachLoop(t, f)
	defer detachLoop(dev)
	d, err := Resolve(dev)
	must(t, err)
	s := tracking(t, 1<<20, d)
	reasonIs(t, s, "")
	must(t, f.Truncate(32<<20))
	loop, err := os.OpenFile(dev, os.O_RDWR, 0)
	must(t, err)
	must(t, unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_CAPACITY, 0))
	must(t, loop.Close())

	h := reasonIs(t, s, Resized) // seen without a write
	if !h.Disks[0].Resized || h.Disks[0].Size != 32<<20 {
		t.Fatalf("%+v", h.Disks[0])
	}
	lostNow(t, s)
	wholly(t, s, d)

	must(t, s.Untrack(d.ID))
	if err := s.Track(context.Background(), d); !errors.Is(err, ErrNoDisk) {
		t.Fatalf("tracking it with its old size says %v", err)
	}
	now, err := Resolve(dev)
	must(t, err)
	if now.ID != d.ID {
		t.Fatal("a grown disk became another disk")
	}
	must(t, s.Track(context.Background(), now))
	rearm(t, s)
}

// TestReplacedDisk: another file under the same device is another disk, from its
// first write on.
func TestReplacedDisk(t *testing.T) {
	dir := memory(t)
	a := newLoop(t, dir, 16<<20)
	if a.Sequence == 0 {
		t.Skip("this kernel does not number the appearances of a disk")
	}
	s := tracking(t, 1<<20, a)
	other, err := os.Create(filepath.Join(dir, "other.img"))
	must(t, err)
	defer func() { _ = other.Close() }()
	must(t, other.Truncate(16<<20))
	detachLoop(a.Path)
	loop, err := os.OpenFile(a.Path, os.O_RDWR, 0)
	must(t, err)
	must(t, configureLoop(int(loop.Fd()), &unix.LoopConfig{Fd: uint32(other.Fd())}))
	must(t, loop.Close())
	writeAt(t, a, 0, 4096)
	lostNow(t, s) // without Health
	reasonIs(t, s, DeviceChanged)
	wholly(t, s, a)
}

func TestGoneDisk(t *testing.T) {
	a := newLoop(t, memory(t), 16<<20)
	s := tracking(t, 1<<20, a)
	detachLoop(a.Path)
	h := reasonIs(t, s, DeviceChanged)
	if !h.Disks[0].Gone {
		t.Fatalf("%+v", h.Disks[0])
	}
	lostNow(t, s)
}

// TestAudit: equal over all kinds of load, and a difference when a write went by.
func TestAudit(t *testing.T) {
	d := newLoop(t, t.TempDir(), 64<<20)
	s := tracking(t, 256<<20, d)
	audit := func(want Audit) {
		t.Helper()
		var got Audit
		for range 30 {
			h, err := s.Health()
			must(t, err)
			if got = h.Disks[0].Audit; got == want {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		t.Fatalf("audit says %q, want %q", got, want)
	}
	if h, err := s.Health(); err == nil && h.Disks[0].Audit == AuditImpossible {
		t.Skip("this kernel (7.0 or later) does not audit")
	}
	audit(AuditPending)
	audit(AuditEqual)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				if h, err := s.Health(); err != nil || h.Disks[0].Audit != AuditEqual {
					t.Errorf("under load: %+v, %v", h, err)
					return
				}
			}
		}
	}()
	scribble(t, d, 4, 100, 7)
	close(stop)
	<-done
	audit(AuditEqual)
	if h, err := s.Health(); err != nil || h.Disks[0].Submitted < 10<<20 || h.Reason() != "" && h.Reason() != RingOverflow {
		t.Fatalf("%+v, %v", h, err)
	}
	rearm(t, s)

	// A write that capture does not see: the hook is off, the audit is not.
	must(t, s.links["submit"].Close())
	must(t, os.Remove(filepath.Join(s.dir, "live/links/submit")))
	time.Sleep(50 * time.Millisecond) // a closed link is detached in the background
	writeAt(t, d, 8<<20, 64<<10)
	audit(AuditMissing)
	reasonIs(t, s, AuditDifference)
	lostNow(t, s)
	wholly(t, s, d)
}
