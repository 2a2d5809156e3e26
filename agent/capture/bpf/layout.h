/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What the programs share with the agent: the record in the ring, the state, the
 * tracked disks, the dirty maps. The maps are pinned and outlive the agent, so a
 * change of anything here is a change of LAYOUT: an agent that finds another
 * layout pinned must start anew.
 */
#pragma once

#include "kernel.h"
#include <bpf/bpf_helpers.h>

#define LAYOUT 2
#define MAX_DISKS 256
#define MAX_EXCLUDES 4096 /* per disk; a power of two */
#define CHUNK_BYTES 4096
#define CHUNK_WORDS (CHUNK_BYTES / 8)

/* Why a write is not in the ring. The order is known to the agent. */
enum cause {
	CAUSE_RING_FULL,   /* no room: the agent or its spool is too slow */
	CAUSE_READ_FAULT,  /* a page of the bio could not be read */
	CAUSE_TOO_LONG,    /* more segments than the walk may take */
	CAUSE_NESTED,      /* interrupted deeper than there is scratch space */
	CAUSE_OPERATION,   /* WRITE_SAME, ZONE_APPEND, inline encryption: its data is not in the bio */
	CAUSE_BEYOND_END,  /* past the size at which the disk was tracked */
	CAUSE_CHANGED,     /* another device answers under the tracked number */
	CAUSE_PASSTHROUGH, /* a command that went around the block layer's writes */
	CAUSE_REFUSED,     /* the device failed it: what it holds there is unknown */
	CAUSE_RECURSION,   /* the kernel skipped the program: seen by the agent */
	CAUSE_AUDIT,       /* more was issued than submitted: seen by the agent */
};

#define CAUSES 16 /* room for more without a change of layout */

enum {
	RECORD_WRITE = 1,
	RECORD_DISCARD = 2,
	RECORD_ZERO = 3,
};

/* The record that follows continues the same bio. */
#define RECORD_MORE 1

/* A record's data, for a write, follows it in the ring: bytes of it. */
struct record {
	__u64 time; /* ns since boot, suspend included */
	__u64 lost; /* self.lost as read at the hook's entry */
	__u64 sector;
	__u32 bytes;
	__u32 cpu;
	__u16 slot;
	__u8 op;
	__u8 flags;
	__u32 unused;
};

/*
 * The first line is read by every write and written by the agent alone, but for
 * lost, which is written when something is lost.
 */
struct state {
	__u64 layout;
	__u64 armed; /* data is captured while lost == armed */
	__u64 lost;
	__u64 generation; /* which of a disk's two dirty maps is current: 0 or 1 */
	__u64 ring_id;    /* drawn when the ring was made */
	__u64 misses;     /* recursion misses that the agent has made a loss of */
	__u64 cut;        /* ring position from which on nothing is to be trusted */
	__u64 bits;       /* a dirty map holds bits, not bytes */
	/* See rescue.h. */
	__u64 rescued;    /* bios that the kprobe did not see */
	__u64 untold;     /* bios that it saw and could not say so */
	__u64 rests;      /* rests of split bios that it did not see */
	__u64 others;     /* bios that came once more for any other cause */
	__u64 causes[CAUSES];
	__u64 causes_armed[CAUSES]; /* causes as they stood when the agent armed */
};

struct disk {
	__u64 diskseq; /* 0 where the kernel has none */
	__u64 sectors;
	__u64 exclude_first, exclude_last; /* hull of the excluded sectors */
	__u32 excludes;
	__u32 granule_shift; /* log2 of the sectors that one dirty bit stands for */
	__u32 flags;
	__u32 audited; /* audit_base is known */
	__u64 audit_base; /* submitted - issued, with nothing in flight; the agent's */
	/* Everything on the disk is in doubt, in this generation of the dirty map. */
	__u64 suspect[2];
};

#define DISK_TRACKED 1
#define DISK_NVME 2 /* look at the opcode of passthrough commands */

/* Bytes of WRITE: entering the block layer, and handed to the driver. */
struct counters {
	__u64 submitted;
	__u64 issued;
};

/* First and last sector. Entry 0 is unused. */
struct range {
	__u64 first, last;
};

struct state self SEC(".data.state") = { .layout = LAYOUT, .lost = 1, .cut = ~0ULL };
struct disk disks[MAX_DISKS] SEC(".data.disks");

/* Facts about the running kernel, set by the agent before the programs load. */
const volatile __u64 linear_base;  /* K: address = K + (page >> page_struct_shift << page_shift) */
const volatile __u32 page_struct_shift = 6;
const volatile __u32 page_shift = 12;
const volatile __u32 trace_completion; /* the flag's mask in bi_flags */
const volatile bool arm64;             /* else amd64: where a kprobe finds its arguments */

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 << 20);
} ring SEC(".maps");

/* dev_t of a whole disk to its slot. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_DISKS);
	__type(key, __u32);
	__type(value, __u32);
} devices SEC(".maps");

/* What the agent knows of a slot, for its successor: JSON, zero-padded. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_DISKS);
	__type(key, __u32);
	__type(value, __u8[1024]);
} names SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_DISKS);
	__type(key, __u32);
	__type(value, struct counters);
} counts SEC(".maps");

/*
 * Dirty maps: index 2*slot+generation. The last index is nobody's: the agent
 * updates it to have the kernel wait until no program runs any more that began
 * before.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 2 * MAX_DISKS + 1);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
		__uint(max_entries, 1);
		__type(key, __u32);
		__type(value, __u8[CHUNK_BYTES]);
	});
} dirty SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, MAX_DISKS);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(map_flags, BPF_F_INNER_MAP);
		__uint(max_entries, 1);
		__uint(key_size, sizeof(__u32));
		__uint(value_size, sizeof(struct range));
	});
} excludes SEC(".maps");

/*
 * Keeps the compiler from knowing a value, and so from turning a loop's counter,
 * which the verifier can follow, into another, which it cannot.
 */
#define OPAQUE(x) asm volatile("" : "+r"(x))

static __always_inline void lose(__u32 cause)
{
	__sync_fetch_and_add(&self.causes[cause % CAUSES], 1);
	__sync_fetch_and_add(&self.lost, 1);
}
