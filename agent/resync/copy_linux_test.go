package resync

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/understudy-dr/understudy/pkg/frame"
)

var places = []struct {
	fs    string
	start int64
	mkfs  []string
}{
	{fs: "ext4"},
	{fs: "ext4", start: 1 << 20, mkfs: []string{"-b", "1024"}},
	{fs: "xfs"},
	{fs: "xfs", start: 1<<20 + 512, mkfs: []string{"-m", "rmapbt=0"}},
	{fs: "xfs", start: 1 << 20, mkfs: []string{"-m", "rmapbt=1"}},
}

// TestLoopFullCopyThenHash copies a file system's used blocks, changes some files,
// and repairs by hash compare. Both replicas mount, are clean and hold every file.
func TestLoopFullCopyThenHash(t *testing.T) {
	for _, p := range places {
		t.Run(fmt.Sprintf("%s@%d", p.fs, p.start), func(t *testing.T) {
			d := newLoopDisk(t, p.fs, p.start, p.mkfs...)
			keep, gone := d.write("keep", 20<<20+123), d.write("gone", 30<<20)
			must(t, "sync", "-f", d.dir)
			os.Remove(filepath.Join(d.dir, "gone"))
			target := d.target()
			target.Fresh = true
			rep := newImage(t, d.image+".full", d.size)
			job := Job{Machine: machine, Epoch: 1, Method: frame.MethodFull, Disks: []Target{target}}
			res, err := Run(t.Context(), job, rep, nil, Options{})
			if err != nil {
				t.Fatal(err)
			}
			if res.Free < int64(len(gone)) || res.Read > d.size/2 {
				t.Errorf("free space was not left out: %+v", res)
			}
			same(t, d.boot(rep.f.Name()), "keep", keep)

			more := d.write("more", 5<<20)
			must(t, "sync", "-f", d.dir)
			again := newImage(t, d.image+".hash", d.size)
			if _, err := io.Copy(again.f, io.NewSectionReader(rep.f, 0, d.size)); err != nil {
				t.Fatal(err)
			}
			job.Epoch, job.Method = 2, frame.MethodHash
			if res, err = Run(t.Context(), job, again, again, Options{}); err != nil {
				t.Fatal(err)
			}
			if res.Bytes < int64(len(more)) || res.Bytes > int64(len(more))+8<<20 {
				t.Errorf("hash compare sent %d bytes for %d changed", res.Bytes, len(more))
			}
			dir := d.boot(again.f.Name())
			same(t, dir, "keep", keep)
			same(t, dir, "more", more)
		})
	}
}

// TestLoopUnmountDuringCopy: what was left out on the word of a file system that went
// away is read after all.
func TestLoopUnmountDuringCopy(t *testing.T) {
	d := newLoopDisk(t, "ext4", 1<<20)
	d.write("some", 40<<20)
	must(t, "sync", "-f", d.dir)
	target := d.target()
	rep := newImage(t, d.image+".rep", d.size)
	rep.hook = func(n uint64) {
		if n == 2 {
			must(t, "umount", d.dir)
		}
	}
	job := Job{Machine: machine, Epoch: 1, Method: frame.MethodFull, Disks: []Target{target}}
	res, err := Run(t.Context(), job, rep, nil, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if res.Free != 0 || res.Read < d.size || rep.last.Layout != wholeDisk {
		t.Errorf("free space was believed after the unmount: %+v, cursor %+v", res, rep.last)
	}
}

// TestLoopOddSectors: sectors of 4 KiB, and a disk whose end is no multiple of 4 KiB.
func TestLoopOddSectors(t *testing.T) {
	for _, c := range []struct {
		sector string
		size   int64
	}{{"4096", 8 << 20}, {"512", 8<<20 + 1536}} {
		dir := scratch(t)
		d := &loopDisk{t: t, image: filepath.Join(dir, "disk.img"), size: c.size}
		content := make([]byte, c.size)
		_, _ = rand.Read(content)
		if err := os.WriteFile(d.image, content, 0o644); err != nil {
			t.Fatal(err)
		}
		d.path = attach(t, d.image, "--sector-size", c.sector)
		rep := newImage(t, d.image+".rep", d.size)
		for _, method := range []frame.Method{frame.MethodFull, frame.MethodHash} {
			job := Job{Machine: machine, Epoch: 1, Method: method, Disks: []Target{d.target()}}
			res, err := Run(t.Context(), job, rep, rep, Options{})
			if err != nil {
				t.Fatalf("sectors of %s: %v", c.sector, err)
			}
			if method == frame.MethodHash && res.Frames != 0 {
				t.Errorf("sectors of %s: hash compare of equal disks sent %+v", c.sector, res)
			}
		}
		if got, err := os.ReadFile(rep.f.Name()); err != nil || !bytes.Equal(got, content) {
			t.Errorf("sectors of %s: replica differs, %v", c.sector, err)
		}
	}
}
