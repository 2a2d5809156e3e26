package nbd_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/recovery"
	"github.com/understudy-dr/understudy/controlplane/recovery/nbd"
	"github.com/understudy-dr/understudy/controlplane/recovery/overlay"
	"github.com/understudy-dr/understudy/controlplane/recovery/recoverytest"
	"github.com/understudy-dr/understudy/pkg/block"
)

const mib = 1 << 20

// noise makes a disk with alternating MiB of noise and zeros.
func noise(seed uint64, size int64) *recoverytest.Disk {
	r := rand.New(rand.NewPCG(seed, 4))
	data := make([]byte, size)
	for i := range data {
		if i/mib%2 == 0 {
			data[i] = byte(r.Uint32())
		}
	}
	return &recoverytest.Disk{Data: data}
}

// writable puts an overlay over an image.
func writable(t testing.TB, img recovery.Image) *overlay.Overlay {
	t.Helper()
	o, err := overlay.Temporary(t.TempDir(), recovery.Disk{Origin: recovery.Origin{Name: "sda", Disk: block.DiskID{1}}, Image: img})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

// serve starts a server on a unix socket and returns the way to each export. It is
// stopped, and must have stopped cleanly, when the test ends.
func serve(t testing.TB, opts nbd.Options, exports ...nbd.Export) (uri func(string) string, srv *nbd.Server) {
	t.Helper()
	ln, srv := listen(t, opts, exports...)
	return func(name string) string { return nbd.URI(ln, name) }, srv
}

func listen(t testing.TB, opts nbd.Options, exports ...nbd.Export) (ln net.Listener, srv *nbd.Server) {
	t.Helper()
	dir, err := os.MkdirTemp("", "nbd") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	ln, err = nbd.Listen("unix:"+filepath.Join(dir, "sock"), false)
	if err != nil {
		t.Fatal(err)
	}
	if srv, err = nbd.New(exports, opts); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil || srv.Conns() != 0 {
			t.Errorf("the server ended with %v and %d connections", err, srv.Conns())
		}
		os.RemoveAll(dir)
	})
	return ln, srv
}

// tool runs a client; without it installed the test is skipped.
func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func TestInfoAsLibnbdSeesIt(t *testing.T) {
	a, b := noise(1, 5*mib), noise(2, 3*mib+512)
	uri, _ := serve(t, nbd.Options{},
		nbd.Export{Name: "sda", Description: "the first disk", Image: writable(t, a)},
		nbd.Export{Name: "disk two", Image: b})
	list := tool(t, "nbdinfo", "--list", uri(""))
	for _, want := range []string{`export="sda"`, `export="disk two"`, "description: the first disk", "export-size: 5242880",
		"export-size: 3146240", "can_multi_conn: true", "base:allocation", "block_size_maximum: 33554432"} {
		if !strings.Contains(list, want) {
			t.Errorf("nbdinfo --list does not say %q:\n%s", want, list)
		}
	}
	if info := tool(t, "nbdinfo", uri("disk two")); !strings.Contains(info, "is_read_only: true") || strings.Contains(info, "can_trim: true") {
		t.Errorf("a disk without writer:\n%s", info)
	}
	if info := tool(t, "nbdinfo", uri("sda")); !strings.Contains(info, "is_read_only: false") || !strings.Contains(info, "can_fast_zero: true") {
		t.Errorf("a disk with overlay:\n%s", info)
	}
	got := strings.Join(strings.Fields(tool(t, "nbdinfo", "--map", uri("sda"))), " ")
	want := "0 1048576 0 data 1048576 1048576 3 hole,zero 2097152 1048576 0 data 3145728 1048576 3 hole,zero 4194304 1048576 0 data"
	if got != want {
		t.Errorf("map %q, want %q", got, want)
	}
}

func TestNbdcopyReadsAndWrites(t *testing.T) {
	img := noise(3, 33*mib+1536)
	uri, _ := serve(t, nbd.Options{}, nbd.Export{Name: "sda", Image: writable(t, &recoverytest.Disk{Data: make([]byte, img.Size())})}, nbd.Export{Name: "src", Image: img})
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	for _, flags := range [][]string{{}, {"--no-extents", "--connections=1"}, {"--synchronous"}} {
		tool(t, "nbdcopy", append(flags, uri("src"), plain)...)
		mustEqualFile(t, plain, img.Data)
		os.Remove(plain)
	}
	tool(t, "nbdcopy", "--flush", uri("src"), uri("sda"))
	tool(t, "nbdcopy", uri("sda"), plain)
	mustEqualFile(t, plain, img.Data)
}

func mustEqualFile(t *testing.T, path string, want []byte) {
	t.Helper()
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%s: %d bytes, want %d, %v", path, len(got), len(want), err)
	}
}

func TestQemuImgComparesAndConverts(t *testing.T) {
	img := noise(4, 17*mib)
	o := writable(t, img)
	uri, _ := serve(t, nbd.Options{}, nbd.Export{Name: "sda", Image: o})
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, img.Data, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", plain, uri("sda"))
	for i := range img.Data[:9*mib] {
		img.Data[i] ^= 0x55 // a new source; the overlay's base changes with it, which qemu then overwrites
	}
	if err := os.WriteFile(plain, img.Data, 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "qemu-img", "convert", "-n", "-W", "-m", "8", "-f", "raw", "-O", "raw", plain, uri("sda"))
	tool(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", plain, uri("sda"))
}

// TestQemuIoVerbs does every kind of request once, with patterns that qemu-io checks.
func TestQemuIoVerbs(t *testing.T) {
	uri, _ := serve(t, nbd.Options{}, nbd.Export{Name: "sda", Image: writable(t, noise(5, 8*mib))})
	out := tool(t, "qemu-io", "-f", "raw", uri("sda"),
		"-c", "write -P 0x11 0 64k", "-c", "write -f -P 0x22 65000 1000", "-c", "read -P 0x22 65000 1000", "-c", "read -P 0x11 0 65000",
		"-c", "write -z 1M 70000", "-c", "read -P 0 1M 70000", "-c", "write -z -u 2M 1M", "-c", "read -P 0 2M 1M",
		"-c", "discard 4M 2M", "-c", "read -P 0 4M 2M", "-c", "flush",
		"-c", "aio_write -P 0x33 6M 512k", "-c", "aio_write -P 0x44 7M 512k", "-c", "aio_flush", "-c", "read -P 0x33 6M 512k", "-c", "read -P 0x44 7M 512k")
	if strings.Contains(out, "failed") || strings.Contains(out, "error") || strings.Contains(out, "Error") {
		t.Fatal(out)
	}
	if out, err := exec.Command("qemu-io", "-f", "raw", "-r", uri("sda"), "-c", "read 8M 512").CombinedOutput(); err == nil && !bytes.Contains(out, []byte("failed")) {
		t.Errorf("a read past the end:\n%s", out)
	}
}

// TestConcurrentClientsAgainstModel has several qemu-io processes write patterns to
// their own stripes of one disk, small and unaligned, then compares with a model.
func TestConcurrentClientsAgainstModel(t *testing.T) {
	const size, clients, writes, cell = 4 * mib, 4, 60, 6144
	img := noise(6, size)
	o := writable(t, img)
	uri, _ := serve(t, nbd.Options{InFlight: 8}, nbd.Export{Name: "sda", Image: o})
	model := bytes.Clone(img.Data)
	var wg sync.WaitGroup
	for c := range clients {
		r := rand.New(rand.NewPCG(uint64(c), 9))
		args := []string{"-f", "raw", uri("sda")}
		for range writes {
			at := (r.IntN(size/cell/clients)*clients + c) * cell // cells of one client lie between those of others
			off := at + r.IntN(cell/512)*512
			length := 512 * (1 + r.IntN((at+cell-off)/512))
			pattern := byte(1 + r.IntN(255))
			args = append(args, "-c", fmt.Sprintf("write -P %d %d %d", pattern, off, length))
			copy(model[off:], bytes.Repeat([]byte{pattern}, length))
		}
		wg.Go(func() { tool(t, "qemu-io", args...) })
	}
	wg.Wait()
	got := make([]byte, size)
	if err := recovery.ReadFull(o, got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, model) {
		t.Fatal("the disk differs from what the clients wrote")
	}
}

// TestClientsKilledAtAnyTime kills copying clients; the server must go on.
func TestClientsKilledAtAnyTime(t *testing.T) {
	if _, err := exec.LookPath("nbdcopy"); err != nil {
		t.Skip("nbdcopy is not installed")
	}
	img := noise(7, 32*mib)
	uri, srv := serve(t, nbd.Options{}, nbd.Export{Name: "sda", Image: writable(t, img)}, nbd.Export{Name: "src", Image: img})
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 12 {
		cmd := exec.Command("nbdcopy", uri("src"), uri("sda"))
		if i%3 == 0 {
			cmd = exec.Command("nbdcopy", uri("src"), "null:")
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(r.IntN(30)) * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	plain := filepath.Join(t.TempDir(), "plain")
	tool(t, "nbdcopy", uri("src"), plain)
	mustEqualFile(t, plain, img.Data)
	for deadline := time.Now().Add(10 * time.Second); srv.Conns() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are left", srv.Conns())
		}
	}
}
