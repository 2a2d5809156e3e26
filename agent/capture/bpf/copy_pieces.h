/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Copying a bio into the ring, kernels before 6.16: a reservation must have a size
 * known to the verifier, so each record is one piece of 512, 4K, 16K, 64K or 256K
 * bytes that lie together in memory. A step is a global function, so that the
 * verifier of 5.10 walks it once instead of once per turn of the loop.
 */
#pragma once

#include "scratch.h"

#define PIECES_MAX 4096

#define DEFINE_PUT(SIZE)                                                                       \
	static __always_inline int put_##SIZE(struct scratch *s, const void *from)             \
	{                                                                                      \
		struct {                                                                       \
			struct record head;                                                    \
			__u8 data[SIZE];                                                       \
		} *record = bpf_ringbuf_reserve(&ring, sizeof(*record), 0);                    \
                                                                                               \
		if (!record)                                                                   \
			return CAUSE_RING_FULL + 1;                                            \
		s->bytes -= SIZE;                                                              \
		record->head = s->head;                                                        \
		record->head.bytes = SIZE;                                                     \
		record->head.flags = s->bytes ? RECORD_MORE : 0;                               \
		s->head.sector += SIZE / SECTOR;                                               \
		if (bpf_probe_read_kernel(record->data, SIZE, from)) {                         \
			bpf_ringbuf_discard(record, WAKE_FIRST);                               \
			return CAUSE_READ_FAULT + 1;                                           \
		}                                                                              \
		bpf_ringbuf_submit(record, WAKE_FIRST);                                        \
		return 0;                                                                      \
	}

DEFINE_PUT(512)
DEFINE_PUT(4096)
DEFINE_PUT(16384)
DEFINE_PUT(65536)
DEFINE_PUT(262144)

#define PUT(SIZE)                                                                              \
	if (s->walk.here >= SIZE) {                                                            \
		void *from = (void *)s->walk.address;                                          \
                                                                                               \
		s->walk.address += SIZE;                                                       \
		s->walk.here -= SIZE;                                                          \
		return put_##SIZE(s, from);                                                    \
	}

/* Memory need only be aligned to four bytes: a sector may lie across vectors. */
static __always_inline int gather(struct scratch *s)
{
	__u32 n = s->walk.here, at = s->gathered;

	if (n > SECTOR - at)
		n = SECTOR - at;
	/* Bounds that the verifier sees, and the compiler does not know already. */
	OPAQUE(n);
	OPAQUE(at);
	n &= 2 * SECTOR - 1;
	at &= SECTOR - 1;
	if (bpf_probe_read_kernel(s->sector + at, n, (void *)s->walk.address))
		return CAUSE_READ_FAULT + 1;
	s->walk.address += n;
	s->walk.here -= n;
	s->gathered = at + n;
	if (s->gathered < SECTOR)
		return 0;
	s->gathered = 0;
	return put_512(s, s->sector);
}

static __always_inline int put_next(struct scratch *s)
{
	if (!s->walk.here && !walk_next(&s->walk))
		return CAUSE_READ_FAULT + 1;
	if (s->gathered)
		return gather(s);
	PUT(262144)
	PUT(65536)
	PUT(16384)
	PUT(4096)
	PUT(512)
	return gather(s);
}

/*
 * Copies the next piece: 0 if more is left, -1 if that was all, or the cause of the
 * failure plus one. One answer, since the verifier keeps every turn's way out open.
 */
__noinline int copy_piece(__u32 depth)
{
	struct scratch *s = bpf_map_lookup_elem(&scratches, &depth);
	int failed;

	if (!s)
		return CAUSE_NESTED + 1;
	failed = put_next(s);
	if (failed)
		return failed;
	return s->bytes ? 0 : -1;
}

/* Copies the bio's data behind records that begin with head. */
static __always_inline int copy_pieces(struct bio *bio, struct record *head, __u32 depth)
{
	if (!scratch_begin(depth, bio, head))
		return CAUSE_NESTED + 1;
	for (int i = 0; i < PIECES_MAX; i++) {
		int result = copy_piece(depth);

		if (result)
			return result < 0 ? 0 : result;
	}
	return CAUSE_TOO_LONG + 1;
}
