//go:build testbed

package testbed

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/guest"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// TestCaptureOnKernels runs the capture's own tests where the machine that tests has
// another kernel than the one that they are about.
func TestCaptureOnKernels(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "capture.test")
	build := exec.Command("go", "test", "-c", "-o", bin, "../agent/capture")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, suite := range []string{"bullseye", "bookworm", "trixie", "sid"} {
		t.Run(suite, func(t *testing.T) {
			image, err := guest.Build(t.Context(), guest.Recipe{KernelSuite: suite, Packages: stackTools})
			if err != nil {
				t.Fatal(err)
			}
			l, err := lab.New(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			l.CloseOnSignal()
			g, err := guest.Boot(t.Context(), l, guest.Options{Name: "guest", Image: image})
			if err == nil {
				err = g.Put(t.Context(), bin, "/root/capture.test")
			}
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
			defer cancel()
			out, err := g.Run(ctx, "uname -r; cd /root; ./capture.test -test.v -test.timeout 30m -test.short 2>&1")
			t.Logf("%s", out)
			if err != nil {
				t.Error(err)
			}
		})
	}
}
