package resync

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
)

// syncPatience is how long a file system may take to write out what it holds. One
// that is frozen, or that hangs, is read whole instead.
const syncPatience = 2 * time.Minute

// Usage asks every mounted ext4 and XFS on the disk what is free, then syncs it.
func (d *linuxDevice) Usage(ctx context.Context) (Usage, error) {
	u := Usage{Free: block.NewSet(), Layout: wholeDisk}
	mounts, err := d.mounts()
	if err != nil {
		return u, err
	}
	var names []string
	for _, m := range mounts {
		v, err := m.survey(ctx)
		if ctx.Err() != nil {
			return u, ctx.Err()
		}
		if err != nil {
			u.Whole = append(u.Whole, fmt.Sprintf("%s: %v", m, err))
			continue
		}
		u.Free.Union(v.free)
		names = append(names, v.name)
	}
	if len(names) > 0 {
		u.Layout = layout(names)
	}
	return u, nil
}

// Layout names the file systems on the disk that Usage would ask now.
func (d *linuxDevice) Layout() (string, error) {
	mounts, err := d.mounts()
	if err != nil {
		return "", err
	}
	var names []string
	for _, m := range mounts {
		if fd, err := m.open(); err == nil {
			name, err := m.name(fd)
			unix.Close(fd)
			if err == nil && m.understood() == nil {
				names = append(names, name)
			}
		}
	}
	if len(names) == 0 {
		return wholeDisk, nil
	}
	return layout(names), nil
}

func layout(names []string) string {
	slices.Sort(names)
	return strings.Join(names, " ")
}

// verdict is what a file system said.
type verdict struct {
	name string
	free *block.Set
	err  error
}

// survey lists what the file system calls free, in offsets of the disk, and makes it
// safe to leave that out.
func (m mount) survey(ctx context.Context) (verdict, error) {
	if err := m.understood(); err != nil {
		return verdict{}, err
	}
	fd, err := m.open()
	if err != nil {
		return verdict{}, err
	}
	ended := make(chan verdict, 1)
	go func() {
		defer unix.Close(fd) // here: when the patience is over the sync still uses it
		ended <- m.ask(ctx, fd)
	}()
	patience := time.NewTimer(syncPatience)
	defer patience.Stop()
	select {
	case v := <-ended:
		return v, v.err
	case <-ctx.Done():
		return verdict{}, ctx.Err()
	case <-patience.C:
		return verdict{}, errors.New("it did not sync in time, perhaps it is frozen")
	}
}

// ask does the two steps in their order (usage.go).
func (m mount) ask(ctx context.Context, fd int) (v verdict) {
	if v.name, v.err = m.name(fd); v.err != nil {
		return v
	}
	if v.free, v.err = fsmap(ctx, fd, m.part); v.err != nil {
		return v
	}
	if m.between != nil {
		m.between()
	}
	if err := unix.Syncfs(fd); err != nil {
		v.err = fmt.Errorf("it does not sync: %w", err)
	}
	return v
}
