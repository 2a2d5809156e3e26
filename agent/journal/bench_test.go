package journal

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"testing"

	"github.com/understudy-dr/understudy/pkg/block"
)

// BenchmarkThrough appends, reads and releases frames, the reader up to a backlog
// behind the writer: one that the memory stage holds, and one for which almost all go
// through the disk stage.
func BenchmarkThrough(b *testing.B) {
	for _, bench := range []struct {
		name          string
		memory, spill int64
		backlog       int64
	}{
		{"memory", 64 << 20, 0, 32 << 20},
		{"spill", 4 << 20, 512 << 20, 256 << 20},
	} {
		for _, size := range []int{64 << 10, 1 << 20, 4 << 20} {
			b.Run(fmt.Sprintf("%s/%dK", bench.name, size>>10), func(b *testing.B) {
				benchThrough(b, bench.memory, bench.spill, int(bench.backlog)/size, size)
			})
		}
	}
}

func benchThrough(b *testing.B, memory, spill int64, backlog, size int) {
	o := testOptions(b, memory, spill)
	if dir, err := os.MkdirTemp("/dev/shm", "journal-bench"); err == nil {
		defer os.RemoveAll(dir)
		o.MemoryDir = dir
	}
	j, _ := mustOpen(b, o)
	defer j.Close()
	raw := testFrame(b, 1, size)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	room, done := make(chan struct{}, backlog), make(chan error, 1)
	for i := range b.N {
		if i == backlog {
			go func() { done <- readAll(j, block.Seq(b.N), room) }()
		}
		room <- struct{}{}
		renumber(raw, block.Seq(i+1))
		if err := j.Append(raw, uint64(i)); err != nil {
			b.Fatal(err, j.Stats())
		}
	}
	if b.N <= backlog {
		go func() { done <- readAll(j, block.Seq(b.N), room) }()
	}
	if err := <-done; err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(j.Stats().SpilledBytes)/float64(b.N*size), "spilled/byte")
}

// readAll reads and releases every frame up to last and makes room for as many.
func readAll(j *Journal, last block.Seq, room <-chan struct{}) error {
	for seq := block.Seq(1); seq <= last; seq++ {
		if _, err := j.Next(context.Background(), seq-1); err != nil {
			return err
		}
		j.Release(seq)
		<-room
	}
	return nil
}

// renumber makes the frame another one's, in place: building frames is not what is
// measured.
func renumber(raw []byte, seq block.Seq) {
	le := binary.LittleEndian
	le.PutUint64(raw[32:], uint64(seq))
	le.PutUint64(raw[40:], uint64(seq))
	le.PutUint32(raw[124:], crc32.Checksum(raw[:124], crc32.MakeTable(crc32.Castagnoli)))
}
