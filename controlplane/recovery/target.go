package recovery

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/understudy-dr/understudy/controlplane/recovery/vhd"
	"github.com/understudy-dr/understudy/pkg/block"
)

// Format is how a disk lies in a file.
type Format string

// The formats a target can have. Both are sparse.
const (
	Raw      Format = "raw" // the disk's bytes and nothing else
	FixedVHD Format = "vhd" // padded with zeros to a whole MiB, as Azure asks, and a 512-byte footer
)

// ParseFormat reads a format's name.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case Raw, FixedVHD:
		return f, nil
	}
	return "", fmt.Errorf("recovery: %q is not a target format: want %q or %q", s, Raw, FixedVHD)
}

// fileSize is the size of the file that holds a disk of that size, in bytes.
func (f Format) fileSize(disk int64) int64 {
	if f == FixedVHD {
		return vhd.DiskSize(disk) + vhd.FooterSize
	}
	return disk
}

// Origin says what an Image shows: which disk of which machine of which vault, at
// which position.
type Origin struct {
	Vault    string          `json:"vault"` // the vault's own id
	Machine  block.MachineID `json:"machine"`
	Disk     block.DiskID    `json:"disk"`
	Name     string          `json:"name"` // the disk's stable name
	Position block.Position  `json:"position"`
}

// Check reports what is missing. An origin that is written down beside a file must
// be whole, or the file could be taken for another disk's.
func (o Origin) Check() error {
	switch {
	case o.Machine.IsZero():
		return fmt.Errorf("recovery: disk %q without a machine's id", o.Name)
	case o.Disk.IsZero() || o.Name == "":
		return fmt.Errorf("recovery: disk %q of machine %s without an id or a name", o.Name, o.Machine)
	case o.Position == block.Position{}:
		return fmt.Errorf("recovery: disk %q of machine %s without a position", o.Name, o.Machine)
	}
	return nil
}

// sameDisk reports whether both are of one disk, at whatever position.
func (o Origin) sameDisk(p Origin) bool {
	return o.Vault == p.Vault && o.Machine == p.Machine && o.Disk == p.Disk
}

// Disk is an image together with its origin.
type Disk struct {
	Origin
	Image Image
}

// Target is the file to write a disk to.
type Target struct {
	Path   string
	Format Format
}

// A target's neighbours. The disk has its final name only while it is complete:
// until then, and while it is being advanced, it carries partialSuffix.
const (
	partialSuffix = ".understudy-partial"
	sidecarSuffix = ".understudy.json"
)

func (t Target) partial() string { return t.Path + partialSuffix }

// SidecarPath is where the sidecar of a target lies.
func SidecarPath(target string) string { return target + sidecarSuffix }

// targetName is the file name, without directory, for a disk of that stable name.
// A name that cannot be a file name as it stands is made safe and told apart by
// the disk's id.
func targetName(o Origin, f Format) string {
	const longest = 180 // leaves room for the suffixes within the usual 255 bytes
	safe := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("._-", r):
			return r
		}
		return '_'
	}, o.Name)
	safe = strings.TrimLeft(safe, ".")
	if len(safe) > longest {
		safe = safe[:longest]
	}
	if safe != o.Name || safe == "" {
		safe += "-" + o.Disk.String()[:8]
	}
	return safe + "." + string(f)
}

// TargetIn is the target for a disk in a directory, named after the disk.
func TargetIn(dir string, o Origin, f Format) Target {
	return Target{Path: filepath.Join(dir, targetName(o, f)), Format: f}
}
