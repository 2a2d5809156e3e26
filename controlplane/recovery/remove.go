package recovery

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/understudy-dr/understudy/pkg/block"
)

// Remove deletes a target, finished or not, and its sidecar. It deletes nothing
// that Understudy did not make: without a sidecar, or with another file in the
// target's place, it refuses. What was written to the target since is deleted too.
func Remove(target string) error {
	side, err := ReadSidecar(target)
	if missing(err) {
		return refuse(target, Origin{}, ErrNoTarget, "only what has a sidecar was made by Understudy")
	}
	if err != nil {
		return refuse(target, Origin{}, fmt.Errorf("%w: %w", ErrForeign, err), "remove it by hand")
	}
	t := Target{Path: target, Format: side.Format}
	paths := []string{t.Path, t.partial()}
	for _, path := range paths {
		if err := removable(path, side); err != nil {
			return failed(target, side.Origin, err)
		}
	}
	for _, path := range append(paths, SidecarPath(target)) { // the proof of ownership goes last
		if err := os.Remove(path); err != nil && !missing(err) {
			return failed(target, side.Origin, err)
		}
	}
	return syncDir(filepath.Dir(target))
}

// removable checks that path is absent, or the sidecar's file and nobody writes it.
func removable(path string, side *Sidecar) error {
	fi, err := stat(path)
	if fi == nil || err != nil {
		return err
	}
	if !fi.Mode().IsRegular() || inode(fi) != side.Inode {
		return refuse(path, side.Origin, ErrForeign, "it is not the file that Understudy made: move it away")
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := lock(f); err != nil {
		return errors.Join(refuse(path, side.Origin, err, "stop it first"), f.Close())
	}
	return f.Close()
}

// RemoveMachine removes all targets of a machine in a directory and returns their
// paths. Others, and files of anybody else, stay.
func RemoveMachine(dir string, machine block.MachineID) (removed []string, err error) {
	all, err := Targets(dir)
	if err != nil {
		return nil, err
	}
	for target, side := range all {
		if side.Machine != machine {
			continue
		}
		if err := Remove(target); err != nil {
			return removed, err
		}
		removed = append(removed, target)
	}
	return removed, nil
}
