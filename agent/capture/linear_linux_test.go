package capture

import (
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// TestBaseBesideABusyDirectory: somebody who looks into one directory over and over
// touches one page, and fills with it all the room that there is for samples.
func TestBaseBesideABusyDirectory(t *testing.T) {
	k, err := inspectKernel()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	var done atomic.Bool
	var busy sync.WaitGroup
	defer busy.Wait()
	defer done.Store(true)
	for n := range 2 {
		busy.Go(func() {
			for i := 0; !done.Load(); i++ {
				_, _ = os.Lstat(filepath.Join(dir, strconv.Itoa(n)+"-"+strconv.Itoa(i)))
			}
		})
	}
	for i := range 20 {
		if _, err := k.baseByBuffers(); err != nil {
			t.Fatalf("try %d: %v", i, err)
		}
	}
}
