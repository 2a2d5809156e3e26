package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// Host is where a guest finds those of the host's ports that Options.Reach names.
const Host = "10.0.2.100"

// Bus is how a disk is attached.
type Bus string

// The buses, and what their disks are called: vda, sda, nvme0n1. A root on VirtioBlk is
// always vda, and data disks follow in their order.
const (
	VirtioBlk  Bus = "virtio-blk"
	VirtioSCSI Bus = "virtio-scsi"
	NVMe       Bus = "nvme"
)

// Disk is a disk of a guest besides its root.
type Disk struct {
	// Name is its serial number, too: the guest has it below /dev/disk/by-id.
	Name string
	Bus  Bus // VirtioBlk if empty
	// Size in bytes of a new, empty disk; not looked at where File is given.
	Size int64
	// File is a raw disk that is used in place, and written to.
	File string
}

// Options say what machine is wanted.
type Options struct {
	Name   string // unique in the lab
	Image  *Image
	Root   Bus   // of the root's disk; VirtioBlk if empty
	Memory int64 // bytes; 1 GiB if zero
	Disks  []Disk
	// Reach are addresses of the host's loopback, 127.0.0.1:PORT, that the guest finds
	// at Host:PORT, by TCP: a control plane's.
	Reach []string
	// Cable joins the second network cards, eth1, of two guests: both name one address of
	// the host's loopback, 127.0.0.1:PORT, and the one that starts first is the Socket.
	Cable  string
	Socket bool
	// Append is put at the end of the kernel's command line.
	Append string
}

// Guest is a machine. It may be off.
type Guest struct {
	Name string
	// Disks are the files of the root and the data disks, raw, by name; the root's is
	// "root". While the guest runs they change.
	Disks map[string]string

	qemu    *lab.Process
	initrd  string // file
	console string // file
	lines   string // file
	socket  string // of QMP
	addr    string // of ssh
	config  *ssh.ClientConfig

	mu     sync.Mutex
	client *ssh.Client
}

// bootLimit is generous: half a minute is usual, on two processors that ten others want
// it was three.
const bootLimit = 6 * time.Minute

// Boot starts a new machine on a copy of the image and returns when it lets one in. It
// ends with the lab.
func Boot(ctx context.Context, l *lab.Lab, o Options) (*Guest, error) {
	g, err := New(ctx, l, o)
	if err != nil {
		return nil, err
	}
	return g, g.Start(ctx)
}

// New prepares a machine and its disks, and leaves it off.
func New(ctx context.Context, l *lab.Lab, o Options) (*Guest, error) {
	config, err := o.Image.client()
	if err != nil {
		return nil, err
	}
	g := &Guest{Name: o.Name, Disks: map[string]string{}, config: config,
		initrd: l.Path(o.Name + "-initrd"), console: l.Path(o.Name + "-console.log"), lines: l.Path(o.Name + "-lines.txt"), socket: l.Path(o.Name + ".qmp")}
	if g.addr, err = lab.FreeAddr(ctx); err != nil {
		return nil, err
	}
	if _, err := run(ctx, "cp", o.Image.Initrd(), g.initrd); err != nil {
		return nil, err
	}
	root := Disk{Name: "root", Bus: o.Root, File: l.Path(o.Name + "-root.img")}
	// A clone where the file system can, else a copy that is as sparse.
	if _, err := run(ctx, "cp", "--reflink=auto", "--sparse=always", o.Image.Disk(), root.File); err != nil {
		return nil, err
	}
	disks := []Disk{root}
	for _, d := range o.Disks {
		if d.File == "" {
			d.File = l.Path(o.Name + "-" + d.Name + ".img")
			if err := makeSparse(d.File, d.Size); err != nil {
				return nil, err
			}
		}
		disks = append(disks, d)
	}
	for _, d := range disks {
		g.Disks[d.Name] = d.File
	}
	g.qemu = l.NewProcess(o.Name, "qemu-system-x86_64", g.arguments(o, disks)...)
	return g, nil
}

func makeSparse(file string, size int64) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}

// Start powers the machine on (again) and returns when it lets one in.
func (g *Guest) Start(ctx context.Context) error {
	if err := g.qemu.Start(); err != nil {
		return err
	}
	go g.unstick(g.qemu.PID())
	return g.untilUp(ctx, "")
}

// untilUp waits for ssh, in another life than that of the boot id before.
func (g *Guest) untilUp(ctx context.Context, before string) error {
	err := lab.Until(ctx, bootLimit, "answer of guest "+g.Name, func() (bool, error) {
		if g.qemu.PID() == 0 {
			return true, fmt.Errorf("qemu has ended: %w%s", g.qemu.Err(), g.qemu.Tail())
		}
		id, err := g.bootID(ctx)
		return err == nil && id != before, err
	})
	if err != nil {
		return fmt.Errorf("%w\nits console ends with:\n%s", err, g.consoleTail())
	}
	return nil
}

func (g *Guest) bootID(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, err := g.Run(ctx, "cat /proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(out), err
}

// Console is what the machine has printed on its serial line, in all its lives.
func (g *Guest) Console() (string, error) {
	text, err := os.ReadFile(g.console)
	return string(text), err
}

func (g *Guest) consoleTail() string {
	text, err := g.Console()
	if err != nil {
		return err.Error()
	}
	return text[max(0, len(text)-2000):]
}

// LinesPort is a device of the guest. What is written to it is in the file Lines when
// the write returns, whatever befalls the guest or its network then.
const LinesPort = "/dev/virtio-ports/lines"

// Lines is the file of what the guest has written to LinesPort, in all its lives.
func (g *Guest) Lines() string { return g.lines }

// SetInitrd has the machine boot with this initramfs from the next Start on, as a boot
// loader would that finds another one. A qemu that runs goes on with the one it has.
func (g *Guest) SetInitrd(file string) error {
	fresh := g.initrd + ".new" // qemu has the old one mapped
	if _, err := run(context.Background(), "cp", file, fresh); err != nil {
		return err
	}
	return os.Rename(fresh, g.initrd)
}

// Addr is where the host finds the guest's ssh.
func (g *Guest) Addr() string { return g.addr }

func port(addr string) string {
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return p
}
