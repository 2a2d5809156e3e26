package lab

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// nameTree is a small tree of names and attributes that changes by one system call at a
// time, each of which a journalling file system does whole or not at all. The changes
// follow from the stream's name, so the tree after any number of them can be told.
//
// No two moments look the same: what is made bears the number of the change, sizes and
// attributes are set to it, and between two changes that make something the names can
// only grow fewer. The newest name is never removed.
type nameTree struct {
	stream string
	n      uint64               // changes so far
	names  []string             // the oldest first
	files  map[string]*treeFile // by name; several names of one file share it
}

// treeFile is what a name stands for.
type treeFile struct {
	kind        string // file, directory or symlink
	links       int
	size, xattr uint64
	target      string // of a symlink
}

const (
	treeDirs  = 4  // directories that are always there
	treeNames = 40 // about so many names
	treeXattr = "user.understudy"
)

func newNameTree(stream string) *nameTree {
	return &nameTree{stream: stream, files: map[string]*treeFile{}}
}

func treeDir(i uint64) string { return fmt.Sprintf("dir-%d", i) }

// numberOf is the number of the change that made this name.
func numberOf(name string) uint64 {
	n, err := strconv.ParseUint(name[strings.LastIndexByte(name, '-')+1:], 10, 64)
	if err != nil {
		return 0 // not one of ours: it will not be found in the model
	}
	return n
}

// newest is the number of the change that made the newest name.
func (t *nameTree) newest() uint64 {
	if len(t.names) == 0 {
		return 0
	}
	return numberOf(t.names[len(t.names)-1])
}

// change is one change of the tree: verb, the name and, for some verbs, another.
type change struct {
	verb     string
	name, to string
	n        uint64
}

// next decides upon the next change, notes it and returns it.
func (t *nameTree) next() change {
	t.n++
	c := t.choose(spread(t.stream, t.n, 100))
	t.apply(c)
	return c
}

func (t *nameTree) choose(dice uint64) change {
	fresh := fmt.Sprintf("%s/n-%d", treeDir(spread(t.stream+"/dir", t.n, treeDirs)), t.n)
	c := change{n: t.n, to: fresh}
	if len(t.names) < 3 {
		dice %= 40
	} else {
		c.name = t.names[spread(t.stream+"/name", t.n, uint64(len(t.names)-1))] // not the newest
	}
	isFile := c.name != "" && t.files[c.name].kind == "file"
	switch {
	case dice < 25:
		c.verb = "create"
	case dice < 33:
		c.verb = "mkdir"
	case dice < 40:
		c.verb = "symlink"
	case dice < 55 && isFile:
		c.verb = "link"
	case dice < 62 && isFile:
		c.verb = "setxattr"
	case dice < 70 && isFile:
		c.verb = "truncate"
	case dice < 80:
		c.verb = "rename"
	default:
		c.verb, c.to = "remove", ""
		if other := t.other(c.name); isFile && dice < 85 && other != "" {
			c.verb, c.to = "replace", other
		}
	}
	if len(t.names) > treeNames {
		c.verb, c.to = "remove", ""
	}
	return c
}

// other is the oldest name of another file than name's.
func (t *nameTree) other(name string) string {
	for _, o := range t.names {
		if t.files[o].kind == "file" && t.files[o] != t.files[name] {
			return o
		}
	}
	return ""
}

func (t *nameTree) apply(c change) {
	switch c.verb {
	case "create":
		t.add(c.to, &treeFile{kind: "file"})
	case "mkdir":
		t.add(c.to, &treeFile{kind: "directory"})
	case "symlink":
		t.add(c.to, &treeFile{kind: "symlink", target: symlinkTarget(c.n)})
	case "link":
		t.add(c.to, t.files[c.name])
	case "rename":
		t.add(c.to, t.files[c.name])
		t.drop(c.name)
	case "replace":
		f := t.files[c.name]
		t.drop(c.name)
		t.files[c.to].links--
		t.files[c.to] = f
		f.links++
	case "remove":
		t.drop(c.name)
	case "setxattr":
		t.files[c.name].xattr = c.n
	case "truncate":
		t.files[c.name].size = c.n
	}
}

func (t *nameTree) add(name string, f *treeFile) {
	f.links++
	t.names = append(t.names, name)
	t.files[name] = f
}

func (t *nameTree) drop(name string) {
	t.files[name].links--
	delete(t.files, name)
	t.names = slices.DeleteFunc(t.names, func(n string) bool { return n == name })
}

func symlinkTarget(n uint64) string { return fmt.Sprintf("nowhere/%d", n) }

// do makes the change for real.
func (c change) do(root string) error {
	name, to := filepath.Join(root, c.name), filepath.Join(root, c.to)
	switch c.verb {
	case "create":
		f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		return f.Close()
	case "mkdir":
		return os.Mkdir(to, 0o755)
	case "symlink":
		return os.Symlink(symlinkTarget(c.n), to)
	case "link":
		return os.Link(name, to)
	case "rename", "replace":
		return os.Rename(name, to)
	case "remove":
		return os.Remove(name)
	case "setxattr":
		return unix.Setxattr(name, treeXattr, []byte(strconv.FormatUint(c.n, 10)), 0)
	case "truncate":
		return os.Truncate(name, int64(c.n))
	}
	return fmt.Errorf("no change %q", c.verb)
}

// String lists the tree, a line a name, in the order of the names.
func (t *nameTree) String() string {
	var lines []string
	for _, name := range slices.SortedFunc(maps.Keys(t.files), byPath) {
		f := t.files[name]
		switch f.kind {
		case "directory":
			lines = append(lines, name+" directory")
		case "symlink":
			lines = append(lines, name+" to "+f.target)
		default:
			lines = append(lines, f.describe(name))
		}
	}
	return strings.Join(lines, "\n")
}

// byPath is the order in which a walk finds names: all of these are of two parts.
func byPath(a, b string) int {
	return slices.Compare(strings.Split(a, "/"), strings.Split(b, "/"))
}

func (f *treeFile) describe(name string) string {
	return fmt.Sprintf("%s file of %d bytes, %d links, attribute %d", name, f.size, f.links, f.xattr)
}
