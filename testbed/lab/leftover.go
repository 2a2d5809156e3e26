package lab

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// labVar is set in the environment of every process of a lab to the lab's directory.
const labVar = "UNDERSTUDY_LAB"

// Leftovers names what a lab in this directory has running, mounted or attached right
// now: processes, captures in the kernel, loop devices and mounts, in the order to
// remove them.
func Leftovers(dir string) []string {
	var found []string
	for _, pid := range processesOf(dir) {
		found = append(found, fmt.Sprintf("process %d", pid))
	}
	for _, p := range pinsOf(dir) {
		found = append(found, "pins "+p)
	}
	for _, d := range loopsBelow(dir) {
		found = append(found, "loop device "+d)
	}
	for _, m := range mountsBelow(dir) {
		found = append(found, "mount "+m)
	}
	return found
}

// clear ends and detaches all of it. It goes by what is there, again and again: a
// killed process takes a moment, and a mount may stand on another.
func clear(dir string) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := clearOnce(dir)
		left := Leftovers(dir)
		if len(left) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("could not remove %s", strings.Join(left, ", ")), err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func clearOnce(dir string) error {
	var errs []error
	for _, pid := range processesOf(dir) {
		errs = append(errs, unix.Kill(pid, unix.SIGKILL))
	}
	for _, p := range pinsOf(dir) {
		errs = append(errs, os.RemoveAll(p)) // the last reference: programs and maps go with it
	}
	// Before the mounts: one that is mounted goes with its mount, and one whose file lies
	// in the lab's own tmpfs could not be told from others' once that is unmounted.
	for _, d := range loopsBelow(dir) {
		_, err := run(context.Background(), "losetup", "-d", d)
		errs = append(errs, err)
	}
	for _, m := range mountsBelow(dir) {
		err := unix.Unmount(m, 0)
		if errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(m, unix.MNT_DETACH)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Sweep removes what interrupted labs left: their processes, mounts, loop devices and
// directories. A lab that lives holds its lock and is left alone.
func sweep(ctx context.Context, tmp string) error {
	dirs, err := filepath.Glob(filepath.Join(tmp, prefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if info, err := os.Stat(dir); err != nil || !info.IsDir() || ctx.Err() != nil {
			continue
		}
		lock, err := flock(filepath.Join(dir, "lock"), false)
		if errors.Is(err, errLocked) {
			continue
		}
		if err != nil {
			return err
		}
		err = clear(dir)
		lock.Close()
		if err != nil {
			return fmt.Errorf("left by an earlier run: %w", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return ctx.Err()
}

var errLocked = errors.New("locked by a lab that lives")

// flock opens and locks the file; waiting for it if wait, else errLocked.
func flock(path string, wait bool) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("flock %s: %w", path, err)
	}
	return f, nil
}

// processesOf lists the processes that were started with this lab in their environment.
func processesOf(dir string) []int {
	var pids []int
	want := []byte(labVar + "=" + dir + "\x00")
	names, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return nil
	}
	for _, name := range names {
		env, err := os.ReadFile(name) // gone in the meantime: not there
		if err != nil || !bytes.Contains(append(env, 0), want) {
			continue
		}
		if pid, err := strconv.Atoi(strings.Split(name, "/")[2]); err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// pinsOf lists the directories in the BPF file system that hold this lab's captures.
func pinsOf(dir string) []string {
	pins, err := filepath.Glob("/sys/fs/bpf/understudy/" + filepath.Base(dir) + "-*")
	if err != nil {
		return nil
	}
	return pins
}

// mountsBelow lists the mount points inside dir, the newest first.
func mountsBelow(dir string) []string {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	var mounts []string
	for line := range strings.Lines(string(info)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			mounts = append(mounts, f[4])
		}
	}
	slices.Reverse(mounts)
	return mounts
}

// loopsBelow lists the loop devices whose backing file is, or was, inside dir.
func loopsBelow(dir string) []string {
	var devices []string
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil
	}
	for _, name := range names {
		backing, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if strings.HasPrefix(string(backing), dir+"/") {
			devices = append(devices, "/dev/"+strings.Split(name, "/")[3])
		}
	}
	slices.SortFunc(devices, cmp.Compare)
	return devices
}
