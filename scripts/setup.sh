#!/usr/bin/env bash
# Installs what a make target needs on Debian 12, as root, and nothing that is there
# already. Usage: scripts/setup.sh test|testbed|race|lint|packages|generate|demo|bench
set -euo pipefail

GOLANGCI=v2.15.0 # pinned: a linter that changes under us would make main red by itself
NFPM=v2.45.2       # pinned: two builds of one source give the same packages

declare -A packages=(
	[test]="e2fsprogs xfsprogs btrfs-progs dosfstools mount util-linux qemu-utils qemu-system-x86 ovmf libnbd-bin sqlite3 mmdebstrap rpm openssh-server sudo curl passwd"
	[testbed]="postgresql-15 qemu-system-x86 grub-common grub-pc-bin netcat-openbsd"
	[race]="gcc libc6-dev"
	[lint]=""
	[packages]="git"
	[generate]="clang-19 llvm-19 libbpf-dev"
	[demo]="e2fsprogs xfsprogs mount util-linux"
	[bench]="e2fsprogs mount util-linux fio libnbd-bin nbdkit qemu-utils restic borgbackup"
)

target=${1:?usage: scripts/setup.sh test|testbed|race|lint|packages|generate|demo|bench}
[ -v "packages[$target]" ] || { echo "setup: unknown target $target" >&2; exit 2; }

missing=()
for p in ${packages[$target]}; do
	[ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "setup: ${missing[*]} must be installed; run as root, or: apt-get install ${missing[*]}" >&2
		exit 1
	fi
	echo "setup: installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	# Without lists, or with lists that name versions no longer there, update first.
	apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null 2>&1 ||
		{ apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null; }
fi

if [ "$target" = lint ] && ! golangci-lint version 2>/dev/null | grep -q "${GOLANGCI#v}"; then
	echo "setup: building golangci-lint $GOLANGCI"
	go install "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$GOLANGCI"
fi

if [ "$target" = test ] || [ "$target" = packages ]; then
	bin=$(go env GOPATH)/bin/nfpm
	go version -m "$bin" 2>/dev/null | grep -q "nfpm/v2[[:space:]]$NFPM" || {
		echo "setup: building nfpm $NFPM"
		CGO_ENABLED=0 go install "github.com/goreleaser/nfpm/v2/cmd/nfpm@$NFPM"
	}
fi
