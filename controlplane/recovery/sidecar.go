package recovery

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
)

// sidecarVersion is the version of the sidecar's JSON.
const sidecarVersion = 1

// State says whether a target can be used.
type State string

// The states of a target.
const (
	StateWriting  State = "writing"  // being made or being advanced, or interrupted in it
	StateComplete State = "complete" // exactly the disk at Position
)

// Sidecar lies beside every target, says what it is, and is the proof that
// Understudy made it.
//
// It is replaced atomically and ahead of what it describes: before a byte of a
// complete target changes, its sidecar says writing and Holds has every position
// that any of its blocks may be at. However it is interrupted, the differences to
// those positions are all that must be written.
type Sidecar struct {
	Version int `json:"version"`
	Origin
	State    State            `json:"state"`
	Format   Format           `json:"format"`
	Size     int64            `json:"size"`            // of the disk, bytes
	Holds    []block.Position `json:"holds,omitempty"` // writing: positions mixed in the file; none: it is being filled from nothing
	Done     int64            `json:"done,omitempty"`  // writing, with no Holds: everything before this byte is written and synced
	Inode    uint64           `json:"inode"`
	Modified time.Time        `json:"modified,omitzero"` // complete: the file's time of modification then
	Updated  time.Time        `json:"updated"`
}

// ReadSidecar reads the sidecar of a target. Without one the error is fs.ErrNotExist.
func ReadSidecar(target string) (*Sidecar, error) {
	path := SidecarPath(target)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var s Sidecar
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("recovery: sidecar %s is damaged: %w", path, err)
	}
	if s.Version != sidecarVersion {
		return nil, fmt.Errorf("recovery: sidecar %s has version %d, this Understudy knows %d", path, s.Version, sidecarVersion)
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("recovery: sidecar %s is damaged: %w", path, err)
	}
	return &s, nil
}

// check proves what is relied on when a target is gone on with.
func (s *Sidecar) check() error {
	switch _, err := ParseFormat(string(s.Format)); {
	case err != nil:
		return err
	case s.State != StateWriting && s.State != StateComplete:
		return fmt.Errorf("its state is %q", s.State)
	case s.Disk.IsZero():
		return errors.New("it names no disk")
	case s.Size < 0 || s.Done < 0 || s.Done > s.Size:
		return fmt.Errorf("%d of %d bytes are done", s.Done, s.Size)
	}
	return nil
}

// save replaces the sidecar of the target.
func (s *Sidecar) save(target string) error {
	s.Version, s.Updated = sidecarVersion, time.Now().UTC()
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	path := SidecarPath(target)
	if err := writeSynced(path+".new", append(b, '\n')); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// missing reports whether err says that a file is not there.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
