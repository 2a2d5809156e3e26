package journal

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// thisBoot names the machine's present boot.
func thisBoot() bootID {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return randomBoot()
	}
	id, err := parseBoot(strings.ReplaceAll(string(bytes.TrimSpace(b)), "-", ""))
	if err != nil {
		return randomBoot()
	}
	return id
}

// DefaultMemoryDir is the first usual place for runtime files that is in memory.
func DefaultMemoryDir() string {
	for _, dir := range []string{"/run", "/dev/shm"} {
		if inMemory(dir) {
			return filepath.Join(dir, "understudy-agent")
		}
	}
	return "/run/understudy-agent"
}

func inMemory(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && (st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC)
}

// checkMemoryDir refuses a directory on a disk and one that others could have
// prepared: what lies in it is mapped and believed.
func checkMemoryDir(dir string, onDisk bool) error {
	fi, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() || fi.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("journal: %s belongs to another user or can be written by others: remove it or choose another directory", dir)
	}
	if !inMemory(dir) && !onDisk {
		return fmt.Errorf("journal: %s is not in a memory file system (tmpfs): the kernel would write every captured byte back to a disk: choose a directory in one, for example %s", dir, DefaultMemoryDir())
	}
	return nil
}
