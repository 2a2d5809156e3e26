//go:build testbed

package testbed

import (
	"github.com/understudy-dr/understudy/testbed/guest"
)

// stack is what stands on a guest's two disks, $A and $B, and is written to as one and
// two, or as one alone.
type stack struct {
	size int64    // of each disk, bytes
	data []string // NAME=FS of what is written to
	// make builds it and mounts it at /srv/NAME; during is done while it is written to;
	// undo takes all of it down, mounted or not, so that nothing is left in memory.
	make, during, undo string
	// find puts it together from recovered disks, and prints NAME=FS=DEVICE lines. undo
	// takes that down, too.
	find string
}

// stacks are by what Linux servers lay their file systems on.
var stacks = map[string]stack{
	"partitions, swap": {
		size: 192 * mib, data: []string{"one=ext4", "two=btrfs"},
		make: `printf 'label: gpt\n,64M,S\n,,L\n' | sfdisk -q $A; printf 'label: dos\n,,L\n' | sfdisk -q $B; udevadm settle
mkswap -q $(part $A 1); swapon $(part $A 1)
mkfs.ext4 -q -F $(part $A 2); mkfs.btrfs -q -f $(part $B 1)
up $(part $A 2) one; up $(part $B 1) two`,
		// What has less memory than it fills is swapped.
		during: `mkdir -p /sys/fs/cgroup/hog; echo 16M >/sys/fs/cgroup/hog/memory.max
(echo $BASHPID >/sys/fs/cgroup/hog/cgroup.procs; head -c 40M /dev/urandom | tail -c 39M | cksum >/dev/null)
awk '/^pswpout/ && $2 < 1000 { print "only " $2 " pages were swapped" >"/dev/stderr"; exit 1 }' /proc/vmstat`,
		undo: `down one; down two; swapoff -a`,
		find: `echo one=ext4=$(part $A 2); echo two=btrfs=$(part $B 1)`,
	},
	"xfs on the disk": {
		size: 320 * mib, data: []string{"one=ext4", "two=xfs"},
		make: `mkfs.ext4 -q -F $A; mkfs.xfs -q -f $B; up $A one; up $B two`,
		undo: `down one; down two`,
		find: `echo one=ext4=$A; echo two=xfs=$B`,
	},
	"LVM linear": {
		size: 192 * mib, data: []string{"one=ext4", "two=btrfs"},
		make: `pvcreate -q $A $B; vgcreate -q vg $A $B
lvcreate -q -y -l 60 -n one vg; lvcreate -q -y -l 30 -n two vg # one lies on both
mkfs.ext4 -q /dev/vg/one; mkfs.btrfs -q /dev/vg/two; up /dev/vg/one one; up /dev/vg/two two`,
		during: `lvextend -q -r -l +2 vg/one`,
		undo:   `down one; down two; vgchange -q -an vg`,
		find:   `vgchange -q -ay vg >&2; udevadm settle; echo one=ext4=/dev/vg/one; echo two=btrfs=/dev/vg/two`,
	},
	"LVM thin": {
		size: 192 * mib, data: []string{"one=ext4", "two=btrfs"},
		make: `pvcreate -q $A $B; vgcreate -q vg $A $B; lvcreate -q -y -l 85 -T vg/pool
lvcreate -q -y -V 400M -T vg/pool -n one; lvcreate -q -y -V 400M -T vg/pool -n two
mkfs.ext4 -q /dev/vg/one; mkfs.btrfs -q /dev/vg/two; up /dev/vg/one one; up /dev/vg/two two`,
		during: `lvcreate -q -y -s vg/one -n shot`, // from here on a write to one is a copy elsewhere
		undo:   `down one; down two; vgchange -q -an vg`,
		find:   `vgchange -q -ay vg >&2; udevadm settle; echo one=ext4=/dev/vg/one; echo two=btrfs=/dev/vg/two`,
	},
	"dm-crypt": {
		size: 192 * mib, data: []string{"one=ext4", "two=btrfs"},
		make: `for d in $A $B; do echo -n secret | cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 $d -; done
echo -n secret | cryptsetup open --allow-discards $A one -; echo -n secret | cryptsetup open --allow-discards $B two - # it is trimmed, too
mkfs.ext4 -q /dev/mapper/one; mkfs.btrfs -q /dev/mapper/two; up /dev/mapper/one one; up /dev/mapper/two two`,
		undo: `down one; down two; cryptsetup close one; cryptsetup close two`,
		find: `echo -n secret | cryptsetup open $A one - >&2; echo -n secret | cryptsetup open $B two - >&2
echo one=ext4=/dev/mapper/one; echo two=btrfs=/dev/mapper/two`,
	},
	"md raid1": {
		size: 192 * mib, data: []string{"one=ext4"},
		make: `mdadm -q --create /dev/md/pair --run --level 1 --bitmap internal --homehost any --name pair -n 2 $A $B
mdadm -q --wait /dev/md/pair || true; mkfs.ext4 -q /dev/md/pair; up /dev/md/pair one`,
		undo: `down one; mdadm -q --stop /dev/md/pair; udevadm settle`,
		find: `udevadm settle; [ -e /dev/md/pair ] || mdadm -q --assemble /dev/md/pair $A $B >&2; echo one=ext4=/dev/md/pair`,
	},
	"md raid0": {
		size: 192 * mib, data: []string{"one=btrfs"},
		make: `mdadm -q --create /dev/md/pair --run --level 0 --homehost any --name pair -n 2 $A $B
mkfs.btrfs -q /dev/md/pair; up /dev/md/pair one`,
		undo: `down one; mdadm -q --stop /dev/md/pair; udevadm settle`,
		find: `udevadm settle; [ -e /dev/md/pair ] || mdadm -q --assemble /dev/md/pair $A $B >&2; echo one=btrfs=/dev/md/pair`,
	},
}

// stackTools are the packages that the stacks take.
var stackTools = []string{"fdisk", "lvm2", "thin-provisioning-tools", "cryptsetup-bin", "mdadm", "sg3-utils", "nvme-cli"}

// stackVerbs are what the scripts of the stacks call.
const stackVerbs = `
part() { case $1 in *[0-9]) echo $1p$2 ;; *) echo $1$2 ;; esac; }
up() { mkdir -p /srv/$2; mount $1 /srv/$2; }
down() { ! mountpoint -q /srv/$1 || umount /srv/$1; }
disk() { for d in /sys/block/*; do
	s=$(cat $d/serial $d/device/serial 2>/dev/null) || [ ! -e $d/device/vpd_pg80 ] || s=$(tail -c +5 $d/device/vpd_pg80 | tr -d '\0')
	[ "$(echo $s)" != $1 ] || [ ! -b /dev/${d##*/} ] || echo /dev/${d##*/}
done; }
`

// nodes are a guest's protected disks, as a shell reads it: kernels name them in whatever
// order they are found.
var nodes = []string{"$(disk a)", "$(disk b)"}

// passthrough writes 4 KiB at 512 KiB of $A, past the block layer: a command of the bus
// goes to the device as it is. virtio-blk has none.
var passthrough = map[guest.Bus]string{
	guest.VirtioSCSI: `modprobe sg; sg_dd if=/dev/urandom of=$(echo /sys/block/${A#/dev/}/device/scsi_generic/* | sed 's#.*/#/dev/#') bs=512 seek=1024 count=8 >&2`,
	guest.NVMe:       `head -c 4096 /dev/urandom >/tmp/4k; nvme write $A --start-block 1024 --block-count 7 --data-size 4096 --data /tmp/4k >&2`,
}
