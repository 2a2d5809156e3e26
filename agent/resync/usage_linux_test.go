package resync

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// masked is the disk as a power cut would leave it now, without what free names.
func (d *loopDisk) masked(path string, free *block.Set) *image {
	d.t.Helper()
	dev, err := openDevice(d.target())
	if err != nil {
		d.t.Fatal(err)
	}
	defer dev.Close()
	m := newImage(d.t, path, d.size)
	buf := aligned(chunkSize)
	for off := int64(0); off < d.size; off += chunkSize {
		if _, err := dev.ReadAt(buf, off); err != nil {
			d.t.Fatal(err)
		}
		for e := range outside(free, d.size).Within(block.Extent{Off: off, Len: chunkSize}) {
			if _, err := m.f.WriteAt(buf[e.Off-off:e.End()-off], e.Off); err != nil {
				d.t.Fatal(err)
			}
		}
	}
	return m
}

// waitFree waits until the file system calls at least n more bytes free than before,
// and returns its word on it, without any sync.
func (d *loopDisk) waitFree(before, n int64) *block.Set {
	d.t.Helper()
	dev, err := openDevice(d.target())
	if err != nil {
		d.t.Fatal(err)
	}
	defer dev.Close()
	mounts, err := dev.(*linuxDevice).mounts()
	if err != nil || len(mounts) != 1 {
		d.t.Fatalf("mounts %+v, %v", mounts, err)
	}
	for range 100 {
		fd, err := mounts[0].open()
		if err != nil {
			d.t.Fatal(err)
		}
		free, err := fsmap(d.t.Context(), fd, mounts[0].part)
		unix.Close(fd)
		if err != nil {
			d.t.Fatal(err)
		}
		if free.Bytes() >= before+n {
			return free
		}
		time.Sleep(20 * time.Millisecond) // XFS frees in the background
	}
	return nil
}

// TestLoopFreeButStillReferenced shows the reason for GETFSMAP before syncfs, and that
// the order is enough. A deleted file's blocks are free in memory while the disk still
// has the file: XFS says so at once, ext4 only after its journal's commit. A copy without them, cut now, brings the file back
// with wrong bytes. After Run a cut brings either no file or the right one.
func TestLoopFreeButStillReferenced(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			d := newLoopDisk(t, fs, 0)
			keep, victim := d.write("keep", 4<<20), d.write("victim", 64<<20)
			must(t, "sync", "-f", d.dir)
			before := d.waitFree(0, 1).Bytes()
			if err := os.Remove(filepath.Join(d.dir, "victim")); err != nil {
				t.Fatal(err)
			}
			if free := d.waitFree(before, int64(len(victim))-1<<20); free != nil {
				early := d.masked(d.image+".early", free)
				got, err := os.ReadFile(filepath.Join(d.boot(early.f.Name()), "victim"))
				if fs == "xfs" && (err != nil || bytes.Equal(got, victim)) {
					t.Errorf("this test no longer shows the hazard: victim %d bytes, equal %v, %v", len(got), bytes.Equal(got, victim), err)
				}
			} else if fs == "xfs" {
				t.Error("XFS did not call the deleted file's blocks free")
			}

			dir := d.boot(d.fullCopy(d.image+".run", Options{}).f.Name())
			same(t, dir, "keep", keep)
			if got, err := os.ReadFile(filepath.Join(dir, "victim")); err == nil && !bytes.Equal(got, victim) {
				t.Errorf("the deleted file came back with wrong bytes (%d)", len(got))
			}
		})
	}
}

// TestLoopDeletionBetweenTheSteps: a file deleted after GETFSMAP and before syncfs is
// copied. In the other order its blocks would be free and still referenced.
func TestLoopDeletionBetweenTheSteps(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			d := newLoopDisk(t, fs, 0)
			victim := d.write("victim", 64<<20)
			must(t, "sync", "-f", d.dir)
			before := d.waitFree(0, 1).Bytes()
			rep := d.fullCopy(d.image+".run", Options{Open: func(t Target) (Device, error) {
				dev, err := openDevice(t)
				if err == nil {
					dev.(*linuxDevice).between = func() {
						os.Remove(filepath.Join(d.dir, "victim"))
						d.waitFree(before, int64(len(victim))-1<<20)
					}
				}
				return dev, err
			}})
			if got, err := os.ReadFile(filepath.Join(d.boot(rep.f.Name()), "victim")); err == nil && !bytes.Equal(got, victim) {
				t.Errorf("the deleted file came back with wrong bytes (%d)", len(got))
			}
		})
	}
}

// TestLoopLayoutNamesEveryChange: unmounting, mounting and growing change the name.
func TestLoopLayoutNamesEveryChange(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			d := newLoopDisk(t, fs, 0)
			dev, err := openDevice(d.target())
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			layout := func() string {
				l, err := dev.Layout()
				if err != nil {
					t.Fatal(err)
				}
				return l
			}
			first := layout()
			if u, err := dev.Usage(t.Context()); err != nil || u.Layout != first || first == wholeDisk {
				t.Fatalf("usage %+v, %v, layout %q", u, err, first)
			}
			d.write("file", 1<<20)
			if l := layout(); l != first {
				t.Errorf("writing a file made %q of %q", l, first)
			}
			must(t, "umount", d.dir)
			if l := layout(); l != wholeDisk {
				t.Errorf("unmounted, layout is %q", l)
			}
			d.mount()
			if l := layout(); l != first {
				t.Errorf("mounted again, layout is %q, was %q", l, first)
			}
			must(t, "truncate", "--size", fmt.Sprint(d.size*2), d.image)
			must(t, "losetup", "--set-capacity", d.path)
			if fs == "xfs" { // resize2fs wants CAP_SYS_RESOURCE, which a container may lack
				must(t, "xfs_growfs", d.dir)
				if l := layout(); l == first {
					t.Errorf("grown, layout is still %q", l)
				}
			}
			if _, err := Run(t.Context(), Job{Machine: machine, Epoch: 1, Method: frame.MethodFull, Disks: []Target{d.target()}}, newImage(t, d.image+".rep", 0), nil, Options{}); err == nil {
				t.Error("a disk that grew was copied with its old size")
			}
		})
	}
}

// TestLoopFrozen: freezing is how backups stop a file system. A copy beside it does not
// hang, and the frozen file system's word is good: it synced when it froze.
func TestLoopFrozen(t *testing.T) {
	for _, fs := range []string{"ext4", "xfs"} {
		t.Run(fs, func(t *testing.T) {
			d := newLoopDisk(t, fs, 0)
			d.write("file", 1<<20)
			must(t, "fsfreeze", "--freeze", d.dir)
			defer func() { must(t, "fsfreeze", "--unfreeze", d.dir) }()
			dev, err := openDevice(d.target())
			if err != nil {
				t.Fatal(err)
			}
			defer dev.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if u, err := dev.Usage(ctx); err != nil || u.Layout == wholeDisk {
				t.Errorf("frozen: layout %q, whole %v, %v", u.Layout, u.Whole, err)
			}
		})
	}
}

// TestLoopWholeWhereNotUnderstood: what GETFSMAP cannot speak for is read whole, and
// the plan says why.
func TestLoopWholeWhereNotUnderstood(t *testing.T) {
	t.Run("btrfs", func(t *testing.T) {
		d := newLoopDisk(t, "btrfs", 0)
		d.expectWhole("")
	})
	t.Run("ext2", func(t *testing.T) {
		d := newLoopDisk(t, "ext2", 0)
		d.expectWhole("not understood")
	})
	t.Run("unmounted", func(t *testing.T) {
		d := newLoopDisk(t, "ext4", 0)
		must(t, "umount", d.dir)
		d.expectWhole("")
	})
	t.Run("hidden", func(t *testing.T) {
		d := newLoopDisk(t, "ext4", 0)
		must(t, "mount", "-t", "tmpfs", "none", d.dir)
		defer func() { must(t, "umount", d.dir) }()
		d.expectWhole("mounted over it")
	})
	t.Run("hidden in one of two places", func(t *testing.T) {
		d := newLoopDisk(t, "ext4", 0)
		second := d.dir + ".second"
		if err := os.Mkdir(second, 0o755); err != nil {
			t.Fatal(err)
		}
		must(t, "mount", "--bind", d.dir, second)
		defer func() { must(t, "umount", second) }()
		must(t, "mount", "-t", "tmpfs", "none", d.dir)
		defer func() { must(t, "umount", d.dir) }()
		dev, err := openDevice(d.target())
		if err != nil {
			t.Fatal(err)
		}
		defer dev.Close()
		if u, err := dev.Usage(t.Context()); err != nil || u.Layout == wholeDisk {
			t.Errorf("%+v, %v", u, err)
		}
	})
	t.Run("external log", func(t *testing.T) {
		dir := scratch(t)
		image := filepath.Join(dir, "log.img")
		must(t, "truncate", "--size", "64M", image)
		logdev := attach(t, image)
		d := newLoopDisk(t, "xfs", 0)
		must(t, "umount", d.dir)
		must(t, "mkfs.xfs", "-q", "-f", "-l", "logdev="+logdev, d.node)
		d.mount("-o", "logdev="+logdev)
		d.expectWhole("several devices")
		must(t, "umount", d.dir)
	})
}

func (d *loopDisk) expectWhole(why string) {
	d.t.Helper()
	dev, err := openDevice(d.target())
	if err != nil {
		d.t.Fatal(err)
	}
	defer dev.Close()
	u, err := dev.Usage(d.t.Context())
	if err != nil || u.Layout != wholeDisk || u.Free.Count() != 0 || !strings.Contains(strings.Join(u.Whole, ";"), why) {
		d.t.Errorf("%+v, %v, want whole because %q", u, err, why)
	}
}
