package guest

import (
	"fmt"
	"strconv"
	"strings"
)

// kernelLine is for a boot that is short under TCG: modules that look for hardware which
// the processor only claims to have cost seconds. A panic ends in a reboot. Code is always
// at the same place: Retranslate knows it.
const kernelLine = "root=LABEL=root rw console=ttyS0 quiet loglevel=4 net.ifnames=0 panic=1 nokaslr mitigations=off cryptomgr.notests systemd.show_status=0 " +
	"modprobe.blacklist=kvm_amd,kvm_intel,kvm,powernow_k8,psmouse,bochs,i2c_piix4,parport_pc,floppy,serio_raw,evdev,qemu_fw_cfg," +
	"aesni_intel,ghash_clmulni_intel,crct10dif_pclmul,crc32_pclmul,sha1_ssse3,sha256_ssse3,sha512_ssse3,ata_generic"

func (g *Guest) arguments(o Options, disks []Disk) []string {
	memory := o.Memory
	if memory == 0 {
		memory = 1024 * mib
	}
	args := []string{
		"-name", o.Name, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", strconv.FormatInt(memory/mib, 10) + "M",
		"-nodefaults", "-display", "none", "-vga", "std",
		"-chardev", "file,id=console,append=on,path=" + g.console, "-serial", "chardev:console",
		"-qmp", "unix:" + g.socket + ",server=on,wait=off",
		"-object", "rng-random,id=random,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=random",
		"-kernel", o.Image.Kernel(), "-initrd", g.initrd, "-append", strings.Join(strings.Fields(kernelLine+" "+o.Image.Recipe.line()+" "+o.Append), " "),
		"-netdev", network(g.addr, o.Reach), "-device", "virtio-net-pci,netdev=net0,id=card0",
		"-device", "virtio-scsi-pci,id=scsi0",
		"-device", "virtio-serial-pci", "-chardev", "file,id=lines,append=on,path=" + g.lines,
		"-device", "virtserialport,chardev=lines,name=lines",
	}
	if o.Cable != "" {
		args = append(args, o.cable()...)
	}
	for i, d := range disks {
		args = append(args, d.arguments(i)...)
	}
	return args
}

// cable: two cards of one wire need two addresses.
func (o Options) cable() []string {
	end, mac := "connect", "52:54:00:00:01:02"
	if o.Socket {
		end, mac = "listen", "52:54:00:00:01:01"
	}
	return []string{
		"-netdev", fmt.Sprintf("socket,id=net1,%s=%s", end, o.Cable),
		"-device", "virtio-net-pci,netdev=net1,mac=" + mac,
	}
}

// network refuses everything but ssh from the host and what may be reached, where qemu
// starts a netcat for each connection.
func network(ssh string, reach []string) string {
	n := fmt.Sprintf("user,id=net0,restrict=on,ipv6=off,hostfwd=tcp:%s-:22", ssh)
	for _, addr := range reach {
		n += fmt.Sprintf(",guestfwd=tcp:%s:%s-cmd:nc -N 127.0.0.1 %[2]s", Host, port(addr))
	}
	return n
}

// arguments: qemu takes a write into the host's page cache at once, and a flush does
// nothing, since that cache outlives a guest. What a power cut takes is said there.
func (d Disk) arguments(i int) []string {
	drive := fmt.Sprintf("drive%d", i)
	device := map[Bus]string{
		"":         "virtio-blk-pci",
		VirtioBlk:  "virtio-blk-pci",
		VirtioSCSI: "scsi-hd,bus=scsi0.0",
		NVMe:       "nvme",
	}[d.Bus]
	return []string{
		"-drive", fmt.Sprintf("file=%s,if=none,id=%s,format=raw,cache=unsafe,discard=unmap,detect-zeroes=off", d.File, drive),
		"-device", fmt.Sprintf("%s,drive=%s,serial=%s", device, drive, d.Name),
	}
}
