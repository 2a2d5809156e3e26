#!/bin/bash
# Runs the tests of agent/capture on Debian's kernels: boots each in qemu with the
# test binary in its initramfs, a virtio disk for temporary files, and an NVMe and a
# SCSI disk that the tests may overwrite.
#
#   scripts/kernels.sh [-run REGEXP] [-raid] [RELEASE...]
#
# -raid puts the writes to the two disks through an md raid0 on their partitions.
# Needs root and: apt-get install qemu-system-x86 cpio kmod xz-utils mdadm xfsprogs
# Downloads kernels (apt, from their own suites) into .cache/kernels.
set -euo pipefail
cd "$(dirname "$0")/.."

run=. raid=
while [ $# -gt 0 ]; do
	case $1 in
	-run) run=$2; shift 2 ;;
	-raid) raid=1; shift ;;
	*) break ;;
	esac
done
releases=${*:-"5.10 6.1 6.12 7"}
cache=$PWD/.cache/kernels
mirror=http://deb.debian.org

# suite_of RELEASE: where Debian keeps it.
suite_of() {
	case $1 in
	5.10*) echo bullseye ;;
	6.1 | 6.1.*) echo bookworm ;;
	6.12*) echo trixie ;;
	*) echo sid ;;
	esac
}

apt_in() {
	local suite=$1
	shift
	local dir=$cache/apt/$suite
	if [ ! -e "$dir/updated" ]; then
		mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror/debian $suite main" >"$dir/sources.list"
		printf 'Dir::Etc::sourcelist "%s";\nDir::Etc::sourceparts "/dev/null";\nDir::State::lists "%s";\nDir::Cache "%s";\n' \
			"$dir/sources.list" "$dir/lists" "$dir/cache" >"$dir/apt.conf"
		apt-get -c "$dir/apt.conf" -qq update
		touch "$dir/updated"
	fi
	"$1" -c "$dir/apt.conf" "${@:2}"
}

# fetch RELEASE: unpacks the newest kernel of that release, prints its directory.
fetch() {
	local release=$1 suite name dir
	suite=$(suite_of "$release")
	name=$(apt_in "$suite" apt-cache search --names-only "^linux-image-${release//./\\.}[.-].*-cloud-amd64\$" |
		cut -d' ' -f1 | grep -v deb1[0-2] | sort -V | tail -1)
	dir=$cache/$release
	if [ ! -e "$dir/$name" ]; then
		rm -rf "$dir" && mkdir -p "$dir/deb" "$dir/tree"
		local packages="$name busybox-static"
		# From 7.0 image and modules come in packages of their own.
		if apt_in "$suite" apt-cache show "${name/image/modules}" >/dev/null 2>&1; then
			packages="$packages ${name/image/modules} ${name/image/binary}"
		fi
		(cd "$dir/deb" && apt_in "$suite" apt-get -qq download $packages 2>/dev/null)
		for d in "$dir"/deb/*.deb; do dpkg-deb -x "$d" "$dir/tree"; done
		[ ! -d "$dir/tree/lib" ] || cp -a "$dir/tree/lib" "$dir/tree/usr/" # before the merge of /usr
		[ ! -d "$dir/tree/bin" ] || cp -a "$dir/tree/bin" "$dir/tree/usr/"
		touch "$dir/$name"
	fi
	echo "$dir"
}

# copy_tool ROOT NAME: a program of this host with its libraries.
copy_tool() {
	local path
	path=$(readlink -f "$(command -v "$2")")
	cp "$path" "$1/sbin/$2"
	ldd "$path" | grep -o '/[^ ]*' | while read -r lib; do
		mkdir -p "$1$(dirname "$lib")" && cp -Ln "$lib" "$1$lib" 2>/dev/null || true
	done
}

# initramfs DIR: everything but the command and the test binary.
initramfs() {
	local dir=$1 root=$1/root modules release parts
	modules=$(echo "$dir"/tree/usr/lib/modules/*)
	release=$(basename "$modules")
	rm -rf "$root" && mkdir -p "$root"/{bin,sbin,dev,proc,sys,tmp,etc,run,lib/modules/"$release"}
	cp "$dir/tree/usr/bin/busybox" "$root/bin/"
	for applet in sh mount mkdir ls cat modprobe poweroff sleep echo dmesg fdisk printf uname; do
		ln -sf busybox "$root/bin/$applet"
	done
	parts=$(cd "$modules" && ls -d kernel/drivers/{block,md,scsi,nvme,virtio} kernel/fs/{ext4,xfs,jbd2,fuse,mbcache.ko*} kernel/{lib,crypto,arch} 2>/dev/null || true)
	# shellcheck disable=SC2086 # several names
	tar -C "$modules" -c $parts | tar -C "$root/lib/modules/$release" -x
	find "$root/lib/modules" -name '*.xz' -exec xz -d {} +
	cp "$modules"/modules.{order,builtin,builtin.modinfo} "$root/lib/modules/$release/"
	depmod -b "$root" "$release"
	for tool in mkfs.ext4 e2fsck mkfs.xfs xfs_repair mdadm; do copy_tool "$root" "$tool"; done
	cat >"$root/init" <<'INIT'
#!/bin/sh
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm && mount -t tmpfs -o size=60% shm /dev/shm
mount -t securityfs security /sys/kernel/security
for m in loop ext4 xfs fuse virtio_pci virtio_blk virtio_scsi sd_mod nvme md-mod raid0; do modprobe -q $m; done
mkfs.ext4 -q -F /dev/vda && mount /dev/vda /tmp
uname -a
. /command
poweroff -f
INIT
	chmod +x "$root/init"
}

CGO_ENABLED=0 go test -c -o "$cache/capture.test" ./agent/capture
command='export UNDERSTUDY_TEST_DISKS=/dev/nvme0n1,/dev/sda
'
if [ -n "$raid" ]; then
	command+='for d in sda nvme0n1; do printf "n\np\n1\n\n\nw\n" | fdisk /dev/$d >/dev/null; done
mdadm --create /dev/md0 --run --metadata=1.2 --level=0 --raid-devices=2 --chunk=64 /dev/sda1 /dev/nvme0n1p1
export UNDERSTUDY_TEST_STACK=/dev/md0
'
fi
command+="/capture.test -test.v -test.run '$run' && echo ALL PASSED"

status=0
for release in $releases; do
	dir=$(fetch "$release")
	[ -e "$dir/root/init" ] || initramfs "$dir"
	kernel=$(find "$dir/tree" -name 'vmlinuz*' | head -1)
	box=$(mktemp -d)
	echo "$command" >"$box/command"
	cp "$cache/capture.test" "$box/"
	(cd "$dir/root" && find . | cpio -o -H newc --quiet) >"$box/initrd"
	(cd "$box" && printf 'command\ncapture.test\n' | cpio -o -H newc --quiet) >>"$box/initrd"
	truncate -s 8G "$box/vda"
	truncate -s 64M "$box/nvme" "$box/scsi"
	# Not KVM: nested in a virtual machine it may not run every kernel.
	qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 4G -nographic -nodefaults -serial stdio -no-reboot \
		-kernel "$kernel" -initrd "$box/initrd" -append "console=ttyS0 quiet panic=-1" \
		-drive file="$box/vda",if=virtio,format=raw,cache=unsafe \
		-drive file="$box/nvme",if=none,id=n,format=raw -device nvme,drive=n,serial=nvme0 \
		-device virtio-scsi-pci -drive file="$box/scsi",if=none,id=s,format=raw -device scsi-hd,drive=s,serial=scsi0 \
		| tee "$cache/$release.log" | grep -a 'Linux\|^ *--- \|^FAIL\|PASSED' || true
	rm -rf "$box"
	grep -qa 'ALL PASSED' "$cache/$release.log" || { echo "kernels: $release: see $cache/$release.log" >&2; status=1; }
done
exit $status
