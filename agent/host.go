package main

import (
	"bufio"
	"os"
	"runtime"
	"strings"

	"github.com/understudy-dr/understudy/pkg/desired"
	"github.com/understudy-dr/understudy/pkg/obs"
)

// host is what this machine says of itself.
func host() desired.Host {
	name, err := os.Hostname()
	if err != nil {
		name = "unknown"
	}
	return desired.Host{Hostname: name, OS: systemName(), Kernel: kernelRelease(), AgentVersion: obs.BuildVersion(), Hardware: thisSystem.hardware()}
}

// systemName is the distribution's own name for itself, or the system's.
func systemName() string {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return runtime.GOOS
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, ok := strings.CutPrefix(lines.Text(), "PRETTY_NAME="); ok {
			return strings.Trim(name, `"`)
		}
	}
	return runtime.GOOS
}

func kernelRelease() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
