package nbd_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/recovery"
	"github.com/understudy-dr/understudy/controlplane/recovery/nbd"
	"github.com/understudy-dr/understudy/controlplane/recovery/recoverytest"
)

const benchSize = 1 << 30

// benchFile is a file full of noise, in the page cache.
func benchFile(b *testing.B) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "disk")
	buf := make([]byte, mib)
	r := rand.New(rand.NewPCG(1, 8))
	for i := range buf {
		buf[i] = byte(r.Uint32())
	}
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for range benchSize / mib {
		if _, err := f.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	return path
}

// nbdkit serves the file on a socket until the benchmark ends.
func nbdkit(b *testing.B, file string) (socket string) {
	b.Helper()
	if _, err := exec.LookPath("nbdkit"); err != nil {
		b.Skip("nbdkit is not installed")
	}
	dir, err := os.MkdirTemp("", "nbdkit")
	if err != nil {
		b.Fatal(err)
	}
	socket = filepath.Join(dir, "sock")
	cmd := exec.Command("nbdkit", "-f", "-U", socket, "-t", "16", "file", file)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		os.RemoveAll(dir)
	})
	for range 500 {
		if _, err := os.Stat(socket); err == nil {
			return socket
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.Fatal("nbdkit does not come up")
	return ""
}

// ours serves the file from a process of its own, as nbdkit does: as it is, below an
// empty overlay, or below an overlay that has been written all over.
func ours(b *testing.B, file, over string) (socket string) {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestServerForBenchmarks$")
	cmd.Env = append(os.Environ(), "NBD_BENCH_FILE="+file, "NBD_BENCH_OVER="+over)
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	line := bufio.NewScanner(out)
	if !line.Scan() {
		b.Fatal("the server does not come up")
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return line.Text()
}

// TestServerForBenchmarks is that process. It serves until its input ends.
func TestServerForBenchmarks(t *testing.T) {
	file := os.Getenv("NBD_BENCH_FILE")
	if file == "" {
		t.Skip("only for benchmarks")
	}
	img, err := recoverytest.OpenFile(file)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	served := recovery.Image(img)
	if over := os.Getenv("NBD_BENCH_OVER"); over != "" {
		o := writable(t, img)
		for off := int64(0); over == "full" && off < img.Size(); off += mib {
			buf := make([]byte, mib)
			if err := recovery.ReadFull(img, buf, off); err != nil {
				t.Fatal(err)
			}
			if _, err := o.WriteAt(buf, off); err != nil {
				t.Fatal(err)
			}
		}
		served = o
	}
	ln, _ := listen(t, nbd.Options{}, nbd.Export{Name: "disk", Image: served})
	fmt.Println(ln.Addr())
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func BenchmarkServe(b *testing.B) {
	file := benchFile(b)
	for name, start := range map[string]func(*testing.B) string{
		"nbdkit":               func(b *testing.B) string { return nbdkit(b, file) },
		"understudy":           func(b *testing.B) string { return ours(b, file, "") },
		"understudy+overlay":   func(b *testing.B) string { return ours(b, file, "empty") },
		"understudy+rewritten": func(b *testing.B) string { return ours(b, file, "full") },
	} {
		b.Run(name, func(b *testing.B) {
			socket := start(b)
			b.Run("nbdcopy", func(b *testing.B) {
				b.SetBytes(benchSize)
				for b.Loop() {
					tool(b, "nbdcopy", "nbd+unix:///?socket="+socket, "null:")
				}
			})
			for depth, name := range map[int]string{1: "rand4k-qd1", 32: "rand4k-qd32"} {
				b.Run(name, func(b *testing.B) { randomReads(b, socket, depth) })
			}
		})
	}
}

// randomReads reads 4 KiB at random places, depth at once.
func randomReads(b *testing.B, socket string, depth int) {
	nc, err := net.Dial("unix", socket)
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	in := bufio.NewReaderSize(nc, 256<<10)
	skip := func(n int) {
		if _, err := io.CopyN(io.Discard, in, int64(n)); err != nil {
			b.Fatal(err)
		}
	}
	skip(18)
	say := binary.BigEndian.AppendUint32(nil, 3)
	say = append(say, "IHAVEOPT\x00\x00\x00\x01\x00\x00\x00\x00"...)
	if _, err := nc.Write(say); err != nil {
		b.Fatal(err)
	}
	skip(10)
	r := rand.New(rand.NewPCG(2, 8))
	ask := func() {
		q := binary.BigEndian.AppendUint64(nil, 0x2560951300000000)
		q = binary.BigEndian.AppendUint64(q, 1)
		q = binary.BigEndian.AppendUint64(q, uint64(r.Int64N(benchSize/4096))*4096)
		if _, err := nc.Write(binary.BigEndian.AppendUint32(q, 4096)); err != nil {
			b.Fatal(err)
		}
	}
	asked := 0
	for ; asked < depth; asked++ {
		ask()
	}
	b.SetBytes(4096)
	for b.Loop() {
		skip(16 + 4096)
		ask()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "IOPS")
}
