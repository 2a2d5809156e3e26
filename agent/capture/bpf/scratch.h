/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The state of a copy, per CPU. Kept in a map and not on the stack, so that the
 * verifier does not follow its values through the loops.
 */
#pragma once

#include "bio.h"

#define SECTOR 512
#define DEPTH 4 /* a write submitted by an interrupt may interrupt a copy */

struct scratch {
	struct record head;
	struct walk walk;
	__u32 bytes;    /* of the bio, not yet in the ring */
	__u32 at;       /* bytes in the record that is being filled */
	__u32 gathered; /* bytes in sector */
	__u8 sector[4 * SECTOR]; /* one is used; the verifier must see that it cannot overflow */
};

struct depth {
	__u32 depth;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, DEPTH);
	__type(key, __u32);
	__type(value, struct scratch);
} scratches SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct depth);
} depths SEC(".maps");

static __always_inline struct scratch *scratch_begin(__u32 depth, struct bio *bio, struct record *head)
{
	struct scratch *s = bpf_map_lookup_elem(&scratches, &depth);

	if (!s)
		return NULL;
	s->head = *head;
	s->bytes = head->bytes;
	s->gathered = 0;
	walk_begin(&s->walk, bio);
	return s;
}
