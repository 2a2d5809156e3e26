#!/bin/sh
# Compiles the eBPF programs of agent/capture/bpf and writes their Go bindings.
# The objects are committed, so that a build needs no clang; this script needs
# exactly the compiler below, or the objects differ for no reason.
#
#   apt-get install clang-19 llvm-19 libbpf-dev
#
# (Debian 12: clang-19 and llvm-19 1:19.1.7-3~deb12u1, libbpf-dev 1:1.1.2-0+deb12u1)
set -eu
cd "$(dirname "$0")/.."

want='19.1.7'
have=$(clang-19 --version 2>/dev/null | sed -n 's/.*clang version \([0-9.]*\).*/\1/p')
if [ "$have" != "$want" ]; then
	echo "generate: clang-19 is ${have:-missing}, want $want: apt-get install clang-19 llvm-19 libbpf-dev (Debian 12)" >&2
	exit 1
fi
if [ ! -e /usr/include/bpf/bpf_helpers.h ]; then
	echo "generate: /usr/include/bpf is missing: apt-get install libbpf-dev (Debian 12)" >&2
	exit 1
fi
exec go generate ./agent/capture/bpf
