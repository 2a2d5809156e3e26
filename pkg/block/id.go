// Package block holds the words every other package speaks: which machine,
// which disk, which stretch of it, and which position in a machine's log.
package block

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// idBytes is the size of a machine's or a disk's identity: 128 bits, so that
// identities made independently on any number of hosts do not collide.
const idBytes = 16

// DiskID names a disk for good. It is derived from the disk's stable name (WWN,
// serial, GPT identifier, backing file), never from a /dev name, which moves.
type DiskID [idBytes]byte

// MachineID names a protected machine. It is drawn at enrolment and stands in the
// agent's certificate, in every frame and in every path of the vault.
type MachineID [idBytes]byte

// DiskIDFromName derives the id of the disk with this stable name: the first 16
// bytes of SHA-256 over a domain tag and the name.
func DiskIDFromName(stable string) DiskID {
	sum := sha256.Sum256([]byte("understudy disk\x00" + stable))
	return DiskID(sum[:idBytes])
}

// NewMachineID draws a random machine id.
func NewMachineID() MachineID {
	var id MachineID
	_, _ = rand.Read(id[:]) // never fails: crypto/rand ends the process instead
	return id
}

// ParseDiskID reads the 32 hexadecimal digits that DiskID.String writes.
func ParseDiskID(s string) (DiskID, error) {
	b, err := parseID("disk", s)
	return DiskID(b), err
}

// ParseMachineID reads the 32 hexadecimal digits that MachineID.String writes.
func ParseMachineID(s string) (MachineID, error) {
	b, err := parseID("machine", s)
	return MachineID(b), err
}

func (d DiskID) String() string    { return hex.EncodeToString(d[:]) }
func (m MachineID) String() string { return hex.EncodeToString(m[:]) }

// IsZero reports whether the id was never set. Zero is not a valid id.
func (d DiskID) IsZero() bool { return d == DiskID{} }

// IsZero reports whether the id was never set. Zero is not a valid id.
func (m MachineID) IsZero() bool { return m == MachineID{} }

// MarshalText writes the id as 32 hexadecimal digits.
func (d DiskID) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// MarshalText writes the id as 32 hexadecimal digits.
func (m MachineID) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (d *DiskID) UnmarshalText(b []byte) (err error) {
	*d, err = ParseDiskID(string(b))
	return err
}

// UnmarshalText reads what MarshalText writes.
func (m *MachineID) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMachineID(string(b))
	return err
}

func parseID(what, s string) (id [idBytes]byte, err error) {
	var b []byte
	if len(s) == 2*idBytes {
		b, err = hex.DecodeString(s)
	}
	if err != nil || len(b) != idBytes {
		return id, fmt.Errorf("block: %.64q is not a %s id: want %d hexadecimal digits", s, what, 2*idBytes)
	}
	if id = [idBytes]byte(b); id == [idBytes]byte{} {
		return id, fmt.Errorf("block: %q is not a %s id: all zero means unset", s, what)
	}
	return id, nil
}
