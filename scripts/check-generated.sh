#!/bin/sh
# Proves that the committed eBPF objects and bindings are what their source makes,
# byte for byte. Leaves the work tree as it was.
set -eu
cd "$(dirname "$0")/.."

dir=agent/capture/bpf
kept=$(mktemp -d)
trap 'cp -p "$kept"/* "$dir"/; rm -rf "$kept"' EXIT INT TERM
cp -p "$dir"/*_bpfel.go "$dir"/*_bpfel.o "$kept"/
scripts/generate.sh

status=0
for f in "$kept"/*; do
	if ! cmp "$f" "$dir/${f##*/}"; then
		status=1
	fi
done
if [ $status -ne 0 ]; then
	echo "check-generated: the objects do not match their source: run scripts/generate.sh and commit" >&2
fi
exit $status
