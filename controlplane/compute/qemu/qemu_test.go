package qemu

import (
	"bytes"
	"context"
	"fmt"
	"image/png"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/controlplane/daemon"
	"github.com/understudy-dr/understudy/controlplane/failover"
	"github.com/understudy-dr/understudy/controlplane/recovery"
	"github.com/understudy-dr/understudy/controlplane/recovery/nbd"
	"github.com/understudy-dr/understudy/controlplane/recovery/overlay"
	"github.com/understudy-dr/understudy/controlplane/recovery/recoverytest"
)

const mib = 1 << 20

// bootSector is a whole system: it prints a text on the serial line and halts.
//
//	xor ax,ax; mov ds,ax; mov dx,0x3f8; mov si,0x7c15
//	next: lodsb; test al,al; jz halt; out dx,al; jmp next
//	halt: hlt; jmp halt
func bootSector(text string) []byte {
	disk := make([]byte, mib)
	code := "\x31\xc0\x8e\xd8\xba\xf8\x03\xbe\x15\x7c\xac\x84\xc0\x74\x03\xee\xeb\xf8\xf4\xeb\xfd" + text
	copy(disk, code)
	disk[510], disk[511] = 0x55, 0xAA
	return disk
}

// served serves disks with this content as failover.Disks does.
func served(t *testing.T, contents ...[]byte) []failover.Served {
	t.Helper()
	dir, err := os.MkdirTemp("", "qemu") // t.TempDir can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "disks")
	var disks []failover.Served
	var exports []nbd.Export
	for i, c := range contents {
		name := fmt.Sprintf("virtio-disk, number %d", i)
		over, err := overlay.Temporary(dir, recovery.Disk{Origin: recovery.Origin{Name: name}, Image: &recoverytest.Disk{Data: c}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { over.Close() })
		exports = append(exports, nbd.Export{Name: name, Image: over})
		disks = append(disks, failover.Served{Name: name, Size: int64(len(c)), Socket: socket, Export: name, SectorSize: 512, Loader: c[0] != 0})
	}
	server, err := nbd.New(exports, nbd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := nbd.Listen("unix:"+socket, false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return disks
}

// replica is a small machine with these disks, and is gone at the end of the test.
func replica(t *testing.T, c *Compute, disks []failover.Served) failover.Replica {
	t.Helper()
	dir, err := os.MkdirTemp("", "replica") // as above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(context.Background(), dir); err != nil {
			t.Error(err)
		}
		if left := daemon.Find(mark(dir), c.name()); len(left) > 0 {
			t.Errorf("processes are left: %v", left)
		}
		if err := os.Remove(dir); err != nil { // it must be empty
			t.Error(err)
		}
	})
	return failover.Replica{ID: "0123456789ab", Name: "web1, the first", Dir: dir, Disks: disks, Hardware: failover.Hardware{
		Firmware: failover.BIOS, Memory: 64 * mib, CPUs: 1, Bus: failover.VirtioBlk, Cards: []failover.Card{{MAC: "52:54:00:12:34:56"}},
		Network: failover.Isolated, Forward: []int{22}}}
}

// emulator is qemu as it runs everywhere. Without it these tests prove nothing.
func emulator(t *testing.T) *Compute {
	t.Helper()
	c := New(Options{Emulate: true})
	if c.missing != nil {
		t.Fatal(c.missing, ": scripts/setup.sh test")
	}
	return c
}

func boot(t *testing.T, c *Compute, r failover.Replica) failover.Powered {
	t.Helper()
	p, err := c.Boot(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// untilSays waits for a text on the replica's serial line.
func untilSays(t *testing.T, c *Compute, dir, text string) {
	t.Helper()
	var last failover.Sight
	for end := time.Now().Add(3 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		s, err := c.Look(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		if last = s; strings.Contains(s.Console, text) {
			return
		}
	}
	t.Fatalf("it does not say %q: %+v", text, last)
}

func TestBootsFromEveryBus(t *testing.T) {
	c := emulator(t)
	for _, bus := range failover.Buses {
		t.Run(string(bus), func(t *testing.T) {
			// A disk without a boot loader comes first.
			r := replica(t, c, served(t, make([]byte, mib), bootSector("web1 login: ")))
			r.Bus = bus
			boot(t, c, r)
			untilSays(t, c, r.Dir, "web1 login: ")
		})
	}
}

// TestManyDisksOnEveryBus: qemu takes them all, in their order.
func TestManyDisksOnEveryBus(t *testing.T) {
	c := emulator(t)
	disks := [][]byte{bootSector("the first")}
	for range 6 {
		disks = append(disks, bootSector("another"))
	}
	for _, bus := range failover.Buses {
		t.Run(string(bus), func(t *testing.T) {
			r := replica(t, c, served(t, disks...))
			r.Bus = bus
			if bus == failover.IDE {
				if _, err := c.Boot(t.Context(), r); err == nil || !strings.Contains(err.Error(), "takes four") {
					t.Error(err)
				}
				return
			}
			boot(t, c, r)
			untilSays(t, c, r.Dir, "the first")
		})
	}
}

// TestSectorsOf4KiB: no ATA disk has them; the replica's have all the same.
func TestSectorsOf4KiB(t *testing.T) {
	c := emulator(t)
	r := replica(t, c, served(t, make([]byte, mib)))
	r.Bus, r.Disks[0].SectorSize = failover.SATA, 4096
	p := boot(t, c, r)
	var found []struct {
		Device string `json:"device"`
		Qdev   string `json:"qdev"`
	}
	if err := command(t.Context(), p.Control, "query-block", nil, &found); err != nil || len(found) == 0 {
		t.Fatal(found, err)
	}
	var size int
	if err := command(t.Context(), p.Control, "qom-get", map[string]any{"path": "/machine/peripheral/drive0", "property": "logical_block_size"}, &size); err != nil || size != 4096 {
		t.Errorf("sectors of %d bytes, %v", size, err)
	}
}

// TestReplicaIsFoundAgain by a control plane that knows nothing but its directory.
func TestReplicaIsFoundAgain(t *testing.T) {
	c := emulator(t)
	r := replica(t, c, served(t, bootSector("web1 login: ")))
	first := boot(t, c, r)
	if !slices.Contains(daemon.Find(mark(r.Dir), c.name()), first.PID) {
		t.Errorf("process %d is none of %v", first.PID, daemon.Find(mark(r.Dir), c.name()))
	}
	again := boot(t, New(Options{Emulate: true}), r)
	if again.PID != first.PID || again.Ports["22"] != first.Ports["22"] || again.Since.IsZero() {
		t.Errorf("%+v, and before %+v", again, first)
	}
	untilSays(t, c, r.Dir, "web1 login: ")
	shot, err := c.Screenshot(t.Context(), r.Dir)
	if err != nil {
		t.Fatal(err)
	}
	screen, err := png.Decode(bytes.NewReader(shot))
	if err != nil || screen.Bounds().Dx() < 320 {
		t.Fatal(screen, err)
	}
	// The host reaches the forwarded port, and nobody behind qemu answers.
	conn, err := net.DialTimeout("tcp", first.Ports["22"], 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()

	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range 100 {
		var s failover.Sight
		if s, err = c.Look(t.Context(), r.Dir); err != nil || !s.Running {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if s, err := c.Look(t.Context(), r.Dir); err != nil || s.Running {
		t.Errorf("it was killed and is said to run: %+v, %v", s, err)
	}
	if next := boot(t, c, r); next.PID == first.PID || next.PID == 0 {
		t.Errorf("powered on again it is process %d, was %d", next.PID, first.PID)
	}
}

func TestUEFIHasItsOwnVariables(t *testing.T) {
	c := emulator(t)
	if c.uefi != nil {
		t.Fatal(c.uefi, ": scripts/setup.sh test")
	}
	r := replica(t, c, served(t, make([]byte, mib)))
	r.Firmware, r.Memory = failover.UEFI, 256*mib
	boot(t, c, r)
	vars, err := os.ReadFile(filepath.Join(r.Dir, varsName))
	if err != nil || len(vars) == 0 {
		t.Fatal(len(vars), err)
	}
	// The firmware works once it has drawn something, or told of a boot on the serial line.
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(time.Second) {
		s, err := c.Look(t.Context(), r.Dir)
		if err != nil || !s.Running || time.Now().After(end) {
			t.Fatalf("no sign of UEFI: %+v, %v", s, err)
		}
		if strings.Contains(s.Console, "UEFI") || strings.Contains(s.Console, "BdsDxe") {
			return
		}
	}
}

func TestWhatQemuSaysAgainstAMachineIsTold(t *testing.T) {
	c := emulator(t)
	r := replica(t, c, []failover.Served{{Name: "a", Socket: "/nowhere/disks", Export: "a"}})
	_, err := c.Boot(t.Context(), r)
	if err == nil || !strings.Contains(err.Error(), "/nowhere/disks") {
		t.Errorf("%v does not say what is missing", err)
	}
}

// TestArguments: what must never be left out.
func TestArguments(t *testing.T) {
	c := &Compute{emulate: true, code: "/code"}
	r := failover.Replica{ID: "0123456789ab", Name: "a,b", Dir: "/r", Disks: []failover.Served{{Name: "wwn-0x5000c500a1b2c3d4e5f6", Socket: "/s", Export: "e"}},
		Hardware: failover.Hardware{Firmware: failover.BIOS, Memory: 1 << 30, CPUs: 2, Bus: failover.SATA, Forward: []int{22, 443}, Network: failover.Isolated,
			Cards: []failover.Card{{MAC: "52:54:00:12:34:56", Virtio: true}, {MAC: "no,address=1"}}}}
	line := func() string {
		args, err := c.arguments(r, map[string]string{"22": "127.0.0.1:1", "443": "127.0.0.1:2"})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(args, " ")
	}
	isolated := line()
	for _, want := range []string{
		"guest=a,,b", "type=11,value=understudy-replica=0123456789ab", "virtio-net-pci,netdev=net0,romfile=,mac=52:54:00:12:34:56",
		"restrict=on,hostfwd=tcp:127.0.0.1:1-:22,hostfwd=tcp:127.0.0.1:2-:443", "name=org.understudy.heartbeat", `"serial":"5000c500a1b2c3d4e5f6"`, "spawn=deny",
	} {
		if !strings.Contains(isolated, want) {
			t.Errorf("%s is missing in %s", want, isolated)
		}
	}
	if strings.Count(isolated, "restrict=on") != 2 || strings.Contains(isolated, "address=1") {
		t.Errorf("a card that is not isolated, or an address that is none: %s", isolated)
	}
	r.Network = failover.User
	if strings.Contains(line(), "restrict") {
		t.Error("a network that was wanted is restricted")
	}
}
