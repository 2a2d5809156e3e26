package lab

import (
	"os"
	"path/filepath"
	"testing"
)

// TestNameTreeMomentsDiffer: a listing that fitted two moments would hide a loss.
func TestNameTreeMomentsDiffer(t *testing.T) {
	seen := map[string]uint64{}
	tree := newNameTree("test")
	verbs := map[string]int{}
	for range 5000 {
		verbs[tree.next().verb]++
		if was, ok := seen[tree.String()]; ok {
			t.Fatalf("the tree looks the same after %d and after %d changes:\n%s", was, tree.n, tree)
		}
		seen[tree.String()] = tree.n
	}
	if len(verbs) != 9 {
		t.Errorf("changes by verb: %v, want nine verbs", verbs)
	}
	if len(tree.names) > treeNames+1 {
		t.Errorf("%d names", len(tree.names))
	}
}

// TestTreeStream: what was done is found again, also where it went on; a name that is
// missing, one too many and another attribute are not.
func TestTreeStream(t *testing.T) {
	s := treeStream{"fs"}
	m := mounts{"fs": t.TempDir()}
	if n, err := s.prefix(m); n != 0 || err != nil {
		t.Fatalf("before the first change: %d, %v", n, err)
	}
	for n := uint64(0); n < 300; n += 100 {
		w, err := s.open(m, n)
		if err != nil {
			t.Fatal(err)
		}
		for i := range uint64(100) {
			if err := w.write(n + i + 1); err != nil {
				t.Fatal(err)
			}
			if got, err := s.prefix(m); got != n+i+1 || err != nil {
				t.Fatalf("after change %d: %d, %v", n+i+1, got, err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	spoilt := map[string]func(path string) error{
		"removed":   os.RemoveAll,
		"an extra":  func(path string) error { return os.WriteFile(path+"0", nil, 0o600) },
		"exchanged": func(path string) error { return os.Rename(path, filepath.Join(filepath.Dir(path), "n-7")) },
	}
	model := newNameTree(s.name())
	for range 300 {
		model.next()
	}
	for name, spoil := range spoilt {
		t.Run(name, func(t *testing.T) {
			copied := mounts{"fs": t.TempDir()}
			w, err := s.open(copied, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer w.Close()
			for n := range uint64(300) {
				if err := w.write(n + 1); err != nil {
					t.Fatal(err)
				}
			}
			if err := spoil(filepath.Join(s.root(copied), model.names[0])); err != nil {
				t.Fatal(err)
			}
			if n, err := s.prefix(copied); err == nil {
				t.Errorf("taken for the tree after %d changes", n)
			}
		})
	}
}
