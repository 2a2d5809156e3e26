// Package mapper reads the tables of device-mapper: what a device of LVM or of dm-crypt
// lies on, and where.
//
// A table of dm-crypt may hold the key of what is encrypted. It is not taken out of the
// kernel's answer, which is wiped when it has been read; no error says anything of it.
package mapper

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Kinds of targets whose bytes lie on a device below, in their order. Linear is what LVM
// makes of its plain volumes; Crypt encrypts each sector in its place.
const (
	Linear = "linear"
	Crypt  = "crypt"
	// CryptIntegrity is a crypt that keeps tags beside the sectors: they do not lie in
	// place.
	CryptIntegrity = "crypt with integrity"
)

// Target is a stretch of a mapped device.
type Target struct {
	block.Extent
	// Kind is the kernel's name of what maps it, or CryptIntegrity.
	Kind string
	// Where it begins on the device below: of a Linear and a Crypt only.
	Major, Minor uint32
	Below        int64
}

// InPlace reports whether the target's bytes lie on the device below, in their order.
func (t Target) InPlace() bool { return t.Kind == Linear || t.Kind == Crypt }

// An answer of the kernel to DM_TABLE_STATUS, in the machine's byte order: struct
// dm_ioctl, and at data_start for each target a struct dm_target_spec and its parameters,
// which end with a zero.
//
//	dm_ioctl        0 version [3]uint32   12 data_size   16 data_start   20 target_count
//	               24 open_count   28 flags   32 event_nr   36 padding   40 dev uint64
//	               48 name [128]   176 uuid [129]   305 padding [7]
//	dm_target_spec  0 sector_start uint64   8 length uint64   16 status int32
//	               20 next uint32, from the first of them   24 target_type [16]
const (
	headSize = 312
	specSize = 40

	atVersion, atDataSize, atDataStart, atTargets = 0, 12, 16, 20
	atFlags, atDev                                = 28, 40

	maxSectors = 1 << 53 // of 512 bytes: more than an int64 has bytes for
)

var errAnswer = errors.New("device-mapper: an answer that cannot be read")

// parse reads an answer. Its targets follow each other without a gap, from zero on.
func parse(b []byte) ([]Target, error) {
	if len(b) < headSize {
		return nil, fmt.Errorf("%w: %d bytes", errAnswer, len(b))
	}
	size, start := u32(b, atDataSize), u32(b, atDataStart)
	if size > len(b) || start < headSize || start > size {
		return nil, fmt.Errorf("%w: %d bytes of %d, from %d on", errAnswer, size, len(b), start)
	}
	specs := b[start:size]
	n := u32(b, atTargets)
	if n > len(specs)/specSize {
		return nil, fmt.Errorf("%w: %d targets in %d bytes", errAnswer, n, len(specs))
	}
	targets := make([]Target, 0, n)
	for at, end := 0, int64(0); len(targets) < n; {
		if at < 0 || at > len(specs)-specSize {
			return nil, fmt.Errorf("%w: a target at %d of %d bytes", errAnswer, at, len(specs))
		}
		next := u32(specs, at+20)
		if len(targets) == n-1 {
			next = len(specs) // of the last one it says nothing
		}
		if next < at+specSize || next > len(specs) {
			return nil, fmt.Errorf("%w: after a target at %d one at %d", errAnswer, at, next)
		}
		t, err := parseTarget(specs[at:next])
		if err != nil {
			return nil, err
		}
		if t.Off != end {
			return nil, fmt.Errorf("%w: a target from %d on, after one that ends at %d", errAnswer, t.Off, end)
		}
		targets, at, end = append(targets, t), next, t.End()
	}
	return targets, nil
}

// parseTarget reads one target with its parameters.
func parseTarget(b []byte) (Target, error) {
	first, length := binary.NativeEndian.Uint64(b), binary.NativeEndian.Uint64(b[8:])
	if first > maxSectors || length == 0 || length > maxSectors || first+length > maxSectors {
		return Target{}, fmt.Errorf("%w: a target of %d sectors from %d on", errAnswer, length, first)
	}
	kind, ended := untilZero(b[24:specSize])
	params, closed := untilZero(b[specSize:])
	if !ended || !closed {
		return Target{}, fmt.Errorf("%w: a name or parameters without an end", errAnswer)
	}
	t := Target{Extent: block.Extent{Off: int64(first) * block.SectorSize, Len: int64(length) * block.SectorSize}, Kind: string(kind)}
	fields := bytes.Fields(params)
	var err error
	switch t.Kind {
	case Linear: // device offset
		if len(fields) != 2 {
			return Target{}, fmt.Errorf("%w: %d parameters of a linear target", errAnswer, len(fields))
		}
		err = t.lies(fields[0], fields[1])
	case Crypt: // cipher key iv_offset device offset [#opts opts...]
		if len(fields) < 5 {
			return Target{}, fmt.Errorf("%w: %d parameters of a crypt target", errAnswer, len(fields))
		}
		for _, opt := range fields[5:] {
			if bytes.HasPrefix(opt, []byte("integrity:")) {
				t.Kind = CryptIntegrity
				return t, nil
			}
		}
		err = t.lies(fields[3], fields[4])
	}
	return t, err
}

// lies reads where a target lies: "254:1" and a sector of it.
func (t *Target) lies(device, sector []byte) error {
	major, minor, ok := bytes.Cut(device, []byte(":"))
	ma, errMajor := strconv.ParseUint(string(major), 10, 32)
	mi, errMinor := strconv.ParseUint(string(minor), 10, 32)
	off, errOff := strconv.ParseUint(string(sector), 10, 64)
	if !ok || errMajor != nil || errMinor != nil || errOff != nil || off > maxSectors || off+uint64(t.Len)/block.SectorSize > maxSectors {
		// Not in their words: where a table has another form these may be parts of a key.
		return fmt.Errorf("%w: a %s target without a device and a sector of it", errAnswer, t.Kind)
	}
	t.Major, t.Minor, t.Below = uint32(ma), uint32(mi), int64(off)*block.SectorSize
	return nil
}

func untilZero(b []byte) ([]byte, bool) {
	i := bytes.IndexByte(b, 0)
	return b[:max(i, 0)], i >= 0
}

func u32(b []byte, at int) int { return int(binary.NativeEndian.Uint32(b[at:])) }
