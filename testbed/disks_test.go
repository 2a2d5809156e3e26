//go:build testbed

package testbed

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// refused fails unless err is an operator's command that was refused with this exit
// code and these words.
func refused(t *testing.T, err error, code int, words ...string) {
	t.Helper()
	var c *lab.CLIError
	if !errors.As(err, &c) || c.Code != code {
		t.Fatalf("%v, want exit code %d", err, code)
	}
	for _, w := range words {
		if !strings.Contains(c.Stderr, w) {
			t.Errorf("%q does not say %q", c.Stderr, w)
		}
	}
}

// TestDiskProtectedAlready: asking twice is refused and changes nothing.
func TestDiskProtectedAlready(t *testing.T) {
	r := protected(t, setup{})
	refused(t, r.machine.Protect(t.Context(), r.disks[0]), 4, r.disks[0].Name, "protected")
	_, err := r.site.CLI(t.Context(), "protect", r.machine.ID(), "/dev/no-such-disk")
	refused(t, err, 3, "no-such-disk")
	r.verifyNow()
	r.wantEpoch(1)
}

// TestDiskGrows: a disk that is enlarged under the running machine has a named resync,
// and its new end is protected too.
func TestDiskGrows(t *testing.T) {
	r := protected(t, setup{disks: []string{lab.Ext4, ""}})
	bare := r.disks[1]
	r.must(bare.Scribble(100))
	before := r.untilPoint(time.Now())
	r.must(bare.Grow(t.Context(), r.setup.size+128*mib))
	p := r.untilEpochAfter(1)
	if p.Reason != "resized" {
		t.Errorf("epoch %d began for %q, want resized", p.Epoch, p.Reason)
	}
	r.wantEvent("resized")
	r.must(bare.Scribble(300))
	r.verifyNow()
	r.must(r.work.Stop())
	r.untilPoint(time.Now())
	files, err := r.recover("latest").Files(r.disks)
	r.must(err)
	r.must(lab.SameBytes(bare.Device, files[bare.Name]))
	r.verify(before.Format(time.RFC3339Nano)) // as it was, at its old size
}

// TestDiskGone: the other disk stays protected, the operator is told which is gone and
// what to do, and its past can be recovered.
func TestDiskGone(t *testing.T) {
	r := protected(t, setup{disks: []string{lab.Ext4, ""}})
	at := r.untilPoint(time.Now())
	gone := r.disks[1]
	r.must(gone.Detach(t.Context()))
	r.wantEvent("device-changed")
	r.untilPoint(time.Now().Add(time.Second)) // the points go on
	r.verify(at.Format(time.RFC3339Nano))
}

// TestDiskAddedAndRemoved: a second disk joins a protected machine, and leaves it.
func TestDiskAddedAndRemoved(t *testing.T) {
	r := newRig(t, setup{})
	r.must(r.machine.SetRPO(t.Context(), 3*time.Second))
	r.must(r.machine.Protect(t.Context(), r.disks[0]))
	r.untilProtected()
	r.live(2 * time.Second)
	r.must(r.machine.Protect(t.Context(), r.disks[1]))
	p := r.untilEpochAfter(1)
	if p.Reason != "disk-added" {
		t.Errorf("epoch %d began for %q, want disk-added", p.Epoch, p.Reason)
	}
	r.verifyNow()
	at := r.untilPoint(time.Now())
	_, err := r.site.CLI(t.Context(), "unprotect", r.machine.ID(), r.disks[1].Device)
	r.must(err)
	r.live(3 * time.Second)
	r.untilPoint(time.Now())
	r.verify(at.Format(time.RFC3339Nano)) // the past has both
}

// TestTwoAgentsWithOneIdentity: a cloned machine brings its twin's certificate. The
// operator is told, the living one goes on, and no write of the two is mixed.
func TestTwoAgentsWithOneIdentity(t *testing.T) {
	r := protected(t, setup{})
	twin, err := r.machine.Clone("twin")
	r.must(err)
	r.must(twin.Agent.Start())
	r.live(5 * time.Second)
	r.wantEvent("identity-conflict")
	twin.Agent.Kill()
	r.untilProtected()
	r.verifyNow()
}

// TestDiskWithTwoPaths: a disk that appears twice, as over two paths, is not offered,
// and the others of the machine are protected all the same.
func TestDiskWithTwoPaths(t *testing.T) {
	r := newRig(t, setup{disks: []string{lab.Ext4, ""}})
	twice, err := r.OpenDisk(t.Context(), "again", r.disks[1].File, "")
	r.must(err)
	r.must(r.machine.Protect(t.Context(), r.disks[0]))
	r.untilProtected()
	_, err = r.site.CLI(t.Context(), "protect", r.machine.ID(), twice.Device)
	refused(t, err, 3, twice.Device)
}
