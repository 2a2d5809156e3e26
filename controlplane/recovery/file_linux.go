package recovery

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// inode is the file's number on its file system.
func inode(fi os.FileInfo) uint64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}

// allocated is what the file takes on its file system, in bytes.
func allocated(fi os.FileInfo) int64 {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		return st.Blocks * 512 // st_blocks counts 512-byte units, whatever the block size
	}
	return 0
}

// freeSpace is what an ordinary user may still write on the file system of dir,
// and an id of that file system.
func freeSpace(dir string) (free int64, id unix.Fsid, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, id, fmt.Errorf("asking for the free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, st.Fsid, nil
}

// lock takes the file for this process, or says ErrBusy. The lock goes with the
// descriptor, so no crash can leave it behind.
func lock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrBusy
	}
	return err
}

// renameNew renames without replacing what may be at the new name.
func renameNew(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		// The file system cannot do it in one step (some network ones).
		if _, err := os.Lstat(to); !missing(err) {
			return os.ErrExist
		}
		return os.Rename(from, to)
	}
	return err
}

// startWriteback has the kernel begin to write [off, off+n) out, so that the sync
// at the end finds little left to do. It is a hint: its failure means nothing.
func startWriteback(f *os.File, off, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
}

// zeros is what punch writes where holes cannot be made.
var zeros [1 << 20]byte

// punch makes [off, off+n) of the file read as zeros, as a hole where the file
// system has holes.
func punch(f *os.File, off, n int64) error {
	err := unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return err
	}
	for n > 0 {
		b := zeros[:min(n, int64(len(zeros)))]
		if _, err := f.WriteAt(b, off); err != nil {
			return err
		}
		off, n = off+int64(len(b)), n-int64(len(b))
	}
	return nil
}
