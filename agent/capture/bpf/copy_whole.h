/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Copying a bio into the ring, kernels from 6.16: records of the bio's own size,
 * filled segment by segment through bpf_probe_read_kernel_dynptr.
 */
#pragma once

#include "scratch.h"

#define RECORD_MAX (1 << 20)   /* bytes of one record; a longer bio is continued */
#define RECORDS_MAX 4096       /* of one bio: 4 GiB */
#define SEGMENTS_MAX (1 << 18) /* of one record: memory aligned to four bytes */

struct bpf_iter_num {
	__u64 opaque;
} __attribute__((aligned(8)));

extern int bpf_iter_num_new(struct bpf_iter_num *it, int start, int end) __ksym __weak;
extern int *bpf_iter_num_next(struct bpf_iter_num *it) __ksym __weak;
extern void bpf_iter_num_destroy(struct bpf_iter_num *it) __ksym __weak;
extern int bpf_probe_read_kernel_dynptr(struct bpf_dynptr *to, __u64 off, __u64 size,
					const void *from) __ksym __weak;

/* Fills one reserved record; 0 or the cause of the failure plus one. */
static __always_inline int fill(struct bpf_dynptr *to, struct scratch *s)
{
	struct bpf_iter_num it;
	int result = CAUSE_TOO_LONG + 1;

	s->at = 0;
	bpf_iter_num_new(&it, 0, SEGMENTS_MAX);
	while (bpf_iter_num_next(&it)) {
		__u32 n = s->head.bytes - s->at;

		if (!s->walk.here && !walk_next(&s->walk)) {
			result = CAUSE_READ_FAULT + 1;
			break;
		}
		if (n > s->walk.here)
			n = s->walk.here;
		if (bpf_probe_read_kernel_dynptr(to, sizeof(struct record) + s->at, n,
						 (void *)s->walk.address)) {
			result = CAUSE_READ_FAULT + 1;
			break;
		}
		s->walk.address += n;
		s->walk.here -= n;
		s->at += n;
		if (s->at >= s->head.bytes) {
			result = 0;
			break;
		}
	}
	bpf_iter_num_destroy(&it);
	return result;
}

/* Copies the next record; 0 or the cause of the failure plus one. */
static __always_inline int copy_record(struct scratch *s)
{
	struct bpf_dynptr to;
	int failed;

	s->head.bytes = s->bytes > RECORD_MAX ? RECORD_MAX : s->bytes;
	s->bytes -= s->head.bytes;
	s->head.flags = s->bytes ? RECORD_MORE : 0;
	if (bpf_ringbuf_reserve_dynptr(&ring, sizeof(s->head) + s->head.bytes, 0, &to)) {
		bpf_ringbuf_discard_dynptr(&to, WAKE_FIRST);
		return CAUSE_RING_FULL + 1;
	}
	bpf_dynptr_write(&to, 0, &s->head, sizeof(s->head), 0);
	failed = fill(&to, s);
	if (failed)
		bpf_ringbuf_discard_dynptr(&to, WAKE_FIRST);
	else
		bpf_ringbuf_submit_dynptr(&to, WAKE_FIRST);
	s->head.sector += s->head.bytes / SECTOR;
	return failed;
}

/* Copies the bio's data behind records that begin with head. */
static __always_inline int copy_whole(struct bio *bio, struct record *head, __u32 depth)
{
	struct scratch *s = scratch_begin(depth, bio, head);
	struct bpf_iter_num it;
	int result = CAUSE_TOO_LONG + 1;

	if (!s)
		return CAUSE_NESTED + 1;
	bpf_iter_num_new(&it, 0, RECORDS_MAX);
	while (bpf_iter_num_next(&it)) {
		result = copy_record(s);
		if (result || !s->bytes)
			break;
		result = CAUSE_TOO_LONG + 1;
	}
	bpf_iter_num_destroy(&it);
	return result;
}
