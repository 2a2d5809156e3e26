package lab

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Data that lies on a disk before it is protected travels by the initial copy and not
// by captured writes. It is never changed afterwards.

const seedFile = 1 << 20

// Seed fills a file system with this many megabytes and makes them durable.
func Seed(d *Disk, megabytes int) error {
	dir, err := makeDir(d.Mount, "seed")
	if err != nil {
		return err
	}
	for n := range megabytes {
		if err := writeSynced(seedPath(dir, n), content(make([]byte, seedFile), seedName(d.FS), uint64(n+1))); err != nil {
			return err
		}
	}
	return syncDir(dir)
}

// Sieve writes this many files smaller than a block of most, and removes every second
// dozen of them: the holes are larger than what a first copy leaves out at least.
func (d *Disk) Sieve(files int) error {
	dir, err := makeDir(d.Mount, "sieve")
	if err != nil {
		return err
	}
	for n := range files {
		if err := os.WriteFile(seedPath(dir, n), content(make([]byte, sieved), seedName(d.FS), uint64(n+1)), 0o600); err != nil {
			return err
		}
	}
	unix.Sync() // else what is removed was never on the disk
	for n := range files {
		if !holds(n) {
			if err := os.Remove(seedPath(dir, n)); err != nil {
				return err
			}
		}
	}
	return syncDir(dir)
}

const sieved = 900 // bytes of one file

// holds says which files stay in the sieve.
func holds(n int) bool { return n/12%2 == 0 }

// checkSeed finds the same megabytes.
func checkSeed(root, fs string, megabytes int) error {
	for n := range megabytes {
		path := seedPath(filepath.Join(root, "seed"), n)
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		got, err := valueOf(b, seedName(fs))
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if got != uint64(n+1) || len(b) != seedFile {
			return fmt.Errorf("%s holds %d bytes of value %d instead of value %d", path, len(b), got, n+1)
		}
	}
	return nil
}

func seedPath(dir string, n int) string { return filepath.Join(dir, fmt.Sprintf("%04d", n)) }

func seedName(fs string) string { return fs + "/seed" }

func writeSynced(path string, b []byte) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return err
	}
	return f.Sync()
}
