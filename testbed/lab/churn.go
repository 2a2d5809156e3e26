package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// churn makes a file system busy without promising anything: buffered files that are
// written, grown, cut, linked, renamed and removed, at about this many bytes a second.
// What it leaves is judged by the file system's own check.
type churn struct {
	dir            string
	bytesPerSecond int64
	random         *rand.Rand
	storms         bool // of metadata, besides
}

const (
	churnFiles = 48
	churnChunk = 256 << 10
)

func newChurn(root string, bytesPerSecond int64) (*churn, error) {
	dir, err := makeDir(root, "churn")
	return &churn{dir: dir, bytesPerSecond: bytesPerSecond, random: rand.New(rand.NewPCG(seedOf(root), 1))}, err
}

// run goes on until ctx ends.
func (c *churn) run(ctx context.Context) error {
	chunk := content(make([]byte, churnChunk), c.dir, 1)
	pause := time.Duration(float64(time.Second) * churnChunk / float64(c.bytesPerSecond))
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if c.storms && c.random.IntN(4) == 0 {
			if err := storm(ctx, c.dir, c.random); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("churn: %w", err)
			}
		}
		if err := c.step(chunk); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("churn: %w", err)
		}
	}
}

// step writes one chunk and does something to a file.
func (c *churn) step(chunk []byte) error {
	sub := filepath.Join(c.dir, fmt.Sprintf("d%d", c.random.IntN(4)))
	if err := os.MkdirAll(sub, 0o755); err != nil {
		return err
	}
	if err := c.append(filepath.Join(sub, c.file()), chunk); err != nil {
		return err
	}
	other := filepath.Join(sub, c.file())
	switch c.random.IntN(6) {
	case 0:
		return os.Rename(other, filepath.Join(sub, c.file()))
	case 1:
		return os.Link(other, filepath.Join(sub, c.file()))
	case 2:
		return os.Truncate(other, c.random.Int64N(churnChunk))
	case 3:
		return os.RemoveAll(sub)
	default:
		return os.Remove(other)
	}
}

// append keeps each file below a few chunks, so that the whole stays small.
func (c *churn) append(path string, chunk []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(chunk, c.random.Int64N(4)*churnChunk)
	return errors.Join(err, f.Close())
}

func (c *churn) file() string { return fmt.Sprintf("f%02d", c.random.IntN(churnFiles)) }
