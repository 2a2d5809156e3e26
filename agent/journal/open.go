package journal

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/hrl"
)

// Defaults of the two stages, in bytes.
const (
	DefaultMemory = 64 << 20
	DefaultSpill  = 1 << 30
)

// maxState is room for an encoded State. SaveDurable makes dirty maps coarser until
// they fit.
const maxState = 1 << 20

// memoryFile is the memory stage's name in its directory.
const memoryFile = "journal.hrl"

// Options say where a journal lies.
type Options struct {
	// MemoryDir is a directory in a memory file system; made if it is missing.
	MemoryDir   string
	MemoryBytes int64 // DefaultMemory if zero
	// MemoryOnDisk accepts a MemoryDir on a disk, for tests: the kernel then writes
	// the memory stage to that disk, where capture sees it.
	MemoryOnDisk bool
	// SpillPath is the disk stage's file; its directory is made if it is missing.
	// The file system must leave files in place (ext4, xfs) where its disk is
	// protected.
	SpillPath  string
	SpillBytes int64 // no disk stage if zero
	// Files holds both stages; nil for the operating system's.
	Files hrl.Files
	Log   *slog.Logger

	boot bootID // in tests; the machine's if zero
}

// Recovered is what Open found.
type Recovered struct {
	// State is the newest that was saved; zero if there was none.
	State State
	Found bool // there was one
	// SameBoot says that the machine was not booted since the journal was last open:
	// the memory stage is whole and the kernel may still hold what RingPos refers to.
	SameBoot bool
	// Clean says that the state was saved with CleanStop after the journal was last
	// opened, and that nothing was appended since.
	Clean bool
	// Moved says that the disk stage lies elsewhere on its disk than when the state was
	// saved, or that this cannot be told: extents that capture was told to exclude may
	// belong to other files by now, whose writes went unseen.
	Moved bool

	Released    block.Seq // the newest number known to be released
	First, Last block.Seq // retained frames; zero if none
	Frames      int
	// RingPos is the capture position after Last, or after Released where nothing is
	// retained; zero if that is not known, as after a reboot.
	RingPos uint64
	// Damage says what was lost, if anything, in words for the operator.
	Damage []string
}

// Open recovers the journal's files, or makes them. A *hrl.SpaceError means that a file
// system has no room, a *hrl.BusyError that another agent runs; hrl.ErrNotHRL that the
// path holds something else, hrl.ErrOlder and hrl.ErrNewer that another version of the
// agent left frames there: neither is touched.
func Open(o Options) (*Journal, Recovered, error) {
	o = o.withDefaults()
	if err := prepare(o); err != nil {
		return nil, Recovered{}, err
	}
	j := &Journal{log: o.Log, files: o.Files, boot: o.boot, more: make(chan struct{})}
	var rec Recovered
	memory, err := j.openStage(hrl.Memory, filepath.Join(o.MemoryDir, memoryFile), o.MemoryBytes, &rec)
	if err != nil {
		return nil, rec, err
	}
	j.memory = memory.Ring
	disk := stage{}
	if o.SpillBytes > 0 {
		if disk, err = j.openStage(hrl.Disk, o.SpillPath, o.SpillBytes, &rec); err != nil {
			return nil, rec, errors.Join(err, j.memory.Close())
		}
		j.spill = disk.Ring
	}
	j.adopt(memory, disk, &rec)
	j.locate(&rec)
	j.report(rec)
	return j, rec, nil
}

func (o Options) withDefaults() Options {
	if o.MemoryBytes == 0 {
		o.MemoryBytes = DefaultMemory
	}
	if o.boot == (bootID{}) {
		o.boot = thisBoot()
	}
	return o
}

// prepare makes the directories and refuses places that cannot work.
func prepare(o Options) error {
	if o.SpillBytes > 0 && o.SpillPath == "" {
		return errors.New("journal: a disk stage needs a path")
	}
	if o.Files != nil {
		return nil // they are not the operating system's to judge
	}
	if err := os.MkdirAll(o.MemoryDir, 0o700); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := checkMemoryDir(o.MemoryDir, o.MemoryOnDisk); err != nil {
		return err
	}
	if o.SpillBytes == 0 {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(o.SpillPath), 0o700); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	return nil
}

// stage is an opened file and what it held.
type stage struct {
	*hrl.Ring
	hrl.Found
	saved    saved
	sameBoot bool
}

// openStage opens a stage's file. It makes a new one where there is none, where it is
// damaged beyond recovery, where it outlived its boot though it should not, and where
// its size is to change and it holds no frame.
func (j *Journal) openStage(kind hrl.Kind, path string, size int64, rec *Recovered) (stage, error) {
	s, err := j.openFile(path, rec)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return j.create(kind, path, size, nil, rec)
	case errors.Is(err, hrl.ErrChecksum), errors.Is(err, hrl.ErrLimit), errors.Is(err, hrl.ErrShort):
		rec.Damage = append(rec.Damage, fmt.Sprintf("the %s stage %s cannot be recovered, all frames in it are lost: %v", kind, path, err))
		return j.create(kind, path, size, nil, rec)
	case err != nil:
		return stage{}, fmt.Errorf("journal: %w", err)
	case s.Kind != kind:
		return stage{}, errors.Join(fmt.Errorf("journal: %s is a %s stage, not a %s stage: give each its own path", path, s.Kind, kind), s.Close())
	case kind == hrl.Memory && !s.sameBoot:
		return j.replace(s, path, size, nil, rec)
	case s.RingBytes != size&^(hrl.BlockSize-1) && !s.holdsFrames():
		return j.replace(s, path, size, s.saved.carried(s.Current), rec)
	case s.RingBytes != size&^(hrl.BlockSize-1):
		j.log.Warn("journal keeps its old size until it is empty at a start", "path", path, "bytes", s.RingBytes, "wanted", size)
	}
	return s, nil
}

func (s stage) holdsFrames() bool {
	n := len(s.Entries)
	return n > 0 && s.Entries[n-1].Last > s.Mark.Seq
}

func (j *Journal) openFile(path string, rec *Recovered) (stage, error) {
	r, found, err := hrl.OpenIn(j.files, path, j.boot)
	if err != nil {
		return stage{}, err
	}
	s := stage{Ring: r, Found: found, sameBoot: bootID(found.Boot) == j.boot}
	if s.saved, err = decodeState(found.State); err != nil {
		rec.Damage = append(rec.Damage, fmt.Sprintf("%s: %v", path, err))
		s.State = nil
	}
	return s, nil
}

// replace makes a new file in the place of an open one, with the same mark.
func (j *Journal) replace(old stage, path string, size int64, state []byte, rec *Recovered) (stage, error) {
	kind := old.Kind
	if err := old.Close(); err != nil {
		return stage{}, fmt.Errorf("journal: %w", err)
	}
	s, err := j.create(kind, path, size, state, rec)
	if err != nil {
		return stage{}, err
	}
	if s.sameBoot = old.sameBoot; s.sameBoot {
		s.Mark = old.Mark
		err = s.Release(s.Mark)
	}
	return s, err
}

func (j *Journal) create(kind hrl.Kind, path string, size int64, state []byte, rec *Recovered) (stage, error) {
	err := hrl.Create(path, hrl.Config{Kind: kind, RingBytes: size, StateBytes: maxState, Boot: j.boot, State: state, Files: j.files})
	if err != nil {
		return stage{}, fmt.Errorf("journal: %w", err)
	}
	s, err := j.openFile(path, rec)
	if err != nil {
		return stage{}, fmt.Errorf("journal: %w", err)
	}
	s.sameBoot = false // it was not there before
	return s, nil
}

func (j *Journal) report(rec Recovered) {
	for _, d := range rec.Damage {
		j.log.Error("journal damaged", "what", d)
	}
	j.log.Info("journal open", "memory", j.memory.Path(), "same_boot", rec.SameBoot, "clean", rec.Clean,
		"frames", rec.Frames, "first", rec.First, "last", rec.Last, "released", rec.Released)
}
