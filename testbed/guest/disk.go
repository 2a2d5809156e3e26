package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// rootStart is where the root's partition begins: the room before it is a boot loader's.
const rootStart = 1 * mib

// makeDisk makes the disk's file with the tree as its root.
func makeDisk(ctx context.Context, r Recipe, tree, file string) error {
	if err := os.WriteFile(file, masterBootRecord(r.Size), 0o644); err != nil {
		return err
	}
	if err := os.Truncate(file, r.Size); err != nil {
		return err
	}
	if r.Loader {
		if err := installLoader(ctx, r, file); err != nil {
			return err
		}
	}
	if r.Root == Ext4 { // needs no mount
		kib := strconv.FormatInt((r.Size-rootStart)>>10, 10) + "k"
		_, err := run(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-d", tree, "-E", "offset="+strconv.Itoa(rootStart), file, kib)
		return err
	}
	return fillByMount(ctx, r.Root, tree, file)
}

// masterBootRecord has one partition of Linux, active, from rootStart to the disk's end.
//
//	440 disk signature   446 partition entries, 16 bytes each   510 55 AA
func masterBootRecord(size int64) []byte {
	b := make([]byte, 512)
	copy(b[440:], "undr")
	e := b[446:462]
	e[0] = 0x80                            // active
	copy(e[1:4], []byte{0xFE, 0xFF, 0xFF}) // no CHS address: look at the LBA
	e[4] = 0x83                            // Linux
	copy(e[5:8], []byte{0xFE, 0xFF, 0xFF}) //
	binary.LittleEndian.PutUint32(e[8:], rootStart/512)
	binary.LittleEndian.PutUint32(e[12:], uint32((size-rootStart)/512))
	b[510], b[511] = 0x55, 0xAA
	return b
}

// fillByMount is for file systems whose mkfs takes no tree.
func fillByMount(ctx context.Context, kind, tree, file string) (err error) {
	device, err := run(ctx, "losetup", "--find", "--show", "--offset", strconv.Itoa(rootStart), file)
	if err != nil {
		return err
	}
	device = strings.TrimSpace(device)
	defer func() {
		_, detached := run(context.WithoutCancel(ctx), "losetup", "--detach", device)
		err = errors.Join(err, detached)
	}()
	force := "-f" // both have it
	if _, err := run(ctx, "mkfs."+kind, force, "-L", "root", device); err != nil {
		return err
	}
	mount := filepath.Join(filepath.Dir(file), "mount")
	if err := os.MkdirAll(mount, 0o755); err != nil {
		return err
	}
	if _, err := run(ctx, "mount", "-t", kind, device, mount); err != nil {
		return err
	}
	_, err = run(ctx, "cp", "-a", tree+"/.", mount)
	_, unmounted := run(context.WithoutCancel(ctx), "umount", mount)
	if err := errors.Join(err, unmounted); err != nil {
		return fmt.Errorf("fill %s: %w", device, err)
	}
	return os.Remove(mount)
}
