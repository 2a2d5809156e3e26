package guest

import (
	"os"
	"path/filepath"
	"strings"
)

// files are what a guest has of ours, by path, besides its keys.
func files(r Recipe) map[string]string {
	all := map[string]string{
		"etc/hostname": "guest\n",
		"etc/hosts":    "127.0.0.1 localhost guest\n",
		"etc/fstab":    "LABEL=root / " + r.Root + " defaults 0 1\n",
		// Whatever its card is called: a replica may wake up with another one. A network
		// manager would cost seconds of every boot.
		"etc/systemd/system/guest-network.service": "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sh -c 'until cd /sys/class/net/e* 2>/dev/null; do sleep 0.2; done; " +
			"ip link set lo up; ip address add 10.0.2.15/24 dev $${PWD##*/}; ip link set $${PWD##*/} up'\n[Install]\nWantedBy=sysinit.target\n",
		"etc/ssh/sshd_config": "HostKey /etc/ssh/host_key\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nUseDNS no\nMaxSessions 64\nSubsystem sftp internal-sftp\n",
		// Only what it takes to find the root, on each kind of disk that qemu and the
		// usual hypervisors offer: all modules make an initramfs that TCG unpacks for
		// seconds, and btrfs measures its parity functions first.
		"etc/initramfs-tools/conf.d/guest": "MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=1\nRESUME=none\n",
		"etc/initramfs-tools/modules":      "virtio_pci\nvirtio_blk\nvirtio_scsi\nvirtio_net\nsd_mod\nnvme\nahci\nata_piix\n" + r.Root + "\n",
	}
	if r.Loader {
		all["boot/grub/grub.cfg"] = loaderMenu
	}
	return all
}

// finish runs in the guest's tree when all files are there.
func finish(r Recipe) string {
	if r.Loader { // who boots it by itself looks for its login
		return strings.Replace(setUp, logins, "", 1)
	}
	return setUp
}

const logins = "getty@tty1.service serial-getty@ttyS0.service getty-static.service getty.target "

const setUp = `
systemctl -q enable guest-network ssh
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
	` + logins + `systemd-pstore.service systemd-firstboot.service \
	systemd-binfmt.service proc-sys-fs-binfmt_misc.automount systemd-update-utmp.service systemd-update-utmp-runlevel.service \
	systemd-sysusers.service systemd-networkd.service systemd-tmpfiles-clean.timer dev-hugepages.mount dev-mqueue.mount \
	modprobe@dm_mod.service modprobe@fuse.service modprobe@loop.service modprobe@drm.service modprobe@efi_pstore.service systemd-repart.service; do
	systemctl -q mask $unit
done
rm -f /etc/ssh/ssh_host_*
: >/etc/machine-id # each guest makes its own, and asks nothing
update-initramfs -u -k all
`

// slimming keeps out of the tree what no test reads.
var slimming = []string{"/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*"}

func writeFiles(tree string, all map[string]string) error {
	for name, text := range all {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
