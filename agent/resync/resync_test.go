package resync

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

// TestReplicaEqualsSource: whatever the contents, the doubt, the free space and the
// passing faults, base frames over the old replica give the source.
func TestReplicaEqualsSource(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := drawScene(rt, t)
		s.disks[0].faults = rapid.IntRange(0, 3).Draw(rt, "faults")
		if rapid.IntRange(0, 3).Draw(rt, "change") == 0 {
			s.disks[0].layout = "two"
		}
		var last Progress
		s.opt.Progress = func(p Progress) { last = p }
		res, err := Run(t.Context(), s.job, s.rep, s.rep, s.opt)
		if err != nil {
			rt.Fatal(err)
		}
		if res.Frames != uint64(len(s.rep.frames)) || last.Done != last.Total || last.Sent != last.ToSend {
			rt.Fatalf("result %+v, progress %+v, %d frames", res, last, len(s.rep.frames))
		}
		s.rep.spool(len(s.rep.frames))
		s.check(rt)
	})
}

// TestCutAnywhere cuts the job at frame after frame, loses some of what was sent, and
// goes on from the trail's cursor until the job ends.
func TestCutAnywhere(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := drawScene(rt, t)
		for range 20 {
			s.rep.cutAt = uint64(len(s.rep.frames) + rapid.IntRange(1, 3).Draw(rt, "cut"))
			s.opt.Progress = func(p Progress) { s.rep.trail.Note(p.Cursor) }
			_, err := Run(t.Context(), s.job, s.rep, s.rep, s.opt)
			if err == nil {
				s.rep.spool(len(s.rep.frames))
				s.check(rt)
				return
			}
			if !errors.Is(err, errCut) {
				rt.Fatal(err)
			}
			kept := rapid.IntRange(int(s.job.Cursor.Frame), len(s.rep.frames)).Draw(rt, "spooled")
			s.job.Cursor, s.job.FirstFrame = s.rep.spool(kept), uint64(kept)+1
			if rapid.IntRange(0, 9).Draw(rt, "remount") == 0 {
				s.disks[0].usage.Layout += "'"
				s.remounted = true
			}
		}
	})
}

// TestReadErrorNamesDiskAndPlace: a block that stays unreadable ends the job with its
// exact place and what to do.
func TestReadErrorNamesDiskAndPlace(t *testing.T) {
	const bad = 3<<20 + 5*4096
	d := &memDisk{t: t, data: make([]byte, 5<<20), usage: Usage{Layout: wholeDisk}, bad: bad}
	job := Job{Machine: machine, Epoch: 9, Method: frame.MethodFull, Disks: []Target{{ID: block.DiskID{7}, Path: "/dev/sdx", Size: 5 << 20}}}
	rep := newReplica(t, map[block.DiskID][]byte{{7}: make([]byte, 5<<20)})
	_, err := Run(t.Context(), job, rep, nil, Options{Open: func(Target) (Device, error) { return d, nil }})
	var e *ReadError
	if !errors.As(err, &e) || e.Off != bad || e.Len != 4096 || !errors.Is(err, errBroke) {
		t.Fatalf("%v", err)
	}
	for _, word := range []string{"/dev/sdx", e.Disk.String(), "3166208", "smartctl"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q does not say %s", err, word)
		}
	}
}

func TestJobsThatCannotBegin(t *testing.T) {
	d := &memDisk{t: t, data: make([]byte, 1<<20), usage: Usage{Layout: wholeDisk}}
	id := block.DiskID{7}
	good := Job{Machine: machine, Epoch: 9, Method: frame.MethodFull, Disks: []Target{{ID: id, Path: "/dev/sdx", Size: 1 << 20}}}
	for name, c := range map[string]struct {
		change func(*Job)
		want   error
	}{
		"method":         {func(j *Job) { j.Method = "guess" }, ErrJob},
		"no hasher":      {func(j *Job) { j.Method = frame.MethodHash }, ErrJob},
		"resized":        {func(j *Job) { j.Disks = []Target{{ID: id, Size: 2 << 20}} }, ErrResized},
		"foreign cursor": {func(j *Job) { j.Cursor.Disk = block.DiskID{8} }, ErrCursor},
		"cursor ahead":   {func(j *Job) { j.Cursor, j.FirstFrame = Cursor{Disk: id, Frame: 5}, 5 }, ErrCursor},
	} {
		job := good
		c.change(&job)
		rep := newReplica(t, nil)
		if _, err := Run(t.Context(), job, rep, nil, Options{Open: func(Target) (Device, error) { return d, nil }}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if len(rep.frames) > 0 || d.read.Count() > 0 {
			t.Errorf("%s: work was done", name)
		}
	}
}

// TestHasherFailures: an error and an answer of the wrong length end the job.
func TestHasherFailures(t *testing.T) {
	d := &memDisk{t: t, data: bytes.Repeat([]byte{1}, 1<<20), usage: Usage{Layout: wholeDisk}}
	job := Job{Machine: machine, Epoch: 9, Method: frame.MethodHash, Disks: []Target{{ID: block.DiskID{7}, Path: "/dev/sdx", Size: 1 << 20}}}
	for name, h := range map[string]hasherFunc{
		"error": func(int64) ([]block.Hash16, error) { return nil, errCut },
		"short": func(int64) ([]block.Hash16, error) { return make([]block.Hash16, 3), nil },
		"fine is short": func(granule int64) ([]block.Hash16, error) {
			if granule == block.CoarseGranule {
				return make([]block.Hash16, 16), nil
			}
			return nil, nil
		},
	} {
		rep := newReplica(t, nil)
		if _, err := Run(t.Context(), job, rep, h, Options{Open: func(Target) (Device, error) { return d, nil }}); err == nil || !strings.Contains(err.Error(), "/dev/sdx") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

type hasherFunc func(granule int64) ([]block.Hash16, error)

func (f hasherFunc) RangeHashes(_ context.Context, _ block.DiskID, _, _, granule int64) ([]block.Hash16, error) {
	return f(granule)
}

// TestStopsWhileTheSinkBlocks: no credit for ever must not outlive the context, and
// reading stops soon after sending does.
func TestStopsWhileTheSinkBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &memDisk{t: t, data: bytes.Repeat([]byte{1}, 64<<20), usage: Usage{Layout: wholeDisk}}
		job := Job{Machine: machine, Epoch: 9, Method: frame.MethodFull, Disks: []Target{{ID: block.DiskID{7}, Size: 64 << 20}}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := Run(ctx, job, stuckSink{}, nil, Options{Open: func(Target) (Device, error) { return d, nil }})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if n := d.read.Bytes(); n > (buffers+10)<<20 {
			t.Errorf("%d MiB were read ahead of a sink that takes nothing", n>>20)
		}
	})
}

type stuckSink struct{}

func (stuckSink) SendBase(ctx context.Context, _ []byte, _ uint64, _ Cursor) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestResumeRespectsTheLayout: below a cursor nothing is read again, unless the file
// systems whose free space was left out there are not the same any more.
func TestResumeRespectsTheLayout(t *testing.T) {
	id, free := block.DiskID{7}, block.Extent{Off: 1 << 20, Len: 4 << 20}
	for name, c := range map[string]struct {
		cursor Cursor
		want   []block.Extent
		layout string
	}{
		"beginning":  {Cursor{}, []block.Extent{{Off: 0, Len: 1 << 20}, {Off: 5 << 20, Len: 3 << 20}}, "one"},
		"same":       {Cursor{Disk: id, Off: 6 << 20, Layout: "one"}, []block.Extent{{Off: 6 << 20, Len: 2 << 20}}, "one"},
		"changed":    {Cursor{Disk: id, Off: 6 << 20, Layout: "two"}, []block.Extent{{Off: 0, Len: 8 << 20}}, wholeDisk},
		"was whole":  {Cursor{Disk: id, Off: 2 << 20, Layout: wholeDisk}, []block.Extent{{Off: 2 << 20, Len: 6 << 20}}, wholeDisk},
		"other disk": {Cursor{Disk: block.DiskID{8}, Off: 6 << 20, Layout: "two"}, []block.Extent{{Off: 0, Len: 1 << 20}, {Off: 5 << 20, Len: 3 << 20}}, "one"},
	} {
		r := newRun(Job{Machine: machine, Cursor: c.cursor}, nil, nil, Options{})
		d := &disk{Target: Target{ID: id, Size: 8 << 20}, usage: Usage{Free: block.NewSet(free), Layout: "one"}}
		d.want, d.may = coverage(d.Target, d.usage.Free)
		r.resume(d)
		if !slices.Equal(d.want.Extents(), c.want) || d.usage.Layout != c.layout {
			t.Errorf("%s: reads %v as %q, want %v as %q", name, d.want.Extents(), d.usage.Layout, c.want, c.layout)
		}
	}
}
