//go:build testbed

package testbed

import (
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// A mapped file is written stretch after stretch: one is changed for a while as fast as
// can be, while the kernel is told to write it back, and is then left alone until the
// others had their turn. So a proof that comes by finds pages that changed on their way
// to the disk, and that nobody writes meanwhile.
const (
	mappedFile    = 16 * mib
	mappedStretch = 256 << 10
	mappedFor     = 100 * time.Millisecond
	mappedEvery   = 10 * time.Millisecond // between one writing back and the next
)

// scribble changes a memory-mapped file on the live disk until the scenario ends.
func (r *rig) scribble() {
	r.t.Helper()
	f, err := os.Create(r.disks[0].Mount + "/mapped")
	r.must(err)
	r.must(unix.Fallocate(int(f.Fd()), 0, 0, mappedFile))
	mem, err := unix.Mmap(int(f.Fd()), 0, mappedFile, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	r.must(err)
	var left sync.WaitGroup
	stop := make(chan struct{})
	r.t.Cleanup(func() {
		close(stop)
		left.Wait()
		if err := unix.Munmap(mem); err != nil {
			r.t.Error(err)
		}
		f.Close()
	})
	left.Go(func() {
		rng := rand.New(rand.NewPCG(1, 2))
		for at := int64(0); ; at = (at + mappedStretch) % mappedFile {
			select {
			case <-stop:
				return
			default:
			}
			part := mem[at : at+mappedStretch]
			done := make(chan struct{})
			left.Go(func() { writeBack(int(f.Fd()), at, done) })
			for end := time.Now().Add(mappedFor); time.Now().Before(end); {
				for range 512 {
					part[rng.IntN(len(part))]++
				}
			}
			close(done)
		}
	})
}

// writeBack has the kernel write a stretch of a file again and again.
func writeBack(fd int, at int64, done chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-time.After(mappedEvery):
			_ = unix.SyncFileRange(fd, at, mappedStretch, unix.SYNC_FILE_RANGE_WRITE)
		}
	}
}

// TestVerifyWhileMappedPagesChange: pages that change while they are written back are no
// difference, and hide none: a block that changed behind capture's back is found among
// them, and it alone.
func TestVerifyWhileMappedPagesChange(t *testing.T) {
	r := scrubRig(t, setup{})
	r.scribble()
	r.untilPoint(time.Now())
	for range 2 {
		r.proveEqual()
	}
	r.flip(r.disks[1].File, atRest+9*mib+4000)
	r.wantFound(desired.FoundDifferent, block.Extent{Off: atRest + 9*mib, Len: 4096})
	log, err := os.ReadFile(r.machine.Agent.Log)
	r.must(err)
	n := strings.Count(string(log), "a difference was gone")
	t.Logf("%d times pages were told apart from a difference", n)
	if n == 0 {
		t.Error("no page changed on its way to the disk: this shows nothing")
	}
}
