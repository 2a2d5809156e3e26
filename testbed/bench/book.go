package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// book holds the rows of this run and of earlier ones. It is written after each row: a
// run that is interrupted loses nothing.
type book struct {
	path string // "" keeps nothing
	Rows []row  `json:"rows"`
	// Proofs are what the tests that prove things found, by what they prove: flat objects.
	Proofs map[string]json.RawMessage `json:"proofs,omitempty"`
	made   map[string]bool
}

func openBook(path string) (*book, error) {
	k := &book{path: path, made: map[string]bool{}}
	if path == "" {
		return k, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return k, os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, k); err != nil {
		return nil, fmt.Errorf("%s holds no rows: %w: remove it", path, err)
	}
	return k, nil
}

// add files a row in the place of the older one with its id.
func (k *book) add(r row) error {
	k.made[r.ID] = true
	i := slices.IndexFunc(k.Rows, func(o row) bool { return o.ID == r.ID })
	if i < 0 {
		k.Rows = append(k.Rows, r)
	} else {
		k.Rows[i] = r
	}
	return k.save()
}

// settle drops what a case, run whole and without a failure, no longer measures.
func (k *book) settle(name string) error {
	k.Rows = slices.DeleteFunc(k.Rows, func(r row) bool { return ofCase(r.ID, name) && !k.made[r.ID] })
	return k.save()
}

// ofCase reports whether a row is one of a case's: its id begins with the case's name, or
// with one of those that + joins.
func ofCase(id, name string) bool {
	return slices.ContainsFunc(strings.Split(name, "+"), func(n string) bool { return strings.HasPrefix(id, n+"/") })
}

// save writes the book down, if it has a place.
func (k *book) save() error {
	if k.path == "" {
		return nil
	}
	b, err := json.MarshalIndent(k, "", " ")
	if err != nil {
		return fmt.Errorf("%s: %w", k.path, err)
	}
	if err := os.WriteFile(k.path+".new", append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(k.path+".new", k.path)
}

// takeProofs files what the tests that prove things left in this directory. Those of a
// shortened run are no proof.
func (k *book) takeProofs(dir string) error {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if strings.HasSuffix(file, "-short.json") {
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var found struct{ What string }
		if err := json.Unmarshal(text, &found); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if found.What == "" {
			continue // not a proof's
		}
		if k.Proofs == nil {
			k.Proofs = map[string]json.RawMessage{}
		}
		k.Proofs[found.What] = text
	}
	return k.save()
}

// measured are the rows of this run.
func (k *book) measured() []row {
	var out []row
	for _, r := range k.Rows {
		if k.made[r.ID] {
			out = append(out, r)
		}
	}
	return out
}

// add completes a row with where and when, and files it.
func (b *bench) add(r row) error {
	r.Date, r.Host, r.Build, r.Load, r.Quick = time.Now().UTC().Truncate(time.Second), b.host, b.build(), load(), b.quick
	printRow(os.Stderr, r)
	return b.book.add(r)
}
