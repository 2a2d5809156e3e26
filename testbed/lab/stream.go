package lab

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// stream is one application: it makes its values 1, 2, 3, … durable one after the
// other, and can tell from a recovered disk how far it had come. Since n is on stable
// storage before n+1 is begun, whatever a power cut leaves is exactly the values up to
// some number; anything else (a hole, an older value, a torn one) is an error. That is
// stricter than looking for what was acknowledged.
type stream interface {
	// name is unique in the lab: "ext4/log".
	name() string
	// on names the disks that it lives on.
	on() []string
	// open prepares to write on these mounts, behind the first done values.
	open(mounts mounts, done uint64) (writer, error)
	// prefix is the number up to which the mounts hold the values, 0 for none.
	prefix(mounts mounts) (uint64, error)
}

// writer returns from write when value n is on stable storage.
type writer interface {
	write(n uint64) error
	Close() error
}

// rester is a writer that needs a longer pause between two values than others.
type rester interface{ rest() time.Duration }

// mounts are mount points by the file system's name in the lab.
type mounts map[string]string

// content is what value n of a stream consists of, wherever it is written: a header
// that names it and bytes that follow from it, half of them compressible as real data
// is. Nothing that was stored needs to be remembered to check it.
func content(b []byte, name string, n uint64) []byte {
	seed := seedOf(name)
	binary.LittleEndian.PutUint64(b, seed)
	binary.LittleEndian.PutUint64(b[8:], n)
	random := rand.New(rand.NewPCG(seed, n))
	text := []byte(name)
	for i := contentHeader; i < len(b); i++ {
		if i%64 < 32 {
			b[i] = text[i%len(text)]
		} else if i%8 == 0 && i+8 <= len(b) {
			binary.LittleEndian.PutUint64(b[i:], random.Uint64())
			i += 7
		} else {
			b[i] = byte(random.Uint64())
		}
	}
	return b
}

const contentHeader = 16

// valueOf is the number of the value in b; 0 if b is zeros; an error if b is neither
// zeros nor the whole content of any value of the stream.
func valueOf(b []byte, name string) (uint64, error) {
	if len(bytes.Trim(b, "\x00")) == 0 {
		return 0, nil
	}
	n := binary.LittleEndian.Uint64(b[8:])
	if binary.LittleEndian.Uint64(b) != seedOf(name) || n == 0 {
		return 0, errors.New("holds bytes that were never written there")
	}
	if want := content(make([]byte, len(b)), name, n); !bytes.Equal(want, b) {
		return n, fmt.Errorf("value %d is damaged from its byte %d on", n, mismatch(want, b))
	}
	return n, nil
}

func mismatch(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func seedOf(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return h.Sum64()
}

// spread is a number that looks random and follows from n alone: places and sizes.
func spread(name string, n, limit uint64) uint64 {
	return rand.NewPCG(seedOf(name), n).Uint64() % limit
}

// readIfThere is the file's bytes, none if it is not there: a recovery point may be
// older than the file.
func readIfThere(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// place is somewhere a value may be: a slot or a file name.
type place struct {
	fs   string
	slot uint64
}

// prefixOfPlaces is the prefix of a stream whose value n overwrites place at(n), judged
// by what each place holds: all must hold the last value up to the newest one found.
func prefixOfPlaces(name string, holds map[place]uint64, at func(n uint64) place) (uint64, error) {
	var newest uint64
	for _, n := range holds {
		newest = max(newest, n)
	}
	want := map[place]uint64{}
	for n := uint64(1); n <= newest; n++ {
		want[at(n)] = n
	}
	for p, n := range holds {
		if n != want[p] {
			return 0, fmt.Errorf("%s: %s slot %d holds value %d, but the newest value there before %d was %d", name, p.fs, p.slot, n, newest, want[p])
		}
	}
	for p, n := range want {
		if _, ok := holds[p]; !ok {
			return 0, fmt.Errorf("%s: %s slot %d holds nothing, but value %d was written there before %d", name, p.fs, p.slot, n, newest)
		}
	}
	return newest, nil
}

func makeDir(root, dir string) (string, error) {
	path := filepath.Join(root, dir)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return "", err
	}
	return path, syncDir(root)
}
