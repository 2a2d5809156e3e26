/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The dirty maps and the excluded ranges. */
#pragma once

#include "layout.h"

/* A granule is a bit, or a byte where the kernel has no atomic OR: before 5.12. */
enum granules { BITS, BYTES };

/* The longest bio, 4 GiB of discards, in chunks of 4 KiB granules, one byte each. */
#define MAX_CHUNKS 260

/* Sets bits of one word; spares the locked instruction where they are set already. */
static __always_inline void mark_word(__u64 *words, __u32 at, __u64 mask)
{
	__u64 *word = &words[at & (CHUNK_WORDS - 1)];

	if ((*(volatile __u64 *)word & mask) != mask)
		__sync_fetch_and_or(word, mask);
}

static __always_inline int mark_bits(__u64 *words, __u32 first, __u32 last)
{
	__u32 at = first >> 6, between = (last >> 6) - at;
	__u64 head = ~0ULL << (first & 63), tail = ~0ULL >> (63 - (last & 63));

	if (!between) {
		mark_word(words, at, head & tail);
		return 0;
	}
	mark_word(words, at, head);
	mark_word(words, at + between, tail);
	for (__u32 i = 1; i < CHUNK_WORDS; i++) {
		OPAQUE(between);
		if (i >= between)
			break;
		*(volatile __u64 *)&words[(at + i) & (CHUNK_WORDS - 1)] = ~0ULL;
	}
	return 0;
}

static __always_inline int mark_bytes(__u8 *bytes, __u32 first, __u32 last)
{
	__u32 more = last - first, between = (last >> 3) - (first >> 3);

	/* The words at both ends by bytes, the others whole: ones over ones are ones. */
	for (__u32 i = 0; i < 8; i++) {
		OPAQUE(more);
		if (i > more)
			break;
		*(volatile __u8 *)&bytes[(first + i) & (CHUNK_BYTES - 1)] = 1;
		*(volatile __u8 *)&bytes[(last - i) & (CHUNK_BYTES - 1)] = 1;
	}
	for (__u32 i = 1; i < CHUNK_WORDS; i++) {
		OPAQUE(between);
		if (i >= between)
			break;
		*(volatile __u64 *)&bytes[((first >> 3) + i) * 8 & (CHUNK_BYTES - 8)] =
			0x0101010101010101ULL;
	}
	return 0;
}

static __always_inline void *chunk_at(__u32 index, __u32 chunk)
{
	void *map = bpf_map_lookup_elem(&dirty, &index);

	return map ? bpf_map_lookup_elem(map, &chunk) : NULL;
}

/*
 * Functions with loops are global, so that the verifier walks each once and not once
 * per caller; there are two of each, since it does not even suffer to see the other's
 * instructions.
 *
 * mark_chunk_FORM marks granules first..last of one chunk, mark_FORM sectors of a
 * disk in the current generation. Both return non-zero if the map ends before.
 */
#define DEFINE_MARK(FORM, SHIFT)                                                               \
	__noinline int mark_chunk_##FORM(__u32 index, __u32 chunk, __u32 first, __u32 last)    \
	{                                                                                      \
		void *map = chunk_at(index, chunk);                                            \
                                                                                               \
		return map ? mark_##FORM(map, first, last) : 1;                                \
	}                                                                                      \
                                                                                               \
	__noinline int mark_sectors_##FORM(__u32 slot, __u32 shift, __u64 sector, __u32 sectors) \
	{                                                                                      \
		__u64 first = sector >> (shift & 63), last = (sector + sectors - 1) >> (shift & 63); \
		__u32 chunk = first >> SHIFT, more = (last >> SHIFT) - chunk;                  \
		__u32 index = slot * 2 + (*(volatile __u64 *)&self.generation & 1);            \
		__u32 end = (1U << SHIFT) - 1, from = first & end;                             \
                                                                                               \
		for (__u32 i = 0; i < MAX_CHUNKS; i++) {                                       \
			OPAQUE(more);                                                          \
			if (i >= more)                                                         \
				return mark_chunk_##FORM(index, chunk + i, from, last & end);  \
			if (mark_chunk_##FORM(index, chunk + i, from, end))                    \
				return 1;                                                      \
			from = 0;                                                              \
		}                                                                              \
		return 1;                                                                      \
	}

DEFINE_MARK(bits, 15)
DEFINE_MARK(bytes, 12)

/* Marks the sectors dirty in the current generation; false if the map ends before. */
static __always_inline bool mark(__u32 slot, struct disk *disk, __u64 sector, __u32 sectors,
				 enum granules form)
{
	return form == BITS ? !mark_sectors_bits(slot, disk->granule_shift, sector, sectors) :
			      !mark_sectors_bytes(slot, disk->granule_shift, sector, sectors);
}

/*
 * One step of the search below: at + step, if the range there begins at or before
 * sector, else at. A function so that the verifier forgets which way it went, and
 * does not walk every way through the search.
 */
__noinline __u32 excluded_step(__u32 slot, __u32 at, __u32 step, __u64 sector)
{
	void *map = bpf_map_lookup_elem(&excludes, &slot);
	struct range *range;

	at += step;
	range = map ? bpf_map_lookup_elem(map, &at) : NULL;
	return range && range->first <= sector ? at : at - step;
}

/* Whether all of first..last lies in one excluded range: sorted, disjoint, from 1 on. */
__noinline int excluded(__u32 slot, __u64 first, __u64 last)
{
	void *map = bpf_map_lookup_elem(&excludes, &slot);
	struct range *range;
	__u32 at = 0;

	for (__u32 step = MAX_EXCLUDES / 2; step; step /= 2)
		at = excluded_step(slot, at, step, first);
	range = map && at ? bpf_map_lookup_elem(map, &at) : NULL;
	return range && range->first <= first && last <= range->last;
}
