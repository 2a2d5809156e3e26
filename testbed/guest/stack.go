package guest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/understudy-dr/understudy/testbed/lab"
)

// What a root can lie on besides a partition.
const (
	LVM  = "lvm"  // a logical volume
	LUKS = "luks" // a logical volume on an encrypted partition
)

// stackedRoot is what the kernel's line calls such a root.
const stackedRoot = "/dev/mapper/vg-root"

// StackPackages make and find stacked roots. Both kinds have all of them, and so share
// one tree; dracut-core makes another initramfs where a scenario wants one.
var StackPackages = []string{"lvm2", "cryptsetup-initramfs", "fdisk", "dracut-core"}

// stackBelow makes $pv, on which the volume group is made, of the partition $part. The
// key lies on the root itself and in the initramfs: nobody is there to type one.
var stackBelow = map[string]string{
	LVM: `pv=$part`,
	LUKS: `install -d -m 700 /etc/keys
head -c 64 /dev/urandom >/etc/keys/root.key
chmod 400 /etc/keys/root.key
cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /etc/keys/root.key $part
cryptsetup open --key-file /etc/keys/root.key $part crypt
pv=/dev/mapper/crypt
echo "crypt UUID=$(blkid -s UUID -o value $part) /etc/keys/root.key luks,discard,initramfs" >>/etc/crypttab
echo 'KEYFILE_PATTERN="/etc/keys/*.key"' >>/etc/cryptsetup-initramfs/conf-hook
echo 'UMASK=0077' >/etc/initramfs-tools/conf.d/keys
printf 'dm_crypt\nxts\nalgif_skcipher\n' >>/etc/initramfs-tools/modules`,
}

// stackUp has a running machine lay itself on its second disk. The partition begins where
// an image's does.
const stackUp = `
modprobe dm_mod; modprobe dm_crypt
printf 'label: dos\nstart=2048, type=8e\n' | sfdisk -q /dev/vdb
udevadm settle
part=/dev/vdb1
%s
pvcreate -q $pv
vgcreate -q vg $pv
lvcreate -q -y -l 100%%FREE -n root vg
mkfs.ext4 -q -L root /dev/vg/root
mount /dev/vg/root /mnt
echo '` + stackedRoot + ` / ext4 defaults 0 1' >/etc/fstab
cp -ax /. /mnt/
: >/mnt/etc/machine-id
for dir in dev proc sys run; do mount --rbind /$dir /mnt/$dir; done
chroot /mnt update-initramfs -u -k all >&2
cp /mnt/boot/initrd.img-* /root/initrd
umount -l /mnt/dev /mnt/proc /mnt/sys /mnt/run
umount /mnt
vgchange -q -an vg
if [ -e /dev/mapper/crypt ]; then cryptsetup close crypt; fi
sync
`

// stack makes the image in a machine with the same packages: the host's kernel need not
// know what the root lies on.
func (i *Image) stack(ctx context.Context, dir string) (err error) {
	if stackBelow[i.Recipe.Under] == "" || i.Recipe.Root != Ext4 || i.Recipe.Loader {
		return fmt.Errorf("no root of %s on %q: ext4 on lvm or luks, without a boot loader", i.Recipe.Root, i.Recipe.Under)
	}
	plain := i.Recipe
	plain.Under = ""
	from, err := Build(ctx, plain)
	if err != nil {
		return err
	}
	l, err := lab.New(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	g, err := Boot(ctx, l, Options{Name: "maker", Image: from, Disks: []Disk{{Name: "made", Size: i.Recipe.Size}}})
	if err != nil {
		return err
	}
	if _, err := g.Run(ctx, i.Recipe.stacking()); err != nil {
		return err
	}
	if err := errors.Join(g.Get(ctx, "/root/initrd", filepath.Join(dir, "initrd")), g.Shutdown(ctx)); err != nil {
		return err
	}
	for _, name := range []string{"vmlinuz", keyFile, hostFile} {
		if _, err := run(ctx, "cp", filepath.Join(from.Dir, name), dir); err != nil {
			return err
		}
	}
	_, err = run(ctx, "cp", "--sparse=always", g.Disks["made"], filepath.Join(dir, "disk.img"))
	return err
}

func (r Recipe) stacking() string {
	return fmt.Sprintf(stackUp, strings.TrimSpace(stackBelow[r.Under]))
}

// line is what the kernel's line says of the root, behind what it says of every one.
func (r Recipe) line() string {
	if r.Under == "" {
		return ""
	}
	return "root=" + stackedRoot
}
