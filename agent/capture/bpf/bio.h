/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Reading a bio, on any kernel. */
#pragma once

#include "layout.h"
#include <bpf/bpf_core_read.h>

static __always_inline struct gendisk *bio_disk(struct bio *bio)
{
	if (bpf_core_field_exists(bio->bi_bdev))
		return bio->bi_bdev->bd_disk;
	return ((struct bio___disk *)bio)->bi_disk;
}

static __always_inline __u32 disk_dev(struct gendisk *disk)
{
	return (__u32)disk->major << 20 | (__u32)disk->first_minor;
}

static __always_inline __u32 bio_done(struct bio *bio)
{
	if (bpf_core_field_exists(bio->bi_iter.bi_bvec_done))
		return bio->bi_iter.bi_bvec_done;
	return ((struct bio___offset *)bio)->bi_iter.bi_offset;
}

/* Encrypted on its way to the disk: the data in the bio is not what the disk will hold. */
static __always_inline bool encrypted_below(struct bio *bio)
{
	return bpf_core_field_exists(bio->bi_crypt_context) && bio->bi_crypt_context;
}

/* struct bio_vec, the same on every kernel; the agent checks that against BTF. */
struct vec {
	__u64 page;
	__u32 len;
	__u32 offset;
};

/* A walk over the bytes that a bio has yet to transfer. */
struct walk {
	__u64 vec;     /* where the next vector lies */
	__u64 address; /* of the next byte */
	__u32 here;    /* bytes that follow at address */
	__u32 skip;    /* bytes already done of the next vector */
	__u32 left;    /* bytes of the bio after what is here */
};

static __always_inline void walk_begin(struct walk *walk, struct bio *bio)
{
	walk->vec = (__u64)bio->bi_io_vec + bio->bi_iter.bi_idx * sizeof(struct vec);
	walk->skip = bio_done(bio);
	walk->left = bio->bi_iter.bi_size;
	walk->here = 0;
}

/*
 * Goes on to the next vector. Its pages lie one after the other in the linear
 * map, however many there are. False if the vector cannot be read.
 */
static __always_inline bool walk_next(struct walk *walk)
{
	struct vec vec;

	if (bpf_probe_read_kernel(&vec, sizeof(vec), (void *)walk->vec))
		return false;
	if (vec.len <= walk->skip)
		return false;
	walk->address = linear_base + (vec.page >> page_struct_shift << page_shift) +
			vec.offset + walk->skip;
	walk->here = vec.len - walk->skip;
	if (walk->here > walk->left)
		walk->here = walk->left;
	walk->left -= walk->here;
	walk->skip = 0;
	walk->vec += sizeof(vec);
	return true;
}
