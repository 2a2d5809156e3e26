package capture

import (
	"io"
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// envDisks names disks that these tests may overwrite, by path, with commas: real
// ones, or those of a virtual machine. They are read into memory: small ones.
// If envStack names a device stacked on them (md, LVM), the writes go there.
const (
	envDisks = "UNDERSTUDY_TEST_DISKS"
	envStack = "UNDERSTUDY_TEST_STACK"
)

func scratchDisks(t *testing.T) []Disk {
	t.Helper()
	needRoot(t)
	if os.Getenv(envDisks) == "" {
		t.Skipf("%s names no disks to overwrite", envDisks)
	}
	var disks []Disk
	for path := range strings.SplitSeq(os.Getenv(envDisks), ",") {
		d, err := Resolve(path)
		must(t, err)
		disks = append(disks, d)
	}
	return disks
}

// TestRealDisks: what holds for loop devices holds for these.
func TestRealDisks(t *testing.T) {
	disks := scratchDisks(t)
	s := tracking(t, 256<<20, disks...)
	must(t, s.Barrier(t.Context()))
	r := newReplica(disks...)
	for _, d := range disks {
		copy(r.images[d.ID], readDisk(t, d))
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); r.follow(t, s, stop) }()
	for i, d := range writable(t, disks) {
		t.Logf("writing %+v", d)
		scribbleReal(t, d, uint64(i))
	}
	must(t, s.Barrier(t.Context()))
	close(stop)
	<-done
	for _, d := range disks {
		r.equal(t, d)
	}
	h := reasonIs(t, s, "")
	for _, d := range h.Disks {
		if d.Submitted != d.Issued && d.Audit != AuditImpossible {
			t.Errorf("submitted and issued differ: %+v", d)
		}
	}
}

func writable(t *testing.T, disks []Disk) []Disk {
	path := os.Getenv(envStack)
	if path == "" {
		return disks
	}
	f, err := os.Open(path)
	must(t, err)
	defer func() { _ = f.Close() }()
	size, err := f.Seek(0, io.SeekEnd)
	must(t, err)
	return []Disk{{Path: path, Size: size}}
}

// scribbleReal leaves out discards: a real disk need not read zeros there.
func scribbleReal(t *testing.T, d Disk, seed uint64) {
	t.Helper()
	noDiscards.Store(d.Path, true)
	scribble(t, d, 2, 200, seed)
}

// TestPassthroughIsSeen: commands that go around the block layer's writes put the
// whole disk in doubt, reads do not.
func TestPassthroughIsSeen(t *testing.T) {
	for _, d := range scratchDisks(t) {
		commands := map[string]func(f *os.File) error{}
		switch {
		case strings.HasPrefix(d.Path, "/dev/nvme"):
			commands["write"] = func(f *os.File) error { return nvmeCommand(f, 0x01, true) }
			commands["write zeroes"] = func(f *os.File) error { return nvmeCommand(f, 0x08, false) }
		case strings.HasPrefix(d.Path, "/dev/sd"):
			commands["write(10)"] = scsiWrite
		default:
			continue
		}
		s := tracking(t, 1<<20, d)
		f := openDirect(t, d.Path)
		if strings.HasPrefix(d.Path, "/dev/nvme") {
			must(t, nvmeCommand(f, 0x02, true))
		}
		reasonIs(t, s, "")
		for name, command := range commands {
			t.Logf("%s on %s", name, d.Path)
			must(t, command(f))
			reasonIs(t, s, PassthroughWrite)
			lostNow(t, s)
			wholly(t, s, d)
			rearm(t, s)
		}
		must(t, f.Close())
		must(t, s.Remove())
	}
}

// nvmeCommand sends an I/O command for the first block, with data or without.
func nvmeCommand(f *os.File, opcode uint8, data bool) error {
	const nvmeIoctlIOCmd = 0xc0484e43
	buf := aligned(4096)
	cmd := struct {
		opcode, flags        uint8
		_                    uint16
		nsid, cdw2, cdw3     uint32
		metadata             uint64
		addr                 uint64
		metadataLen, dataLen uint32
		cdw10, cdw11, cdw12  uint32
		cdw13, cdw14, cdw15  uint32
		timeoutMS, result    uint32
	}{opcode: opcode, nsid: 1}
	if data {
		cmd.addr, cmd.dataLen = uint64(uintptr(unsafe.Pointer(&buf[0]))), 512
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), nvmeIoctlIOCmd, uintptr(unsafe.Pointer(&cmd))); errno != 0 {
		return errno
	}
	return nil
}

// scsiWrite writes the first block by SG_IO.
func scsiWrite(f *os.File) error {
	const sgIO, toDevice = 0x2285, -2
	buf, sense := aligned(4096), make([]byte, 32)
	cdb := []byte{0x2a, 0, 0, 0, 0, 0, 0, 0, 1, 0}
	hdr := struct {
		interfaceID, direction int32
		cmdLen, maxSense       uint8
		iovecs                 uint16
		dataLen                uint32
		data, cdb, sense       unsafe.Pointer
		timeoutMS, flags       uint32
		packID                 int32
		user                   unsafe.Pointer
		status                 [4]uint8
		hostStatus, driver     uint16
		residual               int32
		duration, info         uint32
	}{interfaceID: 'S', direction: toDevice, cmdLen: uint8(len(cdb)), maxSense: uint8(len(sense)), dataLen: 512,
		data: unsafe.Pointer(&buf[0]), cdb: unsafe.Pointer(&cdb[0]), sense: unsafe.Pointer(&sense[0]), timeoutMS: 5000}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), sgIO, uintptr(unsafe.Pointer(&hdr))); errno != 0 {
		return errno
	}
	return nil
}
