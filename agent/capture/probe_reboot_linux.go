package capture

import (
	"bufio"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
)

// shutdownHooks are where systemd looks for what it runs at the very end.
var shutdownHooks = []string{"/usr/lib/systemd/system-shutdown/understudy-agent", "/lib/systemd/system-shutdown/understudy-agent"}

// probeReboot looks whether an epoch goes on over a reboot. Where it does not, the disks
// are compared by hash after each: no more than that.
func probeReboot(release string, disks []DiskReport) []Check {
	return append(probeOrigin(filepath.Join(defaultBPFFS, "understudy", defaultInstance), disks), probeShutdownHook(shutdownHooks), probeWriteMounted(release))
}

const earlyRemedy = "install the agent's package, run update-initramfs -u or dracut --force, and reboot"

// probeOrigin asks the running capture how it began.
func probeOrigin(dir string, disks []DiskReport) []Check {
	const feature = "capture from the boot on"
	s := &source{dir: dir, objects: newObjects()}
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, "live", "maps", originPin), nil)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return []Check{{feature, No, "this boot's capture was not begun before the agent started", earlyRemedy}}
	case err != nil:
		return []Check{{feature, Unknown, err.Error(), earlyRemedy}}
	}
	defer func() { _ = m.Close() }()
	s.maps[originPin] = m
	o, err := s.readOrigin()
	if err != nil {
		return []Check{{feature, Unknown, err.Error(), earlyRemedy}}
	}
	c := Check{Feature: feature, Answer: Yes, Detail: "begun in the initramfs, before the root was mounted"}
	if !o.Initramfs {
		c = Check{feature, No, "begun by understudy-agent-early.service, when the root was mounted: exact only if nothing was written to it before, as after a crash", earlyRemedy}
	}
	return append([]Check{c}, probeFirstWrites(o, disks)...)
}

// probeFirstWrites names the disks that were written to before they were tracked.
func probeFirstWrites(o Origin, disks []DiskReport) (checks []Check) {
	for _, d := range disks {
		if d.Answer != Yes {
			continue // it cannot be protected anyway
		}
		const remedy = "nothing if it is not protected: else find what writes to it that early, or attach it before the machine boots"
		b, tracked := o.Disks[d.ID]
		switch {
		case !tracked:
			checks = append(checks, Check{"first write to " + d.Path, No, "it was not there, or not tracked, when the boot began", remedy})
		case b.Missed != "":
			checks = append(checks, Check{"first write to " + d.Path, No, b.Missed, remedy})
		}
	}
	return checks
}

func probeShutdownHook(paths []string) Check {
	const feature, remedy = "shutdown hook", "install the agent's package"
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o111 != 0 {
			return Check{Feature: feature, Answer: Yes, Detail: path}
		}
	}
	return Check{feature, No, "no " + paths[0] + " that can be executed", remedy}
}

// probeWriteMounted: the hook writes to a disk of which a file system is mounted. Kernels
// from 6.8 may be built to refuse that.
func probeWriteMounted(release string) Check {
	const feature, option = "writing under a mounted file system", "CONFIG_BLK_DEV_WRITE_MOUNTED"
	const remedy = "boot with bdev_allow_write_mounted=1"
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n == 2 && (major < 6 || major == 6 && minor < 8) {
		return Check{Feature: feature, Answer: Yes, Detail: "this kernel always allows it"}
	}
	if line, err := os.ReadFile("/proc/cmdline"); err == nil && strings.Contains(string(line), "bdev_allow_write_mounted=1") {
		return Check{Feature: feature, Answer: Yes, Detail: "allowed by the kernel's command line"}
	}
	for _, path := range []string{"/proc/config.gz", "/boot/config-" + release} {
		set, err := configured(path, option)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		switch {
		case err != nil:
			return Check{feature, Unknown, err.Error(), remedy}
		case !set:
			return Check{feature, No, option + " is not set", remedy}
		}
		return Check{Feature: feature, Answer: Yes, Detail: option + "=y"}
	}
	return Check{feature, Unknown, "the kernel's configuration is neither in /proc nor in /boot", remedy}
}

// configured reports whether a kernel's configuration says yes to an option.
func configured(path, option string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { _ = f.Close() }()
	var r io.Reader = f
	if strings.HasSuffix(path, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return false, err
		}
	}
	s := bufio.NewScanner(r)
	for s.Scan() {
		if s.Text() == option+"=y" {
			return true, nil
		}
	}
	return false, s.Err()
}
