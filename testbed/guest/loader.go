package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// loaderMenu has both consoles: a login on the serial line and one on the screen.
const loaderMenu = "set timeout=0\nlinux /vmlinuz console=tty0 " + kernelLine + "\ninitrd /initrd.img\nboot\n"

// grubDir is where Debian's grub-pc-bin puts the parts of a boot loader for a BIOS.
const grubDir = "/usr/lib/grub/i386-pc"

// bootCode is what of an MBR is code: the disk's signature and its partitions follow.
const bootCode = 440

// installLoader puts GRUB where grub-install would: its first stage into the MBR, the rest
// into the room before the root's partition. Both find each other by their defaults,
// which are the sectors after the MBR, so no device and no mount is needed for it.
func installLoader(ctx context.Context, r Recipe, file string) (err error) {
	core := filepath.Join(filepath.Dir(file), "core.img")
	module := map[string]string{Ext4: "ext2", XFS: "xfs", Btrfs: "btrfs"}[r.Root]
	if _, err := run(ctx, "grub-mkimage", "-O", "i386-pc", "-o", core, "-p", "(hd0,msdos1)/boot/grub",
		"biosdisk", "part_msdos", module, "linux", "configfile", "normal"); err != nil {
		return err
	}
	first, err := os.ReadFile(filepath.Join(grubDir, "boot.img"))
	if err != nil {
		return err
	}
	rest, err := os.ReadFile(core)
	if err != nil {
		return err
	}
	if len(first) < bootCode || len(rest) > rootStart-512 {
		return fmt.Errorf("a boot loader of %d and %d bytes does not fit before the root", len(first), len(rest))
	}
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(first[:bootCode], 0)
	if err == nil {
		_, err = f.WriteAt(rest, 512)
	}
	return errors.Join(err, f.Close(), os.Remove(core))
}
