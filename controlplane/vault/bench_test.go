package vault

import (
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/understudy-dr/understudy/controlplane/objstore/dir"
	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/pkg/frame"
)

const benchObject = 8 << 20

// benchDir is on a real file system: set TMPDIR to choose which.
func benchDir(b *testing.B) string {
	b.Helper()
	d, err := os.MkdirTemp("", "vault-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(d) })
	return d
}

func benchVault(b *testing.B) (*Vault, *history, *Writer) {
	b.Helper()
	store, err := dir.Open(benchDir(b))
	if err != nil {
		b.Fatal(err)
	}
	h := newHistory(1, 0)
	v, w := setup(b, store, h)
	return v, h, w
}

// bigFrames are frames of 1 MiB random data each, in one object.
func (h *history) bigFrames(kind frame.Kind, epoch block.Epoch, first block.Seq, off int64, n int) (raws [][]byte) {
	data := make([]byte, 1<<20)
	for i := range n {
		rand.Read(data)
		seq := first + block.Seq(i)
		h.builder.Reset(kind, epoch, seq, h.now)
		e := block.Extent{Off: off + int64(i)<<20, Len: 1 << 20}
		if err := h.builder.Add(h.disks[0].ID, frame.OpWrite, e, data); err != nil {
			panic(err)
		}
		raws = append(raws, must(h.builder.Append(nil, seq, h.now, frame.CompressNever)))
	}
	return raws
}

// BenchmarkCommit8MiB against BenchmarkPlainWrite8MiB is what the vault costs beyond
// the file system.
func BenchmarkCommit8MiB(b *testing.B) {
	_, h, w := benchVault(b)
	h.begin(frame.ReasonInitial)
	h.flush(b, w)
	raws := h.bigFrames(frame.KindLog, 1, 2, 0, benchObject>>20)
	seq := block.Seq(2)
	b.SetBytes(benchObject)
	for b.Loop() {
		b.StopTimer()
		for i, raw := range raws {
			raws[i] = h.renumber(raw, seq)
			seq++
		}
		b.StartTimer()
		if err := w.Commit(b.Context(), raws); err != nil {
			b.Fatal(err)
		}
	}
}

// renumber is the same frame at another place of the log.
func (h *history) renumber(raw []byte, seq block.Seq) []byte {
	f := must(frame.Parse(raw))
	data := must(f.Payload(nil))
	h.builder.Reset(frame.KindLog, f.Epoch, seq, h.now)
	e := f.At(0)
	if err := h.builder.Add(e.Disk, e.Op, e.Extent, data); err != nil {
		panic(err)
	}
	return must(h.builder.Append(nil, seq, h.now, frame.CompressNever))
}

func BenchmarkPlainWrite8MiB(b *testing.B) {
	root := benchDir(b)
	data := make([]byte, benchObject)
	rand.Read(data)
	b.SetBytes(benchObject)
	n := 0
	for b.Loop() {
		n++
		f, err := os.Create(filepath.Join(root, fmt.Sprint(n)))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := f.Write(data); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		f.Close()
	}
}

// BenchmarkReadSequential reads a disk from end to end, 1 MiB at a time: as the relay's
// objects came, and from a merged run.
func BenchmarkReadSequential(b *testing.B) {
	const size = 256 << 20
	for _, thinned := range []bool{false, true} {
		b.Run(map[bool]string{false: "objects", true: "run"}[thinned], func(b *testing.B) {
			v, h, w := benchVault(b)
			h.disks[0].Size = size
			h.begin(frame.ReasonInitial)
			n := block.Seq(1)
			for off := int64(0); off < size; off += benchObject {
				if err := w.Commit(b.Context(), h.bigFrames(frame.KindBase, 1, n, off, benchObject>>20)); err != nil {
					b.Fatal(err)
				}
				n += benchObject >> 20
			}
			h.log = append(h.log, must(frame.AppendMark(nil, h.machine, 1, 2, h.now, frame.Mark{Type: frame.MarkBaseComplete, BaseFrames: uint64(n - 1)})))
			h.flush(b, w)
			m := must(v.Machine(b.Context(), h.machine))
			if thinned {
				if _, err := m.thin(b.Context(), Retention{}); err != nil {
					b.Fatal(err)
				}
			}
			buf := make([]byte, 1<<20)
			b.SetBytes(size)
			for b.Loop() {
				view := must(m.View(b.Context(), block.Position{Epoch: 1, Seq: 2}))
				for off := int64(0); off < size; off += int64(len(buf)) {
					if _, err := view.ReadAt(b.Context(), h.disks[0].ID, buf, off); err != nil && err != io.EOF {
						b.Fatal(err)
					}
				}
				view.Close()
			}
		})
	}
}

// BenchmarkReadRandom4K is what a booting guest does over NBD.
func BenchmarkReadRandom4K(b *testing.B) {
	const size = 64 << 20
	for _, codec := range []frame.Compression{frame.CompressNever, frame.CompressAlways} {
		b.Run(map[frame.Compression]string{frame.CompressNever: "raw", frame.CompressAlways: "lz4"}[codec], func(b *testing.B) {
			v, h, w := benchVault(b)
			h.disks[0].Size = size
			h.begin(frame.ReasonInitial)
			text := pattern(1<<20, 3)
			for i := range block.Seq(size >> 20) {
				h.builder.Reset(frame.KindBase, 1, i+1, h.now)
				if err := h.builder.Add(h.disks[0].ID, frame.OpWrite, block.Extent{Off: int64(i) << 20, Len: 1 << 20}, text); err != nil {
					b.Fatal(err)
				}
				if err := w.Commit(b.Context(), [][]byte{must(h.builder.Append(nil, i+1, h.now, codec))}); err != nil {
					b.Fatal(err)
				}
			}
			h.log = append(h.log, must(frame.AppendMark(nil, h.machine, 1, 2, h.now, frame.Mark{Type: frame.MarkBaseComplete, BaseFrames: size >> 20})))
			h.flush(b, w)
			m := must(v.Machine(b.Context(), h.machine))
			m.payloads = newCache[unit, []byte](8 << 20) // smaller than the disk
			view := must(m.View(b.Context(), block.Position{Epoch: 1, Seq: 2}))
			buf := make([]byte, 4096)
			x := uint64(1)
			b.SetBytes(4096)
			for b.Loop() {
				x = x*6364136223846793005 + 1442695040888963407
				if _, err := view.ReadAt(b.Context(), h.disks[0].ID, buf, int64(x>>50)<<12); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOpenMachine reads the history of 2 hours of objects, one each 5 seconds.
func BenchmarkOpenMachine(b *testing.B) {
	v, h, w := benchVault(b)
	h.disks[0].Size = 256 << 20
	h.begin(frame.ReasonInitial)
	h.flush(b, w)
	seq := block.Seq(2)
	data := make([]byte, 4096)
	for range 1440 {
		var raws [][]byte
		for range 5 {
			h.builder.Reset(frame.KindLog, 1, seq, h.now)
			for i := range 200 {
				e := block.Extent{Off: int64(i*int(seq)%(1<<16)) * 4096, Len: 4096}
				if err := h.builder.Add(h.disks[0].ID, frame.OpWrite, e, data); err != nil {
					b.Fatal(err)
				}
			}
			raws = append(raws, must(h.builder.Append(nil, seq+199, h.now, frame.CompressAuto)))
			seq += 200
		}
		if err := w.Commit(b.Context(), raws); err != nil {
			b.Fatal(err)
		}
	}
	w.Close()
	b.Run("catalog", func(b *testing.B) {
		for b.Loop() {
			fresh := must(Open(b.Context(), v.store, Options{Key: Key{1}}))
			m := must(fresh.Machine(b.Context(), h.machine))
			if s := must(m.Status(b.Context())); s.Last.Seq != seq-1 {
				b.Fatalf("%+v", s)
			}
		}
	})
	b.Run("map", func(b *testing.B) {
		fresh := must(Open(b.Context(), v.store, Options{Key: Key{1}}))
		m := must(fresh.Machine(b.Context(), h.machine))
		c := must(m.snapshot(b.Context()))
		for b.Loop() {
			maps := mapper{fetcher: &m.fetcher, layers: c.layers(c.last.pos)}
			if _, err := maps.window(b.Context(), h.disks[0].ID, block.Extent{Len: 256 << 20}, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkThin absorbs and merges an hour of random 4 KiB writes into a base.
func BenchmarkThin(b *testing.B) {
	const size, churn = 256 << 20, 256 << 20
	for b.Loop() {
		b.StopTimer()
		v, h, w := benchVault(b)
		h.disks[0].Size = size
		h.begin(frame.ReasonInitial)
		n := block.Seq(1)
		for off := int64(0); off < size; off += benchObject {
			if err := w.Commit(b.Context(), h.bigFrames(frame.KindBase, 1, n, off, benchObject>>20)); err != nil {
				b.Fatal(err)
			}
			n += benchObject >> 20
		}
		h.log = append(h.log, must(frame.AppendMark(nil, h.machine, 1, 2, h.now, frame.Mark{Type: frame.MarkBaseComplete, BaseFrames: uint64(n - 1)})))
		h.flush(b, w)
		data := make([]byte, 4096)
		seq, x := block.Seq(3), uint64(1)
		for range churn / benchObject {
			h.builder.Reset(frame.KindLog, 1, seq, h.now)
			for range benchObject / 4096 {
				x = x*6364136223846793005 + 1442695040888963407
				rand.Read(data[:512])
				e := block.Extent{Off: int64(x>>48) << 12, Len: 4096}
				if err := h.builder.Add(h.disks[0].ID, frame.OpWrite, e, data); err != nil {
					b.Fatal(err)
				}
			}
			last := seq + benchObject/4096 - 1
			if err := w.Commit(b.Context(), [][]byte{must(h.builder.Append(nil, last, h.now, frame.CompressAuto))}); err != nil {
				b.Fatal(err)
			}
			seq = last + 1
		}
		m := must(v.Machine(b.Context(), h.machine))
		b.SetBytes(size + churn)
		b.StartTimer()
		report, err := m.thin(b.Context(), Retention{})
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(report.Written)/(size+churn), "written/byte")
	}
}
