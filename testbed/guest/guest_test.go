//go:build testbed

package guest_test

import (
	"context"
	"errors"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/testbed/guest"
	"github.com/understudy-dr/understudy/testbed/lab"
)

func boot(t *testing.T, r guest.Recipe, o guest.Options) *guest.Guest {
	t.Helper()
	start := time.Now()
	image, err := guest.Build(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	built := time.Now()
	l, err := lab.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	l.CloseOnSignal()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	o.Name, o.Image = "guest", image
	g, err := guest.Boot(t.Context(), l, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("image after %s, up after %s more", built.Sub(start).Round(time.Second/10), time.Since(built).Round(time.Second/10))
	return g
}

func run(t *testing.T, g *guest.Guest, script string) string {
	t.Helper()
	out, err := g.Run(t.Context(), script)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(out)
}

// TestLives: a machine boots, works, loses its power, panics, reboots and shuts down; what
// it had synced is there each time, and what only its memory had is not.
func TestLives(t *testing.T) {
	g := boot(t, guest.Recipe{}, guest.Options{Disks: []guest.Disk{{Name: "data", Size: 64 << 20}}})
	if root := run(t, g, "findmnt -no SOURCE,FSTYPE /"); root != "/dev/vda1 ext4" {
		t.Errorf("the root is %s", root)
	}
	if _, err := g.Run(t.Context(), "echo lost >&2; false; echo never"); err == nil || !strings.Contains(err.Error(), "lost") {
		t.Errorf("a script that fails: %v", err)
	}
	run(t, g, "mkfs.ext4 -q /dev/disk/by-id/virtio-data && mount /dev/vdb /mnt")
	begin := func(life string) { run(t, g, "echo "+life+" >/mnt/"+life+"; sync; echo gone >/run/memory") }
	after := func(life string) {
		t.Helper()
		run(t, g, "mount /dev/vdb /mnt")
		if got := run(t, g, "cat /mnt/"+life+"; ls /run/memory 2>/dev/null || echo no memory"); got != life+"\nno memory" {
			t.Errorf("after %s: %q", life, got)
		}
	}
	begin("cut")
	g.PowerCut()
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	after("cut")
	begin("panic")
	if err := g.Panic(t.Context()); err != nil {
		t.Fatal(err)
	}
	after("panic")
	begin("reboot")
	if err := g.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	after("reboot")
	if err := g.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestPutAndGet: bytes and mode arrive, and the screen can be seen.
func TestPutAndGet(t *testing.T) {
	g := boot(t, guest.Recipe{}, guest.Options{})
	here := filepath.Join(t.TempDir(), "program")
	content := strings.Repeat("\x00\xff'quoted'\n", 100_000)
	if err := os.WriteFile(here, []byte(content), 0o750); err != nil {
		t.Fatal(err)
	}
	back := here + ".back"
	if err := errors.Join(g.Put(t.Context(), here, "/opt/a b/it's"), g.Get(t.Context(), "/opt/a b/it's", back)); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(back); err != nil || string(got) != content {
		t.Errorf("came back with %d bytes of %d (%v)", len(got), len(content), err)
	}
	screen := here + ".png"
	if err := g.Screenshot(t.Context(), screen); err != nil {
		t.Fatal(err)
	}
	if f, err := os.Open(screen); err != nil {
		t.Error(err)
	} else if c, err := png.DecodeConfig(f); err != nil || c.Width < 320 {
		t.Errorf("the screen is %d wide (%v)", c.Width, err)
	}
	if mode := run(t, g, `stat -c %a "/opt/a b/it's"`); mode != "750" {
		t.Errorf("its mode is %s", mode)
	}
}

// TestTroubles: each does what it says, and no more.
func TestTroubles(t *testing.T) {
	ctx := t.Context()
	g := boot(t, guest.Recipe{}, guest.Options{Disks: []guest.Disk{{Name: "data", Size: 64 << 20, Bus: guest.NVMe}}})
	run(t, g, "mkfs.ext4 -q /dev/nvme0n1 && mount /dev/nvme0n1 /mnt; (exec sleep 1000) >/dev/null 2>&1 &")
	if err := errors.Join(g.Kill9(ctx, "sleep"), g.FillDisk(ctx, "/mnt", 1<<20), g.JumpClock(ctx, 3*time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill9(ctx, "sleep"); err == nil || !strings.Contains(err.Error(), "nothing to kill") {
		t.Errorf("killed what was dead: %v", err)
	}
	if free := run(t, g, "echo $(($(stat -f -c '%a * %S' /mnt) >> 10))"); len(free) > 4 || free == "0" {
		t.Errorf("%s KiB are free, want about 1024", free)
	}
	now, err := time.Parse(time.DateTime, run(t, g, "date -u '+%F %T'"))
	if ahead := time.Until(now); err != nil || ahead < 2*time.Hour || ahead > 4*time.Hour {
		t.Errorf("its clock is %s ahead (%v)", ahead, err)
	}
	if err := g.CutNetwork(ctx); err != nil {
		t.Fatal(err)
	}
	dead, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if out, err := g.Run(dead, "echo alive"); err == nil {
		t.Errorf("it answers without a network: %s", out)
	}
	if err := g.RestoreNetwork(ctx); err != nil {
		t.Fatal(err)
	}
	if got := run(t, g, "echo alive"); got != "alive" {
		t.Error(got)
	}
	// Nothing leaves, and of the host only what was asked for.
	if out, err := g.Run(ctx, "timeout 5 bash -c 'echo >/dev/tcp/10.0.2.2/22 || echo >/dev/tcp/1.1.1.1/80'"); err == nil {
		t.Errorf("it reached what it must not: %s", out)
	}
}

// TestRoots: each file system carries a machine, on each bus.
func TestRoots(t *testing.T) {
	for root, bus := range map[string]guest.Bus{guest.XFS: guest.VirtioSCSI, guest.Btrfs: guest.NVMe} {
		t.Run(root, func(t *testing.T) {
			g := boot(t, guest.Recipe{Root: root}, guest.Options{Root: bus})
			want := map[guest.Bus]string{guest.VirtioSCSI: "/dev/sda1 ", guest.NVMe: "/dev/nvme0n1p1 "}[bus] + root
			if got := run(t, g, "findmnt -no SOURCE,FSTYPE /"); got != want {
				t.Errorf("the root is %s, want %s", got, want)
			}
		})
	}
}

// TestCodeIsWrittenUnderLoad: a kernel that patches itself while it works goes on, though
// qemu is left with code from before now and then (the log of the guest says when); and a
// Retranslate without need changes nothing.
func TestCodeIsWrittenUnderLoad(t *testing.T) {
	g := boot(t, guest.Recipe{}, guest.Options{Disks: []guest.Disk{{Name: "data", Size: 64 << 20}}})
	run(t, g, `mkfs.ext4 -q /dev/vdb; mount /dev/vdb /mnt; mount -t tracefs t /sys/kernel/tracing 2>/dev/null || true
(while :; do dd if=/dev/zero of=/mnt/file bs=4k count=64 oflag=dsync; done) >/dev/null 2>&1 </dev/null &`)
	if err := g.Retranslate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		start := time.Now()
		run(t, g, `cd /sys/kernel/tracing/events/block; for i in $(seq 60); do for on in 1 0; do
	for e in block_bio_queue block_rq_issue block_rq_complete; do echo $on >$e/enable; done
done; done`)
		t.Logf("round %d: %.0f s", i, time.Since(start).Seconds())
	}
}

// TestKernels: kernels of other suites boot under the same userland, with what capture
// needs. The generic one has netem.
func TestKernels(t *testing.T) {
	for name, c := range map[string]struct {
		recipe guest.Recipe
		want   string
	}{
		"bullseye": {guest.Recipe{KernelSuite: "bullseye"}, "5.10."},
		"trixie":   {guest.Recipe{KernelSuite: "trixie"}, "6.12."},
		"generic":  {guest.Recipe{Kernel: "linux-image-amd64"}, "6.1."},
	} {
		t.Run(name, func(t *testing.T) {
			g := boot(t, c.recipe, guest.Options{})
			if got := run(t, g, "uname -r; ls /sys/kernel/btf/vmlinux"); !strings.HasPrefix(got, c.want) {
				t.Errorf("the kernel is %s, want %s", got, c.want)
			}
			if name != "generic" {
				return
			}
			if err := g.Netem(t.Context(), "delay 400ms"); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			run(t, g, "true")
			if took := time.Since(start); took < 400*time.Millisecond {
				t.Errorf("an answer took %s, with 400 ms of delay", took)
			}
			if err := g.Netem(t.Context(), ""); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestStackedRoots: a machine boots from a root on LVM, and from one on LVM on encryption,
// which it opens by itself.
func TestStackedRoots(t *testing.T) {
	for under, layers := range map[string]string{guest.LVM: "disk part lvm", guest.LUKS: "disk part crypt lvm"} {
		t.Run(under, func(t *testing.T) {
			g := boot(t, guest.Recipe{Under: under}, guest.Options{})
			if root := run(t, g, "findmnt -no SOURCE,FSTYPE /"); root != "/dev/mapper/vg-root ext4" {
				t.Errorf("the root is %s", root)
			}
			if got := run(t, g, "lsblk -nro TYPE /dev/vda | tr '\\n' ' '"); got != layers {
				t.Errorf("its disk is %q, want %q", got, layers)
			}
			if err := g.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
		})
	}
}
