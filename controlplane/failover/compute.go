package failover

import (
	"cmp"
	"context"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Firmware is what a machine's boot loader expects.
type Firmware string

const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// Network is what a replica's cards are plugged into.
type Network string

const (
	// Isolated reaches nobody: not the source whose addresses the replica has, and not
	// the control plane. Only the host reaches the ports that are forwarded.
	Isolated Network = "isolated"
	// User reaches what the host reaches, by the host's address; nobody reaches the
	// replica but by the ports that are forwarded, from the host.
	User Network = "user"
)

// Bus is how a disk is attached. The names are those of Linux' drivers for it: a guest
// boots from what its initramfs has a driver for.
type Bus string

const (
	SATA       Bus = "ahci"
	IDE        Bus = "ata_piix"
	NVMe       Bus = "nvme"
	PVSCSI     Bus = "vmw_pvscsi"
	VirtioBlk  Bus = "virtio_blk"
	VirtioSCSI Bus = "virtio_scsi"
)

// Buses are all of them; SATA is what nearly every system has a driver for.
var Buses = []Bus{SATA, IDE, NVMe, PVSCSI, VirtioBlk, VirtioSCSI}

// Card is a network card.
type Card struct {
	MAC    string `json:"mac,omitempty"`
	Virtio bool   `json:"virtio,omitempty"`
}

// Hardware is what a replica is given.
type Hardware struct {
	Firmware Firmware `json:"firmware,omitempty"`
	Memory   int64    `json:"memory,omitempty" doc:"Bytes."`
	CPUs     int      `json:"cpus,omitempty"`
	Bus      Bus      `json:"bus,omitempty" doc:"How the disks are attached, by the name of Linux' driver."`
	Cards    []Card   `json:"cards,omitempty"`
	Network  Network  `json:"network,omitempty"`
	Forward  []int    `json:"forward,omitempty" doc:"Ports of the replica that the host reaches."`
}

// Served is a disk of the past that a machine can use at once.
type Served struct {
	Disk       block.DiskID `json:"disk"`
	Name       string       `json:"name" doc:"The disk's stable name."`
	Path       string       `json:"path" doc:"Where it was then."`
	Size       int64        `json:"size" doc:"Bytes."`
	SectorSize int          `json:"sector_size,omitempty" doc:"Bytes."`
	Loader     bool         `json:"loader,omitempty" doc:"It has a boot loader for a BIOS."`
	Socket     string       `json:"socket" doc:"Of the NBD server, on the control plane's host."`
	Export     string       `json:"export" doc:"The disk's name there."`
}

// Replica is a machine that is to be brought up.
type Replica struct {
	ID    string // the failover's; its system finds it in its SMBIOS strings
	Name  string
	Dir   string   // what is made for it lies there
	Disks []Served // in the source's order; it boots from the first with a loader
	Hardware
}

// Powered is a replica that runs.
type Powered struct {
	PID     int               `json:"pid"`
	Since   time.Time         `json:"since"`
	Control string            `json:"control" doc:"The socket by which it is controlled (QMP)."`
	Display string            `json:"display" doc:"The socket of its screen and keyboard (VNC)."`
	Console string            `json:"console" doc:"The file of what it prints on its serial line."`
	Ports   map[string]string `json:"ports" doc:"Where the host finds the replica's ports, host:port by port."`
}

// Sight is how a replica looks from outside.
type Sight struct {
	Running   bool
	State     string // in the hypervisor's words
	Console   string // what it printed on its serial line, the newest
	Heartbeat string // what its agent says; empty: nothing yet
	Last      string // what the hypervisor said before it ended; valid if not Running
}

// Compute brings machines up. Every method can be repeated, by another process, too: it
// finds what an earlier one did.
type Compute interface {
	// Boot powers the replica on, or finds it powered on.
	Boot(ctx context.Context, r Replica) (Powered, error)
	// Look says how the replica in this directory is.
	Look(ctx context.Context, dir string) (Sight, error)
	// Screenshot is its screen as a PNG.
	Screenshot(ctx context.Context, dir string) ([]byte, error)
	// Stop takes its power away, and removes what Boot made, and nothing else.
	Stop(ctx context.Context, dir string) error
}

// Disks serves disks of the past to machines. Every method can be repeated.
type Disks interface {
	// Lock keeps the retention away from a point that is used.
	Lock(ctx context.Context, machine block.MachineID, at block.Position) error
	// Unlock gives it back to the retention, unless somebody else than Lock had locked it.
	Unlock(ctx context.Context, machine block.MachineID, at block.Position) error
	// Serve serves all disks of the machine at the position, writable, in their order.
	// Nothing is copied; what is written is kept in dir.
	Serve(ctx context.Context, machine block.MachineID, at block.Position, dir string) ([]Served, error)
	// Withdraw ends that, and removes what was written.
	Withdraw(ctx context.Context, dir string) error
}

// Facts knows what the source's hardware is.
type Facts interface {
	// Hardware is what the machine's agent last said of it. Zero members are not known.
	Hardware(ctx context.Context, machine block.MachineID) (Hardware, error)
}

// Defaults of a replica of whose source nothing is known.
const (
	defaultMemory = 1 << 30
	defaultCPUs   = 2
	sshPort       = 22
)

// over is the hardware that was asked for, else the source's, else a usual one.
func (h Hardware) over(source Hardware) Hardware {
	h.Firmware = cmp.Or(h.Firmware, source.Firmware, BIOS)
	h.Bus = cmp.Or(h.Bus, source.Bus, SATA)
	h.Memory = cmp.Or(h.Memory, source.Memory, defaultMemory)
	h.CPUs = cmp.Or(h.CPUs, source.CPUs, defaultCPUs)
	h.Network = cmp.Or(h.Network, Isolated)
	if len(h.Cards) == 0 {
		h.Cards = source.Cards
	}
	if len(h.Cards) == 0 {
		h.Cards = []Card{{}}
	}
	if len(h.Forward) == 0 {
		h.Forward = []int{sshPort}
	}
	return h
}
