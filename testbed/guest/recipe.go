package guest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
)

// File systems of a root.
const (
	Ext4  = "ext4"
	XFS   = "xfs"
	Btrfs = "btrfs"
)

// Recipe is all that decides what an image holds. The zero recipe is Debian 12 with its
// own kernel and an ext4 root.
type Recipe struct {
	// Suite is Debian's, for everything.
	Suite string
	// Kernel names the package of the kernel. The cloud kernel has no sch_netem and no
	// drivers of real hardware; linux-image-amd64 has.
	Kernel string
	// KernelSuite is Debian's for the kernel alone: bullseye has 5.10, trixie 6.12, sid
	// what is newest. Empty for that of everything else. A kernel of sid brings everything
	// else with it: the tools that it depends on need sid's libc.
	KernelSuite string
	// Packages are wanted besides.
	Packages []string
	// Root is the root's file system.
	Root string
	// Under is what the root lies on: a partition if empty, else LVM or LUKS.
	Under string
	// Size of the disk in bytes; the root fills it.
	Size int64
	// Loader gives the disk a boot loader of its own and its consoles a login: it is then
	// a machine's whole disk, which boots wherever there is a BIOS.
	Loader bool
}

// basic is what makes a Debian a machine that answers. No dbus, no logind, no ifupdown:
// each costs seconds of every boot, and nothing here needs them.
var basic = []string{"systemd-sysv", "udev", "openssh-server", "iproute2", "initramfs-tools", "kmod", "zstd"}

// tools are the packages with a root's mkfs and fsck; its initramfs needs them as well.
var tools = map[string]string{Ext4: "e2fsprogs", XFS: "xfsprogs", Btrfs: "btrfs-progs"}

const mib = 1 << 20

func (r Recipe) complete() Recipe {
	if r.Suite == "" {
		r.Suite = "bookworm"
		if r.KernelSuite == "sid" {
			r.Suite = r.KernelSuite
		}
	}
	if r.Kernel == "" {
		r.Kernel = "linux-image-cloud-amd64"
	}
	if r.KernelSuite == "" {
		r.KernelSuite = r.Suite
	}
	if r.Root == "" {
		r.Root = Ext4
	}
	if r.Size == 0 {
		r.Size = 2048 * mib
	}
	// Data disks may bear any of the three, whatever the root is.
	r.Packages = append(slices.Clone(r.Packages), tools[Ext4], tools[XFS], tools[Btrfs])
	r.Packages = append(r.Packages, basic...)
	if r.Suite == "sid" {
		r.Packages = append(r.Packages, "mount") // essential before
	}
	if r.Under != "" {
		r.Packages = append(r.Packages, StackPackages...)
	}
	slices.Sort(r.Packages)
	r.Packages = slices.Compact(r.Packages)
	return r
}

// tree is the key of the files, before there is a disk.
func (r Recipe) tree() string {
	return digest("tree", r.Suite, r.Kernel, r.KernelSuite, r.Packages, slimming)
}

// disk is the key of the whole image: two recipes with one key are one image.
func (r Recipe) disk() string {
	if r.Under != "" {
		plain := r
		plain.Under = ""
		return digest("stacked", plain.disk(), r.stacking())
	}
	return digest("disk", r.tree(), r.Root, r.Size, files(r), finish(r))
}

// digest is of what decides, not of the packages' versions: an image stays as it is
// until somebody removes the cache.
func digest(parts ...any) string {
	text, err := json.Marshal(parts)
	if err != nil {
		panic(err) // strings and numbers
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}
