package capture

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
)

const sysBlock = "/sys/block"

// Discover lists the whole disks that could be protected, by name. Disks that hold
// nothing (empty loop devices, zram, card readers) and disks stacked on others
// (LVM, md, crypt: their physical disks are protected) are left out.
func Discover(ctx context.Context) ([]Disk, error) {
	entries, err := os.ReadDir(sysBlock)
	if err != nil {
		return nil, fmt.Errorf("listing block devices: %w", err)
	}
	var disks []Disk
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d, err := describe(e.Name())
		if errors.Is(err, ErrNoDisk) || err == nil && (refuse(e.Name()) != nil) {
			continue
		}
		if err != nil {
			return nil, err
		}
		disks = append(disks, d)
	}
	slices.SortFunc(disks, func(a, b Disk) int { return strings.Compare(a.Name, b.Name) })
	return disks, nil
}

// Resolve finds a disk by its path ("/dev/sda", or a link to it), its stable name
// or its id.
func Resolve(pathOrName string) (Disk, error) {
	if strings.HasPrefix(pathOrName, "/") {
		return resolvePath(pathOrName)
	}
	disks, err := Discover(context.Background())
	if err != nil {
		return Disk{}, err
	}
	var found []Disk
	for _, d := range disks {
		if d.Name == pathOrName || d.ID.String() == pathOrName {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Disk{}, fmt.Errorf("%w: %q; give a path under /dev or a name that the probe lists", ErrNoDisk, pathOrName)
	}
	return Disk{}, fmt.Errorf("%w: %s and %s both call themselves %q; give the path of the one that is meant", ErrNoDisk, found[0].Path, found[1].Path, pathOrName)
}

func resolvePath(path string) (Disk, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Disk{}, fmt.Errorf("%w: %s: %w", ErrNoDisk, path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return Disk{}, fmt.Errorf("%w: %s is not a block device", ErrNoDisk, path)
	}
	dir, err := filepath.EvalSymlinks(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	if err != nil {
		return Disk{}, fmt.Errorf("%w: %s: %w", ErrNoDisk, path, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		return Disk{}, fmt.Errorf("%w: %s is a partition; protect the whole disk /dev/%s", ErrRefused, path, filepath.Base(filepath.Dir(dir)))
	}
	name := filepath.Base(dir)
	if err := refuse(name); err != nil {
		return Disk{}, err
	}
	return describe(name)
}

// describe reads what sysfs says of a whole disk. ErrNoDisk if it holds nothing.
func describe(kernelName string) (Disk, error) {
	d := Disk{Path: "/dev/" + strings.ReplaceAll(kernelName, "!", "/")}
	number, err := sysString(kernelName, "dev")
	if err != nil {
		return Disk{}, fmt.Errorf("%w: %s: %w", ErrNoDisk, d.Path, err)
	}
	if _, err := fmt.Sscanf(number, "%d:%d", &d.Major, &d.Minor); err != nil {
		return Disk{}, fmt.Errorf("%s: its number %q is not MAJOR:MINOR", d.Path, number)
	}
	sectors, err := sysInt(kernelName, "size")
	if err != nil || sectors == 0 {
		return Disk{}, fmt.Errorf("%w: %s holds nothing", ErrNoDisk, d.Path)
	}
	d.Size = sectors * block.SectorSize
	d.SectorSize = block.SectorSize
	if n, err := sysInt(kernelName, "queue/logical_block_size"); err == nil {
		d.SectorSize = int(n)
	}
	if n, err := sysInt(kernelName, "diskseq"); err == nil {
		d.Sequence = uint64(n)
	}
	d.Backing, _ = sysString(kernelName, "loop/backing_file")
	if d.Name, err = stableName(kernelName, d); err != nil {
		return Disk{}, err
	}
	d.ID = block.DiskIDFromName(d.Name)
	return d, nil
}

// stableName is the best of the names that stay with a disk: given by its maker,
// else written on it, else the place where it is plugged in.
func stableName(kernelName string, d Disk) (string, error) {
	if d.Backing != "" {
		return loopName(d)
	}
	for _, from := range []struct{ file, prefix string }{
		{"wwid", "wwn-"}, {"device/wwid", "wwn-"},
		{"dm/uuid", "dm-"}, {"md/uuid", "md-"},
		{"serial", "serial-"}, {"device/serial", "serial-"}, {"device/vpd_pg80", "serial-"},
	} {
		s, err := sysString(kernelName, from.file)
		if from.file == "device/vpd_pg80" && len(s) > vpdHeader { // not every kernel has a serial for SCSI
			s = s[vpdHeader:]
		}
		if err == nil && clean(s) != "" {
			return from.prefix + clean(s), nil
		}
	}
	if s, err := writtenName(d); err == nil {
		return s, nil
	}
	place, err := filepath.EvalSymlinks(filepath.Join(sysBlock, kernelName))
	if err != nil || !strings.HasPrefix(place, "/sys/devices/") || strings.HasPrefix(place, "/sys/devices/virtual/") {
		return "", fmt.Errorf("%w: %s has no wwn, serial, GPT or DOS identifier by which to know it again; write a GPT or give the virtual disk a serial number", ErrNoDisk, d.Path)
	}
	place = strings.TrimPrefix(filepath.Dir(filepath.Dir(place)), "/sys/devices/")
	return "place-" + clean(strings.ReplaceAll(counted.ReplaceAllString(place, "$1$2"), "/", "-")), nil
}

// counted are the parts of a place that the kernel numbers as it finds them.
var counted = regexp.MustCompile(`\b(host|virtio|target|ata)\d+|\b\d+(:\d+:\d+:\d+)\b`)

// vpdHeader is what comes before the serial number in page 0x80.
const vpdHeader = 4

// loopName names a loop device by its backing file: path, inode and offset. A file
// that was replaced is another disk.
func loopName(d Disk) (string, error) {
	f, err := os.Open(d.Path)
	if err != nil {
		return "", fmt.Errorf("asking %s for its file: %w", d.Path, err)
	}
	defer func() { _ = f.Close() }()
	info, err := unix.IoctlLoopGetStatus64(int(f.Fd()))
	if err != nil {
		return "", fmt.Errorf("%w: %s: %w", ErrNoDisk, d.Path, err)
	}
	path := strings.TrimSuffix(d.Backing, " (deleted)")
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d\x00%d", path, info.Inode, info.Offset))
	return fmt.Sprintf("loop-%s-%x", clean(filepath.Base(path)), sum[:4]), nil
}

// writtenName is the identifier in the disk's partition table.
func writtenName(d Disk) (string, error) {
	f, err := os.Open(d.Path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	table := make([]byte, 2*d.SectorSize)
	if _, err := f.ReadAt(table, 0); err != nil {
		return "", err
	}
	return tableName(table[:d.SectorSize], table[d.SectorSize:])
}

// tableName is the identifier in a disk's first two sectors, each of 512 bytes or more.
func tableName(first, second []byte) (string, error) {
	if string(second[:8]) == "EFI PART" {
		return "gpt-" + hex.EncodeToString(second[56:72]), nil
	}
	if id := first[440:444]; first[510] == 0x55 && first[511] == 0xaa && string(id) != "\x00\x00\x00\x00" {
		return "dos-" + hex.EncodeToString(id), nil
	}
	return "", fs.ErrNotExist
}

// clean keeps what can stand in a name.
func clean(s string) string {
	return strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', strings.ContainsRune("._-+:", r):
			return r
		}
		return '_'
	}, strings.TrimSpace(s)), "_")
}

// refuse says why a whole disk cannot be captured exactly, nil if it can.
func refuse(kernelName string) error {
	dev := "/dev/" + kernelName
	if s, _ := sysString(kernelName, "queue/zoned"); s != "" && s != "none" {
		return fmt.Errorf("%w: %s is a zoned device (%s); appended writes carry no place", ErrRefused, dev, s)
	}
	if s, _ := sysString(kernelName, "queue/dax"); s == "1" {
		return fmt.Errorf("%w: %s supports DAX; writes through a DAX mapping never reach the block layer", ErrRefused, dev)
	}
	if strings.HasPrefix(kernelName, "zram") || strings.HasPrefix(kernelName, "ram") {
		return fmt.Errorf("%w: %s is memory", ErrRefused, dev)
	}
	uuid, _ := sysString(kernelName, "dm/uuid")
	if slaves := sysList(kernelName, "slaves"); len(slaves) > 0 && !strings.HasPrefix(uuid, "mpath-") {
		return fmt.Errorf("%w: %s is stacked on %s; protect those", ErrRefused, dev, strings.Join(slaves, ", "))
	}
	for _, h := range sysList(kernelName, "holders") {
		if uuid, _ := sysString(h, "dm/uuid"); strings.HasPrefix(uuid, "mpath-") {
			return fmt.Errorf("%w: %s is one path of the multipath device /dev/%s; protect that", ErrRefused, dev, h)
		}
	}
	if s, _ := sysString(kernelName, "hidden"); s == "1" {
		return fmt.Errorf("%w: %s is one path of a multipath device; protect its head", ErrRefused, dev)
	}
	return nil
}

func sysString(kernelName, file string) (string, error) {
	b, err := os.ReadFile(filepath.Join(sysBlock, kernelName, file))
	return strings.TrimSpace(string(b)), err
}

func sysInt(kernelName, file string) (int64, error) {
	return fileInt(filepath.Join(sysBlock, kernelName, file))
}

// fileInt reads a number out of sysfs, in the three system calls that it takes: it is
// asked some with every frame.
func fileInt(path string) (int64, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	var b [32]byte
	n, err := unix.Read(fd, b[:])
	if err != nil {
		return 0, &os.PathError{Op: "read", Path: path, Err: err}
	}
	return strconv.ParseInt(strings.TrimSpace(string(b[:n])), 10, 64)
}

func sysList(kernelName, dir string) []string {
	entries, _ := os.ReadDir(filepath.Join(sysBlock, kernelName, dir))
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
