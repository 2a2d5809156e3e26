/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The dirty maps and the excluded ranges. */
#pragma once

#include "layout.h"

/* One chunk of a dirty map, in granules. */
#define CHUNK_SHIFT (atomic_or ? 15 : 12)

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
	for (__u32 i = 1; i < CHUNK_WORDS && i < between; i++)
		*(volatile __u64 *)&words[(at + i) & (CHUNK_WORDS - 1)] = ~0ULL;
	return 0;
}

static __always_inline int mark_bytes(__u8 *bytes, __u32 first, __u32 last)
{
	for (__u32 i = 0; i < CHUNK_BYTES && i <= last - first; i++)
		*(volatile __u8 *)&bytes[(first + i) & (CHUNK_BYTES - 1)] = 1;
	return 0;
}

/*
 * Marks granules first..last of one chunk. Global, so that the verifier walks its
 * loop once and not once per caller. Non-zero if the map has no such chunk.
 */
__noinline int mark_chunk(__u32 index, __u32 chunk, __u32 first, __u32 last)
{
	void *map = bpf_map_lookup_elem(&dirty, &index);

	if (!map)
		return 1;
	void *bits = bpf_map_lookup_elem(map, &chunk);
	if (!bits)
		return 1;
	return atomic_or ? mark_bits(bits, first, last) : mark_bytes(bits, first, last);
}

/* Marks the sectors dirty in the current generation; false if the map ends before. */
static __always_inline bool mark(__u32 slot, struct disk *disk, __u64 sector, __u32 sectors)
{
	__u32 shift = disk->granule_shift & 63, last_in_chunk = (1U << CHUNK_SHIFT) - 1;
	__u64 first = sector >> shift, last = (sector + sectors - 1) >> shift;
	__u32 chunk = first >> CHUNK_SHIFT, more = (last >> CHUNK_SHIFT) - chunk;
	__u32 index = slot * 2 + (*(volatile __u64 *)&self.generation & 1);
	__u32 from = first & last_in_chunk;

	for (__u32 i = 0; i < MAX_CHUNKS; i++) {
		__u32 to = i == more ? last & last_in_chunk : last_in_chunk;

		if (mark_chunk(index, chunk + i, from, to))
			return false;
		if (i == more)
			return true;
		from = 0;
	}
	return false;
}

/*
 * Whether all of first..last lies in one excluded range. Ranges are sorted and
 * disjoint; entry 0 holds their number. Global for the verifier's sake.
 */
__noinline int excluded(__u32 slot, __u64 first, __u64 last)
{
	void *map = bpf_map_lookup_elem(&excludes, &slot);
	__u32 low = 0, high, zero = 0;
	struct range *range;

	if (!map)
		return 0;
	range = bpf_map_lookup_elem(map, &zero);
	if (!range)
		return 0;
	/* The answer, the last range that begins at or before first, is in [low, high). */
	high = range->first + 1;
	for (int i = 0; i < 13; i++) { /* log2(MAX_EXCLUDES) + 1 */
		__u32 middle = (low + high) / 2;

		if (low + 1 >= high)
			break;
		range = bpf_map_lookup_elem(map, &middle);
		if (!range)
			return 0;
		if (range->first <= first)
			low = middle;
		else
			high = middle;
	}
	if (!low)
		return 0;
	range = bpf_map_lookup_elem(map, &low);
	return range && range->first <= first && last <= range->last;
}
