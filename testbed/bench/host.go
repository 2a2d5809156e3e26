package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// host is where a figure was measured.
type host struct {
	Kernel string `json:"kernel"`
	CPU    string `json:"cpu"`
	CPUs   int    `json:"cpus"`
	Memory int64  `json:"memory"` // bytes
}

func (h host) String() string {
	return fmt.Sprintf("Linux %s, %d × %s, %d GiB", h.Kernel, h.CPUs, h.CPU, (h.Memory+1<<29)>>30)
}

func thisHost() host {
	h := host{CPUs: runtime.NumCPU(), CPU: "unknown"}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		h.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) == nil {
		h.Memory = int64(info.Totalram) * int64(info.Unit)
	}
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return h
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			h.CPU = strings.TrimSpace(value)
		}
	}
	return h
}

// load is the load averages: whether the machine had something else to do.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	f := bytes.Fields(text)
	return string(bytes.Join(f[:min(3, len(f))], []byte(" ")))
}

// build is the version of the binaries.
func (b *bench) build() string {
	out, err := exec.Command(filepath.Join(b.bin, "understudy"), "--version").Output() //nolint:noctx // it prints a line and ends
	if err != nil {
		return "unknown"
	}
	f := strings.Fields(string(out))
	return f[len(f)-1]
}
