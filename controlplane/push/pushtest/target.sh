#!/bin/sh
# A machine to push to, as process 1 of its own mount and process namespaces: the kernel,
# the programs and the network of this one, with its own /etc, /var, /usr, homes and
# temporary directories. Its files come in $dir; sshd stays in the foreground.
set -e
mount --make-rprivate /
mount -t tmpfs -o size=2G tmpfs /mnt
cp -r "$dir" /mnt/files
# What others have mounted, this would hold. The table is read as a whole: it changes
# under who takes from it.
cat /proc/self/mounts >/mnt/mounts
while read -r _ at _; do
	case $at in /tmp/* | */understudy-lab-*) umount -l "$at" 2>/dev/null || true ;; esac
done </mnt/mounts
mount -t proc proc /proc
for own in etc var usr root home; do
	mkdir -p "/mnt/own/$own" "/mnt/work/$own"
	mount -t overlay -o "lowerdir=/$own,upperdir=/mnt/own/$own,workdir=/mnt/work/$own" overlay "/$own"
done
mount -t tmpfs -o "size=$temp" tmpfs /tmp
mount -t tmpfs -o "size=$temp" tmpfs /var/tmp
mount -t tmpfs -o "size=$temp" tmpfs /root
mount -t tmpfs -o "size=$journal" tmpfs /var/lib
mount -t tmpfs tmpfs /run
mount -t bpf bpf /sys/fs/bpf 2>/dev/null || true
# The packages of this machine are not this one's.
mkdir -p /var/lib/dpkg/info /var/lib/dpkg/updates
touch /var/lib/dpkg/status /var/lib/dpkg/available
mkdir -p /run/sshd /run/systemd/system /etc/ssh/keys
install -m 600 /mnt/files/host_key /etc/ssh/target_key
id=60000
for user in free asker tied guest; do
	id=$((id + 1))
	echo "$user:x:$id:$id::/home/$user:/bin/sh" >>/etc/passwd
	echo "$user:x:$id:" >>/etc/group
	echo "$user:*:20000:0:99999:7:::" >>/etc/shadow
	install -d -o "$id" -g "$id" "/home/$user"
done
for user in root free asker tied guest; do
	install -m 644 /mnt/files/login.pub "/etc/ssh/keys/$user"
	printf '%s:%s\n' "$user" "$(cat /mnt/files/password)"
done | chpasswd --crypt-method SHA512
rm -rf /mnt/files
cat >/etc/sudoers.d/target <<-END
	Defaults lecture=never
	Defaults:tied requiretty
	free ALL=(ALL) NOPASSWD: ALL
	tied ALL=(ALL) NOPASSWD: ALL
	asker ALL=(ALL) ALL
END
cat >/etc/ssh/target_config <<-END
	Port $port
	ListenAddress 127.0.0.1
	HostKey /etc/ssh/target_key
	AuthorizedKeysFile /etc/ssh/keys/%u
	PermitRootLogin yes
	PasswordAuthentication yes
	UsePAM no
	UseDNS no
	PidFile none
END
exec /usr/sbin/sshd -D -e -f /etc/ssh/target_config
