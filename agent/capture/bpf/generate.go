// Package bpf holds the eBPF programs of capture: the C, and the objects compiled
// from it, committed together so that a build needs no clang. scripts/generate.sh
// names the compiler and makes them anew.
//
// The C is licensed GPL-2.0-only or BSD-2-Clause, as the kernel's helpers ask.
package bpf

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -tags linux -target bpfel -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -mcpu=v3 -Wall -Werror" -type record Capture capture.bpf.c
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -tags linux -target bpfel -cc clang-19 -strip llvm-strip-19 -cflags "-O2 -g -mcpu=v3 -Wall -Werror" Kernel kernel.bpf.c
