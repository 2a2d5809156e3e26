//go:build testbed

package testbed

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/pkg/block"
	"github.com/understudy-dr/understudy/testbed/guest"
	"github.com/understudy-dr/understudy/testbed/lab"
)

// packaged are the files of the agent's package that a root disk needs, by their place.
var packaged = map[string]string{
	"/usr/lib/systemd/system/understudy-agent.service":                   "units/understudy-agent.service",
	"/usr/lib/systemd/system/understudy-agent-early.service":             "units/understudy-agent-early.service",
	"/usr/lib/systemd/system-shutdown/understudy-agent":                  "agent/early/system-shutdown",
	"/usr/share/initramfs-tools/hooks/understudy-agent":                  "agent/early/initramfs-hook",
	"/usr/share/initramfs-tools/scripts/local-premount/understudy-agent": "agent/early/initramfs-premount",
	"/usr/lib/dracut/modules.d/90understudy-agent/module-setup.sh":       "agent/early/dracut/module-setup.sh",
	"/usr/lib/dracut/modules.d/90understudy-agent/early.sh":              "agent/early/dracut/early.sh",
}

// Who makes a guest's initramfs, and puts it where the rig takes it from.
const (
	byInitramfsTools = "update-initramfs -u; cp -L /initrd.img /root/initrd; sync"
	byDracut         = "dracut --quiet --force --hostonly --compress 'zstd -1' /root/initrd $(uname -r); sync"
)

// rootSetup makes the workload's disk and the agent's options. Free space is zeros on the
// disk afterwards, so that nearly all of it can be compared.
const rootSetup = `
mkdir -p /srv/data
echo 'LABEL=data /srv/data ext4 defaults 0 2' >>/etc/fstab
echo 'UNDERSTUDY_AGENT_OPTS="--transport tcp --spill-bytes 33554432 --memory-bytes 16777216 --ring-bytes 33554432"' >/etc/default/understudy-agent
mkdir -p /etc/systemd/system/understudy-agent.service.d
printf '[Service]\nStandardError=append:/var/log/agent.log\n' >/etc/systemd/system/understudy-agent.service.d/log.conf
cat >/etc/systemd/system/load.service <<END
[Unit]
RequiresMountsFor=/srv/data
[Service]
ExecStart=/usr/local/bin/load -ledger ` + guest.LinesPort + ` -seed 8 -pause 500ms data=ext4=/srv/data
StandardError=append:/var/log/load.log
[Install]
WantedBy=multi-user.target
END
mkfs.ext4 -q -L data /dev/vdb
systemctl daemon-reload
systemctl enable -q understudy-agent understudy-agent-early load
mount /srv/data
rm -rf /var/cache/apt /var/lib/apt/lists
sync
fstrim /
systemctl start load
`

// protectedRoot is a guest with its root disk and a data disk protected, the agent's
// package installed, and its workload going on.
func protectedRoot(t *testing.T) *guestRig {
	t.Helper()
	return protectedRootOf(t, oneDisk())
}

func protectedRootOf(t *testing.T, k guestKind) *guestRig {
	t.Helper()
	k.line = "loglevel=6" // what the shutdown's hook says goes to the console
	r := bootGuest(t, k)
	r.patience = 20 // the first copy is of all that a Debian has
	r.putPackage()
	r.run(rootSetup)
	initrd, err := r.initramfs(rootSetup)
	r.must(err)
	r.must(r.guest.SetInitrd(initrd))
	r.enrol("understudy-agent")
	r.disks = []*lab.Disk{{Name: "data", FS: lab.Ext4, Device: "/dev/vdb"}}
	r.root = &lab.Disk{Name: "root", Device: "/dev/vda"}
	r.must(r.machine.SetRPO(t.Context(), 3*time.Second))
	r.must(r.machine.Protect(t.Context(), r.disks[0], r.root))
	r.untilProtected()
	return r
}

// putPackage puts the files of the agent's package where it would.
func (r *guestRig) putPackage() {
	r.t.Helper()
	for place, file := range packaged {
		r.must(r.guest.Put(r.t.Context(), filepath.Join("../installer/linux", file), place))
	}
	r.must(r.guest.Put(r.t.Context(), filepath.Join(r.bin, "understudy-agent"), "/usr/bin/understudy-agent"))
}

// initramfs has the guest make its initramfs anew, with the agent, and gives the file. That
// takes an emulated machine minutes, and gives the same for the same agent, image and
// script that wrote the agent's options: it is kept beside the image.
func (r *guestRig) initramfs(setup string) (string, error) {
	h := sha256.New()
	makes := cmp.Or(r.kind.initramfs, byInitramfsTools)
	goIn := []string{"initramfs-hook", "initramfs-premount"}
	if makes == byDracut {
		goIn = []string{"dracut/module-setup.sh", "dracut/early.sh"}
	}
	for i, file := range goIn {
		goIn[i] = filepath.Join("../installer/linux/agent/early", file)
	}
	for _, file := range append(goIn, filepath.Join(r.bin, "understudy-agent")) {
		b, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		h.Write(b)
	}
	fmt.Fprint(h, makes, setup) // has the options, which go in, too
	kept := filepath.Join(r.image.Dir, fmt.Sprintf("initrd-%x", h.Sum(nil)[:8]))
	if _, err := os.Stat(kept); errors.Is(err, fs.ErrNotExist) {
		r.run(makes)
		if err := errors.Join(r.guest.Get(r.t.Context(), "/root/initrd", kept+".part"), os.Rename(kept+".part", kept)); err != nil {
			return "", err
		}
	}
	return kept, nil
}

func copyFile(from, to string) error {
	out, err := exec.Command("cp", "--sparse=always", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// off shuts the machine down, and returns when that was and what its disks hold.
func (r *guestRig) off() (at time.Time, disks map[string]string) {
	r.t.Helper()
	r.must(r.guest.Shutdown(r.t.Context()))
	return time.Now(), r.asTheyAre()
}

// asTheyAre are copies of the disks of a machine that is off.
func (r *guestRig) asTheyAre() map[string]string {
	r.t.Helper()
	disks := map[string]string{}
	for name, file := range r.guest.Disks {
		disks[name] = r.Path(fmt.Sprintf("off-%s-%d", name, time.Now().UnixNano()))
		r.must(copyFile(file, disks[name]))
	}
	return disks
}

// wantSame fails if the newest point of that moment is not what the disks held then, but
// for where the journal lies, and what lay in free space before protection.
func (r *guestRig) wantSame(at time.Time, disks map[string]string, journal []extent) {
	r.t.Helper()
	point := r.wantSameAt(at.Format(time.RFC3339Nano), disks, journal, lab.SameBut)
	r.t.Logf("point of %s for the stop before %s", point.Format("15:04:05.000"), at.Format("15:04:05.000"))
}

// wantSameAt is wantSame for any point, and returns its time.
func (r *guestRig) wantSameAt(point string, disks map[string]string, journal []extent, same func(source, replica string, free *block.Set) error) time.Time {
	r.t.Helper()
	got := r.recover(point)
	files, err := got.Files([]*lab.Disk{r.disks[0], r.root})
	r.must(err)
	r.must(errors.Join(blank(disks["root"], journal), blank(files["root"], journal)))
	for name, file := range files {
		if err := same(disks[name], file, r.free(disks[name], name == "root")); err != nil {
			r.t.Errorf("disk %s: %v", name, err)
		}
		r.must(os.Remove(disks[name]))
	}
	r.must(os.RemoveAll(got.Dir))
	return got.Point.Time
}

// free is where the file system of a disk that is off has nothing: what was removed before
// protection is not in a replica.
func (r *guestRig) free(file string, partitioned bool) *block.Set {
	r.t.Helper()
	const first = 1 << 20 // where the root's partition begins
	d := lab.Disk{FS: lab.Ext4, Device: file}
	if partitioned && r.kind.recipe.Under != "" {
		return block.NewSet() // of a file system on a volume nothing is left out
	}
	if !partitioned {
		free, err := d.Free(r.t.Context())
		r.must(err)
		return free
	}
	d.FS = cmp.Or(r.kind.recipe.Root, guest.Ext4)
	out, err := exec.CommandContext(r.t.Context(), "losetup", "--find", "--show", "--read-only", "--offset", strconv.Itoa(first), file).CombinedOutput()
	d.Device = strings.TrimSpace(string(out))
	if err != nil {
		r.t.Fatalf("losetup: %v: %s", err, out)
	}
	within, err := d.Free(r.t.Context())
	r.must(errors.Join(err, exec.Command("losetup", "--detach", d.Device).Run()))
	free := block.NewSet()
	for e := range within.All() {
		free.Add(block.Extent{Off: first + e.Off, Len: e.Len})
	}
	return free
}

// extent is a stretch of a disk, bytes.
type extent struct{ off, size int64 }

// rootBegins says at which sector of its disk the root's file system begins, by adding up
// what it lies on.
const rootBegins = `
dev=$(readlink -f "$(findmnt -no SOURCE /)") at=0
while :; do
	case $(lsblk -dno TYPE "$dev") in
	disk) break ;;
	part)
		at=$((at + $(cat "/sys/class/block/${dev##*/}/start")))
		dev=/dev/$(lsblk -dno PKNAME "$dev")
		;;
	lvm) # 0 4186112 linear 254:1 2048
		set -- $(dmsetup table "$dev")
		[ $# = 5 ]
		at=$((at + $5)) dev=$(readlink -f "/dev/block/$4")
		;;
	crypt) # 0 4159488 crypt aes-xts-plain64 KEY 0 254:1 32768 1 allow_discards
		set -- $(dmsetup table "$dev")
		at=$((at + $8)) dev=$(readlink -f "/dev/block/$7")
		;;
	*) exit 1 ;;
	esac
done
echo $at
`

// journalExtents asks the guest's file system where the journal lies on the root's disk,
// by a tool that is not ours.
func (r *guestRig) journalExtents() (all []extent) {
	r.t.Helper()
	start, err := strconv.ParseInt(r.run(rootBegins), 10, 64)
	r.must(err)
	//  0:        0..   16383:      98304..    114687:  16384:             last,eof
	for _, line := range strings.Split(r.run("filefrag -v -b4096 /var/lib/understudy-agent/spill.hrl"), "\n") {
		f := strings.FieldsFunc(line, func(c rune) bool { return c == ':' || c == '.' || c == ' ' })
		if len(f) < 6 {
			continue
		}
		if _, err := strconv.Atoi(f[0]); err != nil {
			continue
		}
		at, errAt := strconv.ParseInt(f[3], 10, 64)
		n, errN := strconv.ParseInt(f[5], 10, 64)
		if errAt == nil && errN == nil {
			all = append(all, extent{start*512 + at*4096, n * 4096})
		}
	}
	if len(all) == 0 {
		r.t.Fatal("the journal lies nowhere")
	}
	return all
}

// blank makes zeros of what nobody compares.
func blank(file string, extents []extent) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	for _, e := range extents {
		_, errW := f.WriteAt(make([]byte, e.size), e.off)
		err = errors.Join(err, errW)
	}
	return errors.Join(err, f.Sync(), f.Close())
}
