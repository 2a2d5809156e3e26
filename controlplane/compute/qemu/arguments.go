package qemu

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/controlplane/failover"
	"github.com/understudy-dr/understudy/pkg/desired"
)

// What lies in a replica's directory.
const (
	controlName   = "qmp"       // socket
	displayName   = "vnc"       // socket
	consoleName   = "console"   // what the guest prints on its serial line
	heartbeatName = "heartbeat" // what the guest's agent says
	logName       = "qemu.log"
	stateName     = "replica.json"
	varsName      = "vars.fd" // UEFI's variables
)

// ahciPorts is how many disks an AHCI controller of qemu takes.
const ahciPorts = 6

// arguments are qemu's for this replica.
func (c *Compute) arguments(r failover.Replica, ports map[string]string) ([]string, error) {
	in := func(name string) string { return filepath.Join(r.Dir, name) }
	machine := "q35"
	if r.Bus == failover.IDE {
		machine = "pc"
	}
	args := []string{"-name", "guest=" + comma(r.Name), "-machine", machine}
	args = append(args, c.accelerators()...)
	args = append(args,
		"-cpu", "max", "-smp", strconv.Itoa(r.CPUs), "-m", strconv.FormatInt(r.Memory>>20, 10)+"M",
		"-nodefaults", "-no-user-config", "-display", "none", "-vga", "std", "-vnc", "unix:"+comma(in(displayName)),
		// Whoever breaks out of the guest finds a process that can start none.
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-qmp", "unix:"+comma(in(controlName))+",server=on,wait=off",
		"-chardev", "file,id=console,path="+comma(in(consoleName)), "-serial", "chardev:console",
		"-smbios", "type=11,value="+comma(desired.ReplicaMark+r.ID),
		"-device", "virtio-serial-pci", "-chardev", "file,id=heartbeat,path="+comma(in(heartbeatName)),
		"-device", "virtserialport,chardev=heartbeat,name="+desired.HeartbeatPort,
		"-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=random")
	if r.Firmware == failover.UEFI {
		args = append(args, "-drive", "if=pflash,format=raw,readonly=on,file="+comma(c.code), "-drive", "if=pflash,format=raw,file="+comma(in(varsName)))
	}
	args = append(args, network(r, ports)...)
	disks, err := storage(r)
	return append(args, disks...), err
}

// comma keeps a comma in a value from ending it.
func comma(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// network plugs each card into a network of its own, all of one kind: qemu's, which
// needs no privilege and puts no packet of the guest on any wire of the host.
func network(r failover.Replica, ports map[string]string) []string {
	var args []string
	for i, card := range r.Cards {
		net := fmt.Sprintf("user,id=net%d,ipv6=off", i)
		if r.Network == failover.Isolated {
			net += ",restrict=on"
		}
		if i == 0 {
			for _, port := range r.Forward {
				net += fmt.Sprintf(",hostfwd=tcp:%s-:%d", ports[strconv.Itoa(port)], port)
			}
		}
		model := "e1000"
		if card.Virtio {
			model = "virtio-net-pci"
		}
		device := fmt.Sprintf("%s,netdev=net%d,romfile=", model, i) // it boots from its disks or not at all
		if mac, err := net6(card.MAC); err == nil {
			device += ",mac=" + mac
		}
		args = append(args, "-netdev", net, "-device", device)
	}
	return args
}

// net6 is the address of an Ethernet card, which a report may have any text for.
func net6(mac string) (string, error) {
	addr, err := net.ParseMAC(mac)
	if err == nil && len(addr) != 6 {
		err = fmt.Errorf("%s is not an Ethernet address", mac)
	}
	return addr.String(), err
}

// storage attaches the disks in their order.
func storage(r failover.Replica) (args []string, err error) {
	if r.Bus == failover.IDE && len(r.Disks) > 4 {
		return nil, fmt.Errorf("%d disks: IDE takes four", len(r.Disks))
	}
	bus := busOf(r)
	switch bus {
	case failover.VirtioSCSI:
		args = append(args, "-device", "virtio-scsi-pci,id=scsi0")
	case failover.PVSCSI:
		args = append(args, "-device", "pvscsi,id=scsi0")
	case failover.SATA:
		for i := range (len(r.Disks) + ahciPorts - 1) / ahciPorts {
			args = append(args, "-device", fmt.Sprintf("ich9-ahci,id=ahci%d", i))
		}
	}
	for i, d := range r.Disks {
		node := fmt.Sprintf("disk%d", i)
		blockdev, err := json.Marshal(map[string]any{
			"driver": "nbd", "node-name": node, "export": d.Export, "discard": "unmap",
			"server": map[string]any{"type": "unix", "path": d.Socket},
		})
		if err != nil {
			return nil, err
		}
		device := map[string]any{"driver": drivers[bus], "drive": node, "bootindex": bootIndex(r.Disks, i), "id": fmt.Sprintf("drive%d", i)}
		if serial := serialOf(d.Name); serial != "" || bus == failover.NVMe { // which must have one
			device["serial"] = serial
		}
		if d.SectorSize > 512 {
			device["logical_block_size"], device["physical_block_size"] = d.SectorSize, d.SectorSize
		}
		switch bus {
		case failover.SATA:
			device["bus"] = fmt.Sprintf("ahci%d.%d", i/ahciPorts, i%ahciPorts)
		case failover.IDE:
			device["bus"], device["unit"] = fmt.Sprintf("ide.%d", i/2), i%2
		case failover.VirtioSCSI, failover.PVSCSI:
			device["bus"], device["scsi-id"] = "scsi0.0", i
		}
		text, err := json.Marshal(device)
		if err != nil {
			return nil, err
		}
		args = append(args, "-blockdev", string(blockdev), "-device", string(text))
	}
	return args, nil
}

// bootIndex is when the firmware looks at a disk. A BIOS gives up after the first: that
// has to be one with a boot loader.
func bootIndex(disks []failover.Served, i int) int {
	if disks[i].Loader {
		return i + 1
	}
	return len(disks) + i + 1
}

var drivers = map[failover.Bus]string{
	failover.SATA: "ide-hd", failover.IDE: "ide-hd", failover.NVMe: "nvme",
	failover.PVSCSI: "scsi-hd", failover.VirtioSCSI: "scsi-hd", failover.VirtioBlk: "virtio-blk-pci",
}

// busOf is the replica's, unless a disk has sectors of 4 KiB, which no ATA disk of qemu
// can have: the partition table of such a disk is read wrongly with any other.
func busOf(r failover.Replica) failover.Bus {
	large := slices.ContainsFunc(r.Disks, func(d failover.Served) bool { return d.SectorSize > 512 })
	if large && (r.Bus == failover.SATA || r.Bus == failover.IDE) {
		return failover.VirtioSCSI
	}
	return r.Bus
}

// maxSerial is what a disk of every kind can have.
const maxSerial = 20

// serialOf keeps what a disk was known by, as far as a serial number can: the end, which
// tells disks apart.
func serialOf(name string) string {
	clean := strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return -1
	}, name)
	return clean[max(0, len(clean)-maxSerial):]
}
