package capture

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/understudy-dr/understudy/pkg/block"
)

// TestProbeNamesFirstWrites: a disk that the next reboot would find in doubt is named, and
// one that cannot be protected is not.
func TestProbeNamesFirstWrites(t *testing.T) {
	disk := func(name string, answer Answer) DiskReport {
		return DiskReport{Disk: Disk{ID: block.DiskIDFromName(name), Name: name, Path: "/dev/" + name}, Answer: answer}
	}
	o := Origin{Disks: map[block.DiskID]Beginning{
		block.DiskIDFromName("sda"): {},
		block.DiskIDFromName("sdb"): {Missed: "3 writes to /dev/sdb before it was tracked"},
	}}
	checks := probeFirstWrites(o, []DiskReport{disk("sda", Yes), disk("sdb", Yes), disk("sdc", Yes), disk("dm-0", No)})
	if len(checks) != 2 || !strings.Contains(checks[0].Detail, "3 writes") || checks[1].Feature != "first write to /dev/sdc" {
		t.Fatalf("%+v", checks)
	}
	for _, c := range checks {
		if c.Answer != No || c.Remedy == "" {
			t.Errorf("%+v", c)
		}
	}
}

// TestProbeWithoutCapture: a machine that captures nothing yet is told how to begin early.
func TestProbeWithoutCapture(t *testing.T) {
	checks := probeOrigin(filepath.Join(t.TempDir(), "nothing"), nil)
	if len(checks) != 1 || checks[0].Answer != No || checks[0].Remedy == "" {
		t.Errorf("%+v", checks)
	}
}

func TestProbeShutdownHook(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hook")
	for _, c := range []struct {
		mode os.FileMode
		want Answer
	}{{0, No}, {0o644, No}, {0o755, Yes}} {
		if c.mode != 0 {
			must(t, os.WriteFile(path, nil, c.mode))
			must(t, os.Chmod(path, c.mode))
		}
		if got := probeShutdownHook([]string{path}); got.Answer != c.want {
			t.Errorf("mode %o: %+v", c.mode, got)
		}
	}
}

func TestProbeWriteMounted(t *testing.T) {
	for text, want := range map[string]bool{
		"CONFIG_BLK_DEV=y\nCONFIG_BLK_DEV_WRITE_MOUNTED=y\n":            true,
		"CONFIG_BLK_DEV=y\n# CONFIG_BLK_DEV_WRITE_MOUNTED is not set\n": false,
		"CONFIG_NO_BLK_DEV_WRITE_MOUNTED=y\n":                           false,
	} {
		path := filepath.Join(t.TempDir(), "config")
		must(t, os.WriteFile(path, []byte(text), 0o600))
		if got, err := configured(path, "CONFIG_BLK_DEV_WRITE_MOUNTED"); got != want || err != nil {
			t.Errorf("%q: %t, %v", text, got, err)
		}
	}
	if c := probeWriteMounted("6.1.0-50-cloud-amd64"); c.Answer != Yes {
		t.Errorf("a kernel that knows no such refusal: %+v", c)
	}
}
