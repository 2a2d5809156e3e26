package vault

import (
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Names of objects. Numbers are padded so that the store's byte order is theirs.
const (
	vaultName  = "vault.json"
	keyPrefix  = "keys/"
	jsonSuffix = ".json"
)

func keyName(m block.MachineID) string { return keyPrefix + m.String() + jsonSuffix }

func machinePrefix(m block.MachineID) string { return "m/" + m.String() + "/" }

func logPrefix(m block.MachineID) string { return machinePrefix(m) + "log/" }

// logName is the object whose first frame begins at seq. A chain has one such place,
// so put-if-absent is what makes it a chain.
func logName(m block.MachineID, first block.Seq) string {
	return fmt.Sprintf("%s%020d", logPrefix(m), first)
}

func basePrefix(m block.MachineID) string { return machinePrefix(m) + "base/" }

func baseName(m block.MachineID, e block.Epoch, first uint64) string {
	return fmt.Sprintf("%s%020d-%020d", basePrefix(m), e, first)
}

func runPrefix(m block.MachineID) string { return machinePrefix(m) + "run/" }

// runName carries a nonce: two thinnings that race for a generation, or one that
// crashed, must not collide on names that only one of them will commit.
func runName(m block.MachineID, generation uint64, n int, nonce uint32) string {
	return fmt.Sprintf("%s%020d-%06d-%08x", runPrefix(m), generation, n, nonce)
}

// numbered documents: manifests, leases, facts about the machine.
func manifestPrefix(m block.MachineID) string { return machinePrefix(m) + "manifest/" }
func leasePrefix(m block.MachineID) string    { return machinePrefix(m) + "lease/" }
func aboutPrefix(m block.MachineID) string    { return machinePrefix(m) + "about/" }

func numbered(prefix string, n uint64) string { return fmt.Sprintf("%s%020d", prefix, n) }

func lockPrefix(m block.MachineID) string { return machinePrefix(m) + "lock/" }

func doubtPrefix(m block.MachineID) string { return machinePrefix(m) + "doubt/" }

// lockName has the lock's own name in it, so that each of several on one point is an object.
func lockName(m block.MachineID, p block.Position, name string) string {
	own := sha256.Sum256([]byte(name))
	return fmt.Sprintf("%s%020d-%020d-%x", lockPrefix(m), p.Epoch, p.Seq, own[:8])
}

// parseNumbers reads the count dash-separated numbers a name ends with.
func parseNumbers(name, prefix string, count int) ([]uint64, error) {
	rest, ok := strings.CutPrefix(name, prefix)
	fields := strings.Split(rest, "-")
	if !ok || len(fields) < count {
		return nil, fmt.Errorf("vault: %q is not a name this version gives", name)
	}
	numbers := make([]uint64, count)
	for i := range numbers {
		n, err := strconv.ParseUint(fields[i], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("vault: %q is not a name this version gives: %w", name, err)
		}
		numbers[i] = n
	}
	return numbers, nil
}
