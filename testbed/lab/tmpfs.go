package lab

import (
	"context"
	"fmt"
	"os"
)

// Tmpfs is a small file system in memory on a directory of the lab: a volume that can
// be full or read-only, and be healed.
type Tmpfs struct{ dir string }

// NewTmpfs mounts one of this size in bytes.
func (l *Lab) NewTmpfs(ctx context.Context, dir string, size int64) (*Tmpfs, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	_, err := run(ctx, "mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=0700", size), "understudy-lab", dir)
	return &Tmpfs{dir}, err
}

// Resize gives it more or less room.
func (t *Tmpfs) Resize(ctx context.Context, size int64) error {
	return t.remount(ctx, fmt.Sprintf("size=%d", size))
}

// ReadOnly makes it refuse writes, or take them again.
func (t *Tmpfs) ReadOnly(ctx context.Context, ro bool) error {
	if ro {
		return t.remount(ctx, "ro")
	}
	return t.remount(ctx, "rw")
}

func (t *Tmpfs) remount(ctx context.Context, option string) error {
	_, err := run(ctx, "mount", "-o", "remount,"+option, t.dir)
	return err
}
