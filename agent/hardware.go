package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/understudy-dr/understudy/pkg/desired"
)

// system is where a kernel tells of its machine; tests have their own.
type system struct{ sys, proc string }

var thisSystem = system{"/sys", "/proc"}

// memoryStep is what memory is sold in, and what the kernel keeps for itself is less than,
// in bytes.
const memoryStep = 256 << 20

// hardware is what a replica of this machine should have. What the system does not tell
// is left out.
func (s system) hardware() *desired.Hardware {
	h := &desired.Hardware{CPUs: runtime.NumCPU(), Memory: s.memory(), Cards: s.cards()}
	if _, err := os.Stat(s.sys); err == nil {
		h.Firmware = "bios"
		if _, err := os.Stat(filepath.Join(s.sys, "firmware/efi")); err == nil {
			h.Firmware = "uefi"
		}
	}
	return h
}

// memory is the machine's, rounded up: the kernel tells what is left of it.
func (s system) memory() int64 {
	f, err := os.Open(filepath.Join(s.proc, "meminfo"))
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var kib int64
		if n, _ := fmt.Sscanf(lines.Text(), "MemTotal: %d kB", &kib); n == 1 {
			return (kib<<10 + memoryStep - 1) / memoryStep * memoryStep
		}
	}
	return 0
}

// maxCards is how many are told: more is a host of machines, not a machine.
const maxCards = 16

// cards are the network cards behind which there is a device: no bridge, no tunnel.
func (s system) cards() (cards []desired.Card) {
	found, _ := filepath.Glob(filepath.Join(s.sys, "class/net/*/device")) // fails for a bad pattern only
	for _, device := range found[:min(len(found), maxCards)] {
		dir := filepath.Dir(device)
		mac, err := os.ReadFile(filepath.Join(dir, "address"))
		if err != nil {
			continue // it was pulled in this moment
		}
		cards = append(cards, desired.Card{Name: filepath.Base(dir), MAC: strings.TrimSpace(string(mac)), Driver: driverOf(device)})
	}
	return cards
}

// notControllers are drivers of disks themselves: what a system needs to boot from a disk
// is the driver of what the disk is attached to.
var notControllers = []string{"sd", "sr"}

// diskDriver is the driver of the controller of a disk, for example ahci or virtio_blk.
func (s system) diskDriver(path string) string {
	device, err := filepath.EvalSymlinks(filepath.Join(s.sys, "class/block", filepath.Base(path), "device"))
	if err != nil {
		return "" // a loop device has none
	}
	for ; strings.HasPrefix(device, s.sys+"/"); device = filepath.Dir(device) {
		if d := driverOf(device); d != "" && !slices.Contains(notControllers, d) {
			return d
		}
	}
	return ""
}

func driverOf(device string) string {
	driver, err := filepath.EvalSymlinks(filepath.Join(device, "driver"))
	if err != nil {
		return ""
	}
	return filepath.Base(driver)
}
