//go:build testbed

package testbed

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// burst writes incompressible megabytes to a disk as fast as it takes them.
func (r *rig) burst(d *lab.Disk, megabytes int) {
	r.t.Helper()
	f, err := os.Create(filepath.Join(d.Mount, "burst"))
	r.must(err)
	defer f.Close()
	chunk := make([]byte, mib)
	random := rand.NewChaCha8([32]byte{})
	for range megabytes {
		_, err := random.Read(chunk)
		r.must(err)
		_, err = f.Write(chunk)
		r.must(err)
	}
	r.must(f.Sync())
}

// TestRingOverflow: more is written than the ring holds while the agent does not run.
// The kernel falls back to its dirty map, the agent returns by itself, and both what
// was before and what comes after can be recovered.
func TestRingOverflow(t *testing.T) {
	r := protected(t, setup{agent: []string{"--ring-bytes", inBytes(16 * mib)}})
	r.untilPoint(time.Now())
	before := time.Now()
	r.live(time.Second)
	r.must(r.machine.Agent.Signal(syscall.SIGSTOP))
	r.burst(r.disks[0], 64)
	r.live(time.Second)
	r.must(r.machine.Agent.Signal(syscall.SIGCONT))
	p := r.untilEpochAfter(1)
	if p.Reason != "ring-overflow" {
		t.Errorf("epoch %d began for %q, want ring-overflow", p.Epoch, p.Reason)
	}
	r.wantEvent("ring-overflow")
	r.verifyNow()
	r.verify(before.Format(time.RFC3339Nano))
}

// TestJournalSpillsAndOverflows: without a relay the memory budget fills, then the
// spill, then the dirty maps take over; the machine is never slowed down or stopped.
func TestJournalSpillsAndOverflows(t *testing.T) {
	r := protected(t, setup{agent: []string{"--memory-bytes", inBytes(8 * mib), "--spill-bytes", inBytes(64 * mib)}})
	r.site.Serve.Kill()
	r.burst(r.disks[0], 24)
	r.live(2 * time.Second)
	r.must(r.site.Start(t.Context()))
	r.verifyNow()
	r.wantEpoch(1) // the spill took it
	before := r.untilPoint(time.Now())

	r.site.Serve.Kill()
	for range 16 { // in pieces that the ring takes
		r.burst(r.disks[0], 8)
		r.burst(r.disks[1], 4)
		r.live(150 * time.Millisecond)
	}
	r.live(2 * time.Second)
	r.must(r.site.Start(t.Context()))
	p := r.untilEpochAfter(1)
	if p.Reason != "journal-overflow" {
		t.Errorf("epoch %d began for %q, want journal-overflow", p.Epoch, p.Reason)
	}
	r.verifyNow()
	r.verify(before.Format(time.RFC3339Nano))
}

// TestJournalOnAProtectedDisk: the journal's own writes are not captured. If they
// were, each would make more of them and an idle machine would never be idle.
func TestJournalOnAProtectedDisk(t *testing.T) {
	r := protected(t, setup{
		work: func(w *lab.Workload) { w.Churn = 0 },
		before: func(r *rig) {
			r.setup.agent = []string{"--spill", filepath.Join(r.disks[0].Mount, "journal.hrl"), "--spill-bytes", inBytes(64 * mib), "--memory-bytes", inBytes(4 * mib)}
		},
	})
	r.must(r.work.Stop())
	r.untilPoint(time.Now())
	start := r.reported().Captured
	r.site.Serve.Kill()
	r.burst(r.disks[1], 30) // must pass through the spill on disk 0
	r.must(r.site.Start(t.Context()))
	r.untilPoint(time.Now())
	before := r.reported()
	if before.Spill.Used > 0 {
		t.Errorf("%d bytes are still in the spill", before.Spill.Used)
	}
	if captured := before.Captured - start; captured < 30*mib || captured > 34*mib {
		t.Errorf("%d bytes captured of a burst of 30 MiB: the journal captures itself", captured)
	}
	if more := r.reported().Captured - before.Captured; more > mib {
		t.Errorf("an idle machine captured %d bytes from one report to the next", more)
	}
	r.verifyNow()
	r.wantEpoch(1)
}
