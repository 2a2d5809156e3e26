package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// File systems that a disk can be given.
const (
	Ext4  = "ext4"
	XFS   = "xfs"
	Btrfs = "btrfs"
)

// lastOpener is how long a device or a mount may still be in use by somebody (udev,
// a closing writer) after its last rightful user has gone.
const lastOpener = 10 * time.Second

// Disk is a loop device over a sparse file.
type Disk struct {
	Name   string
	File   string // the backing file
	Device string // /dev/loopN; empty while detached
	FS     string // what it was formatted with
	Stable string // the name that the product knows it by; set by Machine.Protect
	Mount  string // where it is mounted; empty while it is not

	lab *Lab
}

// NewDisk attaches an empty disk of this size in bytes.
func (l *Lab) NewDisk(ctx context.Context, name string, size int64) (*Disk, error) {
	d := &Disk{Name: name, File: l.Path(name + ".disk"), lab: l}
	f, err := os.OpenFile(d.File, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		return nil, err
	}
	return d, d.Attach(ctx)
}

// OpenDisk attaches a file that exists, such as a materialised recovery point. It need
// not lie inside the lab, but Close detaches only what does.
func (l *Lab) OpenDisk(ctx context.Context, name, file, fs string) (*Disk, error) {
	d := &Disk{Name: name, File: file, FS: fs, lab: l}
	return d, d.Attach(ctx)
}

// Attach gives the backing file a loop device.
func (d *Disk) Attach(ctx context.Context) error {
	device, err := run(ctx, "losetup", "--find", "--show", d.File)
	if err != nil {
		return err
	}
	d.Device = device
	return nil
}

// Detach takes the loop device away. The disk must not be mounted.
func (d *Disk) Detach(ctx context.Context) error {
	if d.Device == "" {
		return nil
	}
	device := d.Device
	if _, err := run(ctx, "losetup", "-d", device); err != nil {
		return err
	}
	d.Device = ""
	// The kernel detaches when the last opener has gone, and may let one in meanwhile.
	backing := filepath.Join("/sys/block", filepath.Base(device), "loop/backing_file")
	return Until(ctx, lastOpener, "free loop device "+device, func() (bool, error) {
		now, err := os.ReadFile(backing)
		return err != nil || !strings.HasPrefix(string(now), d.File), nil
	})
}

// Format makes a file system on the disk.
func (d *Disk) Format(ctx context.Context, fs string) error {
	var err error
	switch fs {
	case Ext4:
		// Without lazy initialisation: it would write in the background for minutes.
		_, err = run(ctx, "mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", d.Device)
	case XFS:
		_, err = run(ctx, "mkfs.xfs", "-q", "-f", d.Device)
	case Btrfs:
		_, err = run(ctx, "mkfs.btrfs", "-q", "-f", d.Device)
	default:
		err = fmt.Errorf("no file system %q in this lab", fs)
	}
	d.FS = fs
	return err
}

// MountUp mounts the disk below the lab's directory, read-only if ro.
func (d *Disk) MountUp(ctx context.Context, ro bool) error {
	dir := d.lab.Path("mnt", d.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	options := []string{"rw"}
	if ro {
		options[0] = "ro"
	}
	if d.FS == XFS { // the original may be mounted at the same time; btrfs sees to that by itself
		options = append(options, "nouuid")
	}
	err := mount(ctx, d.FS, strings.Join(options, ","), d.Device, dir)
	if err == nil {
		d.Mount = dir
	}
	return err
}

// mount is mount(8). Of two copies of a btrfs the second cannot be mounted while the first
// is being unmounted: the kernel has forgotten that one already, and its name in sysfs is
// still there ("File exists"). That passes by itself.
func mount(ctx context.Context, fs, options, device, dir string) error {
	for end := time.Now().Add(lastOpener); ; {
		_, err := run(ctx, "mount", "-t", fs, "-o", options, device, dir)
		if err == nil || fs != Btrfs || !strings.Contains(err.Error(), "File exists") || time.Now().After(end) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Unmount takes the file system down cleanly.
func (d *Disk) Unmount(ctx context.Context) error {
	if d.Mount == "" {
		return nil
	}
	if err := Until(ctx, lastOpener, "idle "+d.Mount, func() (bool, error) {
		err := unix.Unmount(d.Mount, 0)
		return err == nil, err
	}); err != nil {
		return fmt.Errorf("unmount %s: %w", d.Mount, err)
	}
	d.Mount = ""
	return nil
}

// Pull takes the disk away from a running machine: whatever is mounted is detached
// without being asked, and the backing file is left as it is.
func (d *Disk) Pull(ctx context.Context) error {
	if d.Mount != "" {
		if err := unix.Unmount(d.Mount, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("detach %s: %w", d.Mount, err)
		}
		d.Mount = ""
	}
	return d.Detach(ctx)
}

// Destroy overwrites every byte of the backing file that holds data. It bypasses the
// loop device: no capture can see it, as none sees a disk burn.
func (d *Disk) Destroy() error {
	f, err := os.OpenFile(d.File, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	junk := bytes.Repeat([]byte{0xDB}, 1<<20)
	for end := int64(0); ; {
		data, err := f.Seek(end, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return f.Sync()
		} else if err != nil {
			return err
		}
		if end, err = f.Seek(data, unix.SEEK_HOLE); err != nil {
			return err
		}
		for ; data < end; data += int64(len(junk)) {
			if _, err := f.WriteAt(junk[:min(int64(len(junk)), end-data)], data); err != nil {
				return err
			}
		}
	}
}

// Grow enlarges (or shrinks) the disk under the running machine.
func (d *Disk) Grow(ctx context.Context, size int64) error {
	if err := os.Truncate(d.File, size); err != nil {
		return err
	}
	_, err := run(ctx, "losetup", "-c", d.Device)
	return err
}

// Trim gives the free space of the mounted file system back, as fstrim.timer does.
func (d *Disk) Trim(ctx context.Context) error {
	_, err := run(ctx, "fstrim", d.Mount)
	return err
}

// CheckFS replays the journal, as the machine's next start would, and has the file
// system's own tool look for damage.
func (d *Disk) CheckFS(ctx context.Context) error {
	if err := d.MountUp(ctx, false); err != nil {
		return fmt.Errorf("journal replay: %w", err)
	}
	if err := d.Unmount(ctx); err != nil {
		return err
	}
	check := map[string][]string{
		Ext4:  {"e2fsck", "-f", "-n", d.Device},
		XFS:   {"xfs_repair", "-n", d.Device},
		Btrfs: {"btrfs", "check", "--readonly", "--check-data-csum", d.Device},
	}[d.FS]
	if _, err := run(ctx, check[0], check[1:]...); err != nil {
		return fmt.Errorf("file system is damaged: %w", err)
	}
	return nil
}
