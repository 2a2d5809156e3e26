package journal

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// bootID names one boot of the machine.
type bootID [16]byte

func (b bootID) String() string { return hex.EncodeToString(b[:]) }

func parseBoot(s string) (b bootID, err error) {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != len(b) {
		return b, fmt.Errorf("journal: %q is not a boot id", s)
	}
	return bootID(raw), nil
}

// randomBoot serves where the boot cannot be told: everything left by an earlier
// process then counts as left by an earlier boot, which is safe.
func randomBoot() (b bootID) {
	_, _ = rand.Read(b[:]) // never fails
	return b
}
