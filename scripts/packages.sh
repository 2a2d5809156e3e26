#!/usr/bin/env bash
# Builds the deb and rpm packages into DIR. The same source, version and SOURCE_DATE_EPOCH
# (default: the time of the commit) give the same bytes, wherever they are built.
# Usage: scripts/packages.sh VERSION [DIR]
set -euo pipefail
umask 022
out=$(mkdir -p "${2:-dist}" && cd "${2:-dist}" && pwd)
cd "$(dirname "$0")/.."

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}

# Package managers order versions: what git describes comes after its tag (+), a
# pre-release before its release (~), and commits without a tag before every release, by time.
VERSION=${1:?usage: scripts/packages.sh VERSION [DIR]}
VERSION=$(sed -E 's/^v([0-9])/\1/; s/-([0-9]+)-g([0-9a-f]+)/+\1.g\2/; s/-dirty$/+dirty/; s/-/~/g' <<<"$VERSION")
[[ $VERSION =~ ^[0-9]+\. ]] || VERSION="0~git$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y%m%d%H%M%S).$VERSION"
[[ $VERSION =~ ^[0-9A-Za-z.+~]+$ ]] || { echo "packages: $VERSION is no version that both deb and rpm take" >&2; exit 2; }
export VERSION SOURCE_DATE_EPOCH
PATH="$(go env GOPATH)/bin:$PATH" # nfpm, of the version that setup.sh pins

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pack() {
	local p room=$1 name=$2 source=$3
	export ARCH=$4 BIN=$work/$4 AGENTS=$work
	CGO_ENABLED=0 GOOS=linux GOARCH=$ARCH go build -trimpath -buildvcs=false \
		-ldflags "-s -w -buildid= -X github.com/understudy-dr/understudy/pkg/obs.Version=$VERSION" -o "$BIN/$name" "$source"
	for p in deb rpm; do
		nfpm package --config "installer/linux/$room/nfpm.yaml" --packager $p --target "$out" | grep created
	done
}
pack agent understudy-agent ./agent amd64
pack agent understudy-agent ./agent arm64
pack controlplane understudy ./controlplane amd64 # with the agents from above, to push them
