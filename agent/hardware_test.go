package main

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/understudy-dr/understudy/pkg/desired"
)

// sysfs makes a system of files, and of links, whose targets begin at its root.
func sysfs(t *testing.T, files, links map[string]string) system {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range links {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(root, target), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(root, target), path); err != nil {
			t.Fatal(err)
		}
	}
	return system{filepath.Join(root, "sys"), filepath.Join(root, "proc")}
}

func TestHardwareIsToldOfWhatIsThere(t *testing.T) {
	s := sysfs(t, map[string]string{
		"proc/meminfo":               "MemTotal:        1990312 kB\nMemFree: 1 kB\n",
		"sys/class/net/lo/address":   "00:00:00:00:00:00\n",
		"sys/class/net/ens1/address": "52:54:00:12:34:56\n",
		"sys/firmware/efi/runtime":   "",
	}, map[string]string{
		"sys/class/net/ens1/device":                              "sys/devices/pci0/virtio0",
		"sys/devices/pci0/virtio0/driver":                        "sys/bus/virtio/drivers/virtio_net",
		"sys/class/block/sda/device":                             "sys/devices/pci1/ata1/host0/target0:0:0/0:0:0:0",
		"sys/devices/pci1/driver":                                "sys/bus/pci/drivers/ahci",
		"sys/class/block/nvme0n1/device":                         "sys/devices/pci2/nvme/nvme0",
		"sys/devices/pci2/driver":                                "sys/bus/pci/drivers/nvme",
		"sys/class/block/sdb/device":                             "sys/devices/pci3/virtio1/host1/1:0:0:0",
		"sys/devices/pci3/virtio1/driver":                        "sys/bus/virtio/drivers/virtio_scsi",
		"sys/devices/pci3/driver":                                "sys/bus/pci/drivers/virtio-pci",
		"sys/class/block/vda/device":                             "sys/devices/pci4/virtio2",
		"sys/devices/pci4/virtio2/driver":                        "sys/bus/virtio/drivers/virtio_blk",
		"sys/class/block/loop0/queue":                            "sys/devices/virtual/block/loop0/queue",
		"sys/devices/pci1/ata1/host0/target0:0:0/0:0:0:0/driver": "sys/bus/scsi/drivers/sd",
	})
	h := s.hardware()
	if h.Memory != 2<<30 || h.Firmware != "uefi" || h.CPUs == 0 {
		t.Errorf("%+v", h)
	}
	if want := []desired.Card{{Name: "ens1", MAC: "52:54:00:12:34:56", Driver: "virtio_net"}}; !reflect.DeepEqual(h.Cards, want) {
		t.Errorf("%+v, want %+v", h.Cards, want)
	}
	for path, want := range map[string]string{"/dev/sda": "ahci", "/dev/sdb": "virtio_scsi", "/dev/nvme0n1": "nvme", "/dev/vda": "virtio_blk", "/dev/loop0": ""} {
		if got := s.diskDriver(path); got != want {
			t.Errorf("%s: driver %q, want %q", path, got, want)
		}
	}
}

func TestHardwareOfASystemThatTellsNothing(t *testing.T) {
	h := system{"/nowhere", "/nowhere"}.hardware()
	if h.Firmware != "" || h.Memory != 0 || len(h.Cards) != 0 {
		t.Errorf("%+v", h)
	}
}
