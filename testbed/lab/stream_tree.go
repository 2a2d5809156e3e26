package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// treeStream changes nothing but metadata: value n is the n-th change of a tree of
// names (see nameTree), and syncfs after each. What a power cut leaves must be the tree
// as it was after some number of changes.
type treeStream struct{ fs string }

func (s treeStream) name() string { return s.fs + "/tree" }

func (s treeStream) on() []string { return []string{s.fs} }

func (s treeStream) root(m mounts) string { return filepath.Join(m[s.fs], "tree") }

func (s treeStream) open(m mounts, done uint64) (writer, error) {
	w := &treeWriter{model: newNameTree(s.name()), root: s.root(m)}
	for range done {
		w.model.next()
	}
	for i := range uint64(treeDirs) {
		if err := os.MkdirAll(filepath.Join(w.root, treeDir(i)), 0o755); err != nil {
			return nil, err
		}
	}
	var err error
	if w.dir, err = os.Open(w.root); err != nil {
		return nil, err
	}
	return w, unix.Syncfs(int(w.dir.Fd()))
}

type treeWriter struct {
	model *nameTree
	root  string
	dir   *os.File
}

func (w *treeWriter) Close() error { return w.dir.Close() }

// rest is long: a syncfs writes out what the other applications have not synced, and
// would leave their own fsync little to do.
func (w *treeWriter) rest() time.Duration { return 40 * time.Millisecond }

func (w *treeWriter) write(uint64) error {
	if err := w.model.next().do(w.root); err != nil {
		return err
	}
	return unix.Syncfs(int(w.dir.Fd()))
}

// prefix finds the number of changes after which the tree looked as it does.
func (s treeStream) prefix(m mounts) (uint64, error) {
	found, newest, err := readTree(s.root(m))
	if err != nil {
		return 0, err
	}
	model := newNameTree(s.name())
	var last string
	for model.n <= maxTreeChanges {
		if model.newest() == newest {
			if last = model.String(); last == found {
				return model.n, nil
			}
		} else if model.newest() > newest {
			break
		}
		model.next()
	}
	return 0, fmt.Errorf("%s: its names are those of no moment; they are\n%s\nand were, after the last change that %d can be from,\n%s", s.name(), found, newest, last)
}

const maxTreeChanges = 1 << 20 // against a damaged disk with a name from nowhere

// readTree lists what there is as nameTree.String does, and the highest number in a
// name.
func readTree(root string) (list string, newest uint64, err error) {
	var lines []string
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == root {
			return fs.SkipAll // the point is older than the tree
		}
		rel, relErr := filepath.Rel(root, path)
		if err := errors.Join(err, relErr); err != nil {
			return err
		}
		if strings.Count(rel, "/") != 1 {
			return nil // one of the directories that are always there
		}
		line, err := describeFile(path, rel)
		lines = append(lines, line)
		newest = max(newest, numberOf(rel))
		return err
	})
	return strings.Join(lines, "\n"), newest, err
}

func describeFile(path, rel string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return "", err
	}
	f := treeFile{links: int(st.Nlink), size: uint64(st.Size)}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return rel + " directory", nil
	case unix.S_IFLNK:
		to, err := os.Readlink(path)
		return rel + " to " + to, err
	}
	value := make([]byte, 32)
	n, err := unix.Lgetxattr(path, treeXattr, value)
	if err == nil {
		_, err = fmt.Sscan(string(value[:n]), &f.xattr)
	} else if errors.Is(err, unix.ENODATA) {
		err = nil
	}
	return f.describe(rel), err
}

// storm makes, marks (by attributes that fit into one block of 1 KiB) and moves a bunch of directories and files, and removes most of
// them again, without syncing or promising anything.
func storm(ctx context.Context, dir string, random *rand.Rand) error {
	for i := range 12 {
		if ctx.Err() != nil {
			return nil
		}
		sub := filepath.Join(dir, fmt.Sprintf("storm-%d", random.IntN(6)))
		deep := filepath.Join(sub, fmt.Sprint(i), "deep")
		file := filepath.Join(deep, "file")
		value := content(make([]byte, contentHeader+random.IntN(700)), dir, uint64(i+1))
		err := errors.Join(os.MkdirAll(deep, 0o755), os.WriteFile(file, value[:16], 0o600),
			unix.Setxattr(deep, treeXattr, value, 0), os.Truncate(file, random.Int64N(1<<20)),
			os.Symlink("file", filepath.Join(deep, fmt.Sprintf("link-%d", random.Uint64()))))
		if err != nil {
			return err
		}
		if random.IntN(3) == 0 {
			err = os.RemoveAll(sub)
		} else {
			err = os.Rename(file, filepath.Join(sub, fmt.Sprintf("moved-%d", random.IntN(9))))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
